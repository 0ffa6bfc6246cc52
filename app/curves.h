// Curves of a run as pictures for a page.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "app/metrics.h"
#include "notebooks-cpp/nb.hpp"

namespace facet::app {

/// At most four points for each of `columns` equal stretches of x: the first, the lowest, the highest and the last value there, so that
/// what a picture of that width shows does not change. What is not finite leaves a gap where nothing else is in its stretch.
Points decimated(const Points&, int columns = 600);

/// The named series that the run has (name, what the legend calls it) in one picture; "" when it has none with a finite value.
std::string curves_html(const Series&, const std::vector<std::pair<std::string, std::string>>& names, const nb::Axes&);

}  // namespace facet::app

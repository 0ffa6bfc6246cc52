// A curve as text, for logs and terminals without a browser.
#pragma once
#include <string>
#include <utility>
#include <vector>

namespace facet::app {

using Points = std::vector<std::pair<double, double>>;  ///< x ascending

/// Rows of text: the mean of every column as `*`, its range as `.`; axis labels at the left and below. Values that are not
/// finite are drawn as `x` on the upper edge. `log_y` when the values span decades and are positive.
std::string plot(const Points&, int width = 72, int height = 14, bool log_y = false);

/// "0.412", "1.2e-05", "12345": about four digits.
std::string short_number(double);

}  // namespace facet::app

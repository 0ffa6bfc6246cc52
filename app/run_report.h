// A training run as one page: how it went, what it said, where time and memory went, what was asked.
#pragma once
#include <string>

namespace facet::app {

/// Of a run's folder, finished or not. Throws Error(Kind::file) when there is no run in it. Everything the folder holds is shown as text.
std::string run_page(const std::string& folder);

}  // namespace facet::app

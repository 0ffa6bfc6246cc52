#include "app/curves.h"

#include <algorithm>
#include <cmath>

namespace facet::app {

Points decimated(const Points& points, int columns) {
  if (points.size() <= static_cast<size_t>(4 * columns)) return points;
  const double first = points.front().first, span = std::max(points.back().first - first, 1e-300);
  const auto column_of = [&](double x) { return static_cast<int>((x - first) / span * columns); };
  Points out;
  for (size_t begin = 0, end; begin < points.size(); begin = end) {
    const int column = column_of(points[begin].first);
    std::vector<size_t> keep;
    size_t low = points.size(), high = low;
    for (end = begin; end < points.size() && column_of(points[end].first) == column; ++end) {
      if (!std::isfinite(points[end].second)) continue;
      if (keep.empty()) keep.push_back(end), low = high = end;
      if (points[end].second < points[low].second) low = end;
      if (points[end].second > points[high].second) high = end;
      keep.resize(1);
      keep.push_back(end);
    }
    if (keep.empty()) {
      out.push_back(points[begin]);
      continue;
    }
    keep.push_back(low), keep.push_back(high);
    std::sort(keep.begin(), keep.end());
    keep.erase(std::unique(keep.begin(), keep.end()), keep.end());
    for (const size_t i : keep) out.push_back(points[i]);
  }
  return out;
}

std::string curves_html(const Series& s, const std::vector<std::pair<std::string, std::string>>& names, const nb::Axes& axes) {
  std::vector<nb::Curve> curves;
  bool any = false;
  for (const auto& [name, shown] : names) {
    const auto it = s.points.find(name);
    if (it == s.points.end()) continue;
    nb::Curve c;
    c.name = shown;
    for (const auto& [x, y] : decimated(it->second)) {
      c.x.push_back(x), c.y.push_back(y);
      any = any || std::isfinite(y);
    }
    c.dots = c.x.size() == 1;  // a line of one point would not be seen
    curves.push_back(std::move(c));
  }
  return any ? "<div class=\"figure\">" + nb::plot_svg(curves, axes) + "</div>\n" : "";
}

}  // namespace facet::app

#include "app/plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace facet::app {

std::string short_number(double v) {
  if (v != 0 && (std::abs(v) < 1e-3 || std::abs(v) >= 1e7)) return fmt::format("{:.3g}", v);
  return v == std::floor(v) ? fmt::format("{:.0f}", v) : fmt::format("{:.4g}", v);
}

std::string plot(const Points& points, int width, int height, bool log_y) {
  const double inf = std::numeric_limits<double>::infinity();
  double low = inf, high = -inf;
  for (const auto& [x, y] : points)
    if (std::isfinite(y)) low = std::min(low, y), high = std::max(high, y);
  if (low > high) return "(no finite value)\n";
  log_y = log_y && low > 0;
  const auto scale = [&](double y) { return log_y ? std::log10(y) : y; };
  double bottom = scale(low), top = scale(high);
  if (top - bottom < 1e-12 * std::max(1.0, std::abs(top))) {  // a constant runs through the middle
    const double room = std::max(1e-12, 0.5 * std::abs(top));
    bottom -= room;
    top += room;
  }

  struct Column {
    double low, high, sum = 0;
    int count = 0;
    bool broken = false;
  };
  const double first = points.front().first, last = points.back().first, span = std::max(last - first, 1e-300);
  std::vector<Column> columns(width, Column{inf, -inf});
  for (const auto& [x, y] : points) {
    Column& c = columns[std::clamp(static_cast<int>((x - first) / span * (width - 1) + 0.5), 0, width - 1)];
    if (!std::isfinite(y)) {
      c.broken = true;
      continue;
    }
    const double s = scale(y);
    c.low = std::min(c.low, s);
    c.high = std::max(c.high, s);
    c.sum += s;
    ++c.count;
  }
  const auto row_of = [&](double s) { return std::clamp(static_cast<int>((top - s) / (top - bottom) * (height - 1) + 0.5), 0, height - 1); };
  std::vector<std::string> rows(height, std::string(width, ' '));
  for (int i = 0; i < width; ++i) {
    const Column& c = columns[i];
    if (c.count) {
      for (int r = row_of(c.high); r <= row_of(c.low); ++r) rows[r][i] = '.';
      rows[row_of(c.sum / c.count)][i] = '*';
    }
    if (c.broken) rows[0][i] = 'x';
  }
  std::string out;
  for (int r = 0; r < height; ++r) {
    const double s = top - (top - bottom) * r / (height - 1);
    const bool labelled = r % 4 == 0 || r == height - 1;
    out += fmt::format("{:>10} |{}", labelled ? short_number(log_y ? std::pow(10, s) : s) : "", rows[r]);
    out.erase(out.find_last_not_of(' ') + 1);
    out += '\n';
  }
  const std::string left = short_number(first), right = short_number(last);
  const int gap = std::max(1, width - static_cast<int>(left.size() + right.size()));
  return out + fmt::format("{:>10} +{}\n{:>12}{}{}{}\n", "", std::string(width, '-'), "", left, std::string(gap, ' '), right);
}

}  // namespace facet::app

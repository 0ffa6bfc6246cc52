// The pictures of lessons: small SVG without scripts or fonts.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "notebooks-cpp/nb.hpp"

namespace nb {

std::string escape(const std::string& text) {
  std::string out;
  for (char c : text) {
    if (c == '&') out += "&amp;";
    else if (c == '<') out += "&lt;";
    else if (c == '>') out += "&gt;";
    else if (c == '"') out += "&quot;";
    else out += c;
  }
  return out;
}

namespace {

// Mid tones: enough contrast on white and on near-black.
constexpr const char* hues[] = {"#3584c6", "#d9812c", "#2f9e63", "#d04a4a", "#8d6cc9", "#8a8f3c"};
const char* hue(size_t i) { return hues[i % std::size(hues)]; }

std::string number(double v) {
  std::string s = fmt::format("{:.1f}", v);
  if (s.ends_with(".0")) s.resize(s.size() - 2);
  return s == "-0" ? "0" : s;
}
std::string short_value(double v) {
  return std::abs(v) >= 1e3 && std::abs(v) < 1e6 ? fmt::format("{:.0f}", v) : fmt::format("{:.3g}", v);
}

// Code points; a byte that continues one has the form 10xxxxxx.
double text_width(const std::string& s, double size) {
  return 0.58 * size * static_cast<double>(std::count_if(s.begin(), s.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

std::string svg(double width, double height, const std::string& title, const std::string& body) {
  return fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\" role=\"img\" aria-label=\"{2}\" "
      "style=\"max-width:100%;height:auto\" fill=\"currentColor\" font-family=\"system-ui,sans-serif\" font-size=\"12\">\n{3}</svg>",
      number(width), number(height), escape(title), body);
}

std::string text(double x, double y, const std::string& s, const char* attributes = "") {
  return fmt::format("<text x=\"{}\" y=\"{}\"{}{}>{}</text>\n", number(x), number(y), *attributes ? " " : "", attributes, escape(s));
}
std::string line(double x1, double y1, double x2, double y2, double opacity) {
  return fmt::format("<line x1=\"{}\" y1=\"{}\" x2=\"{}\" y2=\"{}\" stroke=\"currentColor\" stroke-opacity=\"{}\"/>\n", number(x1),
                     number(y1), number(x2), number(y2), opacity);
}

/// One axis: values to pixels, and where its ticks stand.
struct Scale {
  bool log;
  double low = std::numeric_limits<double>::infinity(), high = -low;  // in log10 when log
  double from = 0, to = 1;                                           // pixels

  bool shows(double v) const { return std::isfinite(v) && (!log || v > 0); }
  double raw(double v) const { return log ? std::log10(v) : v; }
  void see(double v) {
    if (!shows(v)) return;
    low = std::min(low, raw(v));
    high = std::max(high, raw(v));
  }
  void settle() {
    if (low > high) low = 0, high = 1;
    if (high - low < 1e-12 * std::max(1.0, std::abs(high))) low -= 0.5, high += 0.5;
    const double room = 0.04 * (high - low);
    low -= room;
    high += room;
  }
  double at(double v) const { return from + (raw(v) - low) / (high - low) * (to - from); }

  std::vector<double> ticks() const {
    double step = std::pow(10, std::floor(std::log10((high - low) / 4)));
    for (double factor : {1.0, 2.0, 5.0, 10.0})
      if ((high - low) / (step * factor) <= 7) {
        step *= factor;
        break;
      }
    if (log) step = std::max(1.0, std::round(step));
    std::vector<double> out;
    for (double t = std::ceil(low / step - 1e-9) * step; t <= high + 1e-9 * step; t += step) out.push_back(std::abs(t) < 1e-9 * step ? 0 : t);
    return out;
  }
  std::string label(double tick) const {
    if (!log) return short_value(tick);
    return fmt::format("10<tspan dy=\"-4\" font-size=\"9\">{}</tspan>", static_cast<int>(tick));
  }
  double pixel(double tick) const { return from + (tick - low) / (high - low) * (to - from); }
};

}  // namespace

namespace {

constexpr double width = 640, height = 340, left = 66, right = 16, bottom = 46;  // of plots and bars

// One name of the legend, which stands above `top`; moves x on.
std::string legend_entry(double& x, double top, const std::string& name, size_t color) {
  const std::string box = fmt::format("<rect x=\"{}\" y=\"{}\" width=\"12\" height=\"4\" rx=\"2\" fill=\"{}\"/>\n", number(x), number(top - 15), hue(color));
  const std::string out = box + text(x + 17, top - 9, name);
  x += 17 + text_width(name, 12) + 18;
  return out;
}

// Lines across at the ticks of y, the two axes, and what they are called.
std::string frame(const Scale& x, const Scale& y, const Axes& axes) {
  std::string out;
  if (!axes.title.empty()) out += text(left, 18, axes.title, "font-weight=\"600\" font-size=\"13\"");
  for (double t : y.ticks()) {
    out += line(x.from, y.pixel(t), x.to, y.pixel(t), 0.13);
    out += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\n", number(x.from - 8), number(y.pixel(t) + 4), y.label(t));
  }
  out += line(x.from, y.from, x.to, y.from, 0.6) + line(x.from, y.from, x.from, y.to, 0.6);
  out += text((x.from + x.to) / 2, height - 8, axes.x, "text-anchor=\"middle\"");
  const double middle = (y.from + y.to) / 2;
  out += text(14, middle, axes.y, fmt::format("text-anchor=\"middle\" transform=\"rotate(-90 14 {})\"", number(middle)).c_str());
  return out;
}

}  // namespace

std::string bars_svg(const std::vector<std::string>& labels, const std::vector<Bars>& bars, const Axes& axes) {
  const bool legend = bars.size() > 1;
  const double top = (axes.title.empty() ? 12 : 30) + (legend ? 20 : 0);
  Scale x{false}, y{false};
  x.from = left, x.to = width - right;
  for (const Bars& b : bars)
    for (double v : b.values) y.see(v);
  y.settle();
  y.low = 0;  // columns stand on zero
  y.from = height - bottom, y.to = top;
  std::string out = frame(x, y, axes);
  const double slot = (x.to - x.from) / static_cast<double>(std::max<size_t>(1, labels.size()));
  const double column = 0.8 * slot / static_cast<double>(std::max<size_t>(1, bars.size()));
  for (size_t i = 0; i < labels.size(); ++i) {
    const double begin = x.from + slot * static_cast<double>(i);
    out += text(begin + slot / 2, y.from + 17, labels[i], "text-anchor=\"middle\"");
    for (size_t k = 0; k < bars.size(); ++k) {
      if (i >= bars[k].values.size() || !y.shows(bars[k].values[i])) continue;
      const double v = bars[k].values[i], at = begin + 0.1 * slot + column * static_cast<double>(k);
      out += fmt::format("<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"{}\"><title>{}</title></rect>\n", number(at), number(y.at(v)),
                         number(column * 0.94), number(y.from - y.at(v)), hue(k), escape(short_value(v)));
    }
  }
  double legend_x = left;
  if (legend)
    for (size_t k = 0; k < bars.size(); ++k) out += legend_entry(legend_x, top, bars[k].name, k);
  return svg(width, height, axes.title, out);
}

std::string plot_svg(const std::vector<Curve>& curves, const Axes& axes) {
  const bool legend = curves.size() > 1;
  const double top = (axes.title.empty() ? 12 : 30) + (legend ? 20 : 0);
  Scale x{axes.log_x}, y{axes.log_y};
  for (const Curve& c : curves)
    for (size_t i = 0; i < std::min(c.x.size(), c.y.size()); ++i)
      if (x.shows(c.x[i]) && y.shows(c.y[i])) x.see(c.x[i]), y.see(c.y[i]);
  x.settle();
  y.settle();
  x.from = left, x.to = width - right;
  y.from = height - bottom, y.to = top;

  std::string out = frame(x, y, axes);
  for (double t : x.ticks()) {
    out += line(x.pixel(t), y.from, x.pixel(t), y.to, 0.13);
    out += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n", number(x.pixel(t)), number(y.from + 17), x.label(t));
  }

  double legend_x = left;
  for (size_t k = 0; k < curves.size(); ++k) {
    const Curve& c = curves[k];
    std::string path;
    bool pen_down = false;
    for (size_t i = 0; i < std::min(c.x.size(), c.y.size()); ++i) {
      if (!x.shows(c.x[i]) || !y.shows(c.y[i])) {
        pen_down = false;
        continue;
      }
      const std::string px = number(x.at(c.x[i])), py = number(y.at(c.y[i]));
      if (c.dots) out += fmt::format("<circle cx=\"{}\" cy=\"{}\" r=\"3\" fill=\"{}\"/>\n", px, py, hue(k));
      else path += fmt::format("{}{} {}", pen_down ? "L" : "M", px, py);
      pen_down = true;
    }
    if (!path.empty()) out += fmt::format("<path d=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>\n", path, hue(k));
    if (legend) out += legend_entry(legend_x, top, c.name, k);
  }
  return svg(width, height, axes.title, out);
}

std::string heatmap_svg(const std::vector<double>& values, int columns, const Axes& axes) {
  const int rows = columns > 0 ? static_cast<int>(values.size()) / columns : 0;
  const double side = std::clamp(560.0 / std::max(columns, 1), 4.0, 44.0);
  const double left = 30, top = axes.title.empty() ? 12 : 30;
  double lowest = 0, highest = 0;
  for (double v : values)
    if (std::isfinite(v)) lowest = std::min(lowest, v), highest = std::max(highest, v);
  const double largest = std::max(-lowest, highest);
  const auto strength = [&](double v) { return largest > 0 ? 0.04 + 0.96 * std::abs(v) / largest : 0; };
  std::string out;
  if (!axes.title.empty()) out += text(left, 18, axes.title, "font-weight=\"600\" font-size=\"13\"");
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < columns; ++c) {
      const double v = values[static_cast<size_t>(r) * columns + c];
      const double px = left + c * side, py = top + r * side;
      const std::string box = fmt::format("<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"", number(px), number(py), number(side - 0.5), number(side - 0.5));
      if (!std::isfinite(v)) out += box + " fill=\"none\" stroke=\"" + std::string(hues[3]) + "\"/>\n";
      else out += box + fmt::format(" fill=\"{}\" fill-opacity=\"{:.3f}\"/>\n", v < 0 ? hues[1] : hues[0], strength(v));
      if (side >= 36) out += text(px + side / 2, py + side / 2 + 4, fmt::format("{:.2f}", std::abs(v) < 0.005 ? 0.0 : v), "text-anchor=\"middle\" font-size=\"11\"");
    }
  const double height = top + rows * side, width = left + columns * side;
  out += text(left + columns * side / 2, height + 18, axes.x, "text-anchor=\"middle\"");
  const double middle = top + rows * side / 2;
  out += text(16, middle, axes.y, fmt::format("text-anchor=\"middle\" transform=\"rotate(-90 16 {})\"", number(middle)).c_str());
  const double legend = width + 14;
  const auto key = [&](double y, const char* color, double v) {
    out += fmt::format("<rect x=\"{}\" y=\"{}\" width=\"12\" height=\"12\" fill=\"{}\" fill-opacity=\"{:.3f}\"/>\n", number(legend), number(y), color,
                       strength(v));
    out += text(legend + 18, y + 10, short_value(v));
  };
  if (highest > 0) key(top, hues[0], highest);
  if (lowest < 0) key(top + 20, hues[1], lowest);
  return svg(std::max(legend + 90, left + text_width(axes.title, 13) + 20), height + 28, axes.title, out);
}

namespace {

constexpr double font = 12, line_height = 16, gap_x = 38, gap_y = 14;

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> out;
  for (size_t i = 0; i <= text.size();) {
    const size_t end = std::min(text.find('\n', i), text.size());
    out.push_back(text.substr(i, end - i));
    i = end + 1;
  }
  return out;
}

// Sugiyama's idea in small: layers by longest path, invisible bends where an arrow passes a layer, and within a layer the order
// of the average neighbour on the left.
struct Layout {
  struct Place {
    int layer = 0;
    bool bend = false;
    double width = 0, height = 2, x = 0, y = 0, order = 0;
    std::vector<int> from;
  };
  std::vector<Place> places;               // the boxes, then the bends
  std::vector<std::vector<int>> routes;    // per arrow: box, bends, box
  double width = 0, height = 0;

  explicit Layout(const Graph& g) : places(g.boxes.size()) {
    for (size_t i = 0; i < g.boxes.size(); ++i) {
      const auto lines = lines_of(g.boxes[i].text);
      places[i].height = line_height * static_cast<double>(lines.size()) + 12;
      for (const auto& l : lines) places[i].width = std::max(places[i].width, text_width(l, font) + 20);
    }
    std::vector<int> first_use(places.size(), -1);
    std::vector<bool> fed(places.size(), false);
    for (size_t i = 0; i < places.size(); ++i)  // arrows go to later boxes, so one pass in order is enough
      for (const auto& [a, b] : g.arrows)
        if (b == static_cast<int>(i)) places[i].layer = std::max(places[i].layer, places[a].layer + 1), fed[i] = true;
    for (const auto& [a, b] : g.arrows) first_use[a] = first_use[a] < 0 ? places[b].layer : std::min(first_use[a], places[b].layer);
    for (size_t i = 0; i < places.size(); ++i)  // an input stands beside its first use
      if (!fed[i] && first_use[i] > 0) places[i].layer = first_use[i] - 1;
    for (const auto& [a, b] : g.arrows) {
      std::vector<int> route{a};
      for (int layer = places[a].layer + 1; layer < places[b].layer; ++layer) {
        Place bend;
        bend.layer = layer;
        bend.bend = true;
        bend.from = {route.back()};
        places.push_back(bend);
        route.push_back(static_cast<int>(places.size()) - 1);
      }
      places[b].from.push_back(route.back());
      route.push_back(b);
      routes.push_back(route);
    }
    arrange();
  }

  void arrange() {
    int layers = 0;
    for (const Place& p : places) layers = std::max(layers, p.layer + 1);
    std::vector<std::vector<int>> column(layers);
    for (size_t i = 0; i < places.size(); ++i) column[places[i].layer].push_back(static_cast<int>(i));
    std::vector<double> tall(layers, 0);
    double x = 0;
    for (int l = 0; l < layers; ++l) {
      double wide = 0;
      for (int i : column[l]) wide = std::max(wide, places[i].width), tall[l] += places[i].height + gap_y;
      for (int i : column[l]) {
        places[i].x = x + wide / 2;
        if (places[i].bend) places[i].width = wide;  // straight past the boxes of its column
      }
      x += wide + gap_x;
      height = std::max(height, tall[l]);
    }
    width = x - gap_x;
    for (int l = 0; l < layers; ++l) {
      for (int i : column[l]) {
        Place& p = places[i];
        p.order = height;  // inputs go below
        if (p.from.empty()) continue;
        p.order = 0;
        for (int f : p.from) p.order += places[f].y / static_cast<double>(p.from.size());
      }
      std::stable_sort(column[l].begin(), column[l].end(), [&](int a, int b) { return places[a].order < places[b].order; });
      double y = (height - tall[l]) / 2;
      for (int i : column[l]) {
        places[i].y = y + (places[i].height + gap_y) / 2;
        y += places[i].height + gap_y;
      }
    }
  }
};

}  // namespace

std::string graph_svg(const Graph& g) {
  const Layout layout(g);
  const double top = g.title.empty() ? 4 : 28;
  const auto px = [](double x) { return number(x + 4); };
  const auto py = [&](double y) { return number(y + top); };
  std::string out;
  if (!g.title.empty()) out += text(4, 16, g.title, "font-weight=\"600\" font-size=\"13\"");
  for (const auto& route : layout.routes) {
    std::string path;
    for (size_t k = 0; k + 1 < route.size(); ++k) {
      const auto &a = layout.places[route[k]], &b = layout.places[route[k + 1]];
      const double x1 = a.x + a.width / 2, x2 = b.x - b.width / 2 - (k + 2 == route.size() ? 6 : 0), bend = (x2 - x1) / 2;
      if (path.empty()) path = fmt::format("M{} {}", px(x1), py(a.y));
      path += fmt::format("C{} {} {} {} {} {}", px(x1 + bend), py(a.y), px(x2 - bend), py(b.y), px(x2), py(b.y));
      if (b.bend) path += fmt::format("H{}", px(b.x + b.width / 2));
    }
    out += fmt::format("<path d=\"{}\" fill=\"none\" stroke=\"currentColor\" stroke-opacity=\"0.55\" stroke-width=\"1.3\"/>\n", path);
    const auto& b = layout.places[route.back()];
    const double tip = b.x - b.width / 2;
    out += fmt::format("<path d=\"M{0} {1}l-7 -3.5v7z\" fill-opacity=\"0.7\"/>\n", px(tip), py(b.y));
  }
  for (size_t i = 0; i < g.boxes.size(); ++i) {
    const auto& p = layout.places[i];
    const char* color = g.boxes[i].input ? hues[2] : hues[0];
    out += fmt::format("<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" rx=\"{}\" fill=\"{}\" fill-opacity=\"0.13\" stroke=\"{}\"/>\n",
                       px(p.x - p.width / 2), py(p.y - p.height / 2), number(p.width), number(p.height), g.boxes[i].input ? 12 : 4, color, color);
    double y = p.y - p.height / 2 + 6 + line_height * 0.78;
    const char* style = "text-anchor=\"middle\" font-weight=\"600\"";
    for (const auto& l : lines_of(g.boxes[i].text)) {
      out += fmt::format("<text x=\"{}\" y=\"{}\" {}>{}</text>\n", px(p.x), py(y), style, escape(l));
      style = "text-anchor=\"middle\"";
      y += line_height;
    }
  }
  return svg(std::max(layout.width, text_width(g.title, 13)) + 8, layout.height + top + 4, g.title, out);
}

std::string table_html(const std::vector<std::string>& head, const std::vector<std::vector<std::string>>& rows) {
  const auto row = [](const std::vector<std::string>& cells, const char* tag) {
    std::string out = "<tr>";
    for (const auto& c : cells) out += fmt::format("<{0}>{1}</{0}>", tag, escape(c));
    return out + "</tr>\n";
  };
  std::string out = "<table>\n<thead>" + row(head, "th") + "</thead>\n<tbody>\n";
  for (const auto& r : rows) out += row(r, "td");
  return out + "</tbody>\n</table>";
}

}  // namespace nb

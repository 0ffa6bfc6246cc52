// The curves of a run, from its metrics.jsonl, as text.
#include <cmath>
#include <filesystem>
#include <fstream>

#include "app/command.h"
#include "app/plot.h"
#include "tensor/io/json.h"
#include "tensor/io/text.h"

namespace facet::app {
namespace {

struct Settings : Common {
  std::string run;
  Values plots;
  bool log = false;
  int width = 72, height = 14;
  void declare(Options& o) {
    o.add("run", &run, "run folder, or a metrics.jsonl").metavar("DIR").positional().required();
    o.add("plot", &plots, "which numbers to draw; all: every one of the table").metavar("NAME,NAME");
    o.add("log", &log, "logarithmic vertical axis");
    o.add("width", &width, "columns of a plot").range(10, 500);
    o.add("height", &height, "rows of a plot").range(4, 100);
  }
};

// Numbers by name, in order of first appearance. Lines of another kind than training steps ("kind": "valid") get their kind in
// front of the name.
struct Series {
  std::vector<std::string> names;
  std::map<std::string, Points> points;
  int64_t lines = 0;
};

constexpr uint64_t max_line_bytes = 1 << 20;

Series read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) fail(Kind::file, "{}: no metrics there; is this the folder of a run?", path);
  Series out;
  std::string line;
  int64_t number = 0;
  while (std::getline(file, line)) {
    ++number;
    if (line.empty()) continue;
    if (file.eof()) break;  // no line end yet: a run that is still writing, or was killed
    if (line.size() > max_line_bytes) fail(Kind::file, "{}:{}: line of {} bytes, expected at most {}", path, number, line.size(), max_line_bytes);
    const Json json = parse_json(line, fmt::format("{}:{}", path, number));
    if (!json.is_object()) fail(Kind::file, "{}:{}: expected an object, found {}", path, number, type_name(json));
    const auto step = json.find("step");
    if (step == json.end() || !step->is_number()) continue;
    ++out.lines;
    const auto kind = json.find("kind");
    const std::string prefix = kind != json.end() && kind->is_string() && *kind != "train" ? kind->get<std::string>() + "." : "";
    for (const auto& [key, value] : json.items()) {
      // A loss that is not finite is written as null or as text, since JSON knows no NaN.
      const bool nan = value.is_null() || (value.is_string() && (value == "nan" || value == "inf" || value == "-inf"));
      if (key == "step" || (!value.is_number() && !nan)) continue;
      Points& p = out.points[prefix + key];
      if (p.empty()) out.names.push_back(prefix + key);
      const double x = step->get<double>();
      // A resumed run repeats steps: the later line counts.
      while (!p.empty() && p.back().first >= x) p.pop_back();
      p.emplace_back(x, nan ? std::nan("") : value.get<double>());
    }
  }
  return out;
}

int run(Settings& s, Options&, Console& console) {
  const std::string path = std::filesystem::is_directory(s.run) ? s.run + "/metrics.jsonl" : s.run;
  const Series series = read(path);
  if (series.lines == 0) fail(Kind::file, "{}: no step was written yet", path);
  if (console.json()) {
    Json out = Json::object();
    for (const auto& [name, points] : series.points)
      for (const auto& [x, y] : points) out[name].push_back({x, y});
    console.line("{}", out.dump());
    return 0;
  }
  Values plots = s.plots;
  if (plots.empty())  // what a run is about
    for (const char* name : {"loss", "valid.loss", "reward", "pass"})
      if (series.points.count(name)) plots.push_back(name);
  if (plots == Values{"all"}) plots = series.names;
  for (const std::string& name : plots) {
    const auto it = series.points.find(name);
    if (it == series.points.end()) {
      const std::string close = nearest(name, series.names);
      fail(Kind::usage, "--plot: \"{}\" is not in {}{}", name, path, close.empty() ? "" : ", did you mean " + close + "?");
    }
    console.line("{}", printable(name));
    console.text(plot(it->second, s.width, s.height, s.log));
    console.line();
  }
  console.line("{:<24} {:>8} {:>10} {:>10} {:>10} {:>10}", "", "points", "first", "last", "lowest", "highest");
  for (const std::string& name : series.names) {
    const Points& p = series.points.at(name);
    double low = INFINITY, high = -INFINITY;
    for (const auto& [x, y] : p) low = std::fmin(low, y), high = std::fmax(high, y);
    console.line("{:<24} {:>8} {:>10} {:>10} {:>10} {:>10}", printable(name), p.size(), short_number(p.front().second), short_number(p.back().second),
                 short_number(low), short_number(high));
  }
  return 0;
}

}  // namespace

Command inspect_run_command() {
  return command<Settings>("inspect run", "Draw the curves of a training run as text",
                           "  facet inspect run runs/radicals/sft\n  facet inspect run runs/radicals/grpo --plot reward,pass", run);
}

}  // namespace facet::app

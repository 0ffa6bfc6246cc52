// The curves of a run, from its metrics.jsonl, as text.
#include <cmath>
#include <filesystem>

#include "app/command.h"
#include "app/metrics.h"
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

int run(Settings& s, Options&, Console& console) {
  const std::string path = std::filesystem::is_directory(s.run) ? s.run + "/metrics.jsonl" : s.run;
  const Series series = read_metrics(path);
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

#include "app/metrics.h"

#include <cmath>
#include <fstream>

#include "tensor/io/json.h"

namespace facet::app {
namespace {

constexpr uint64_t max_line_bytes = 1 << 20;

}  // namespace

Series read_metrics(const std::string& path) {
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

}  // namespace facet::app

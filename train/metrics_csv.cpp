#include "train/metrics_csv.h"

#include <algorithm>
#include <cmath>
#include <sstream>

#include "tensor/io/file.h"
#include "tensor/io/json.h"

namespace facet {
namespace {

using Columns = std::vector<std::string>;

// RFC 4180: what holds a comma, a quote or a line end is quoted. Rows are kept to one line.
std::string cell(std::string text) {
  std::replace(text.begin(), text.end(), '\n', ' ');
  std::replace(text.begin(), text.end(), '\r', ' ');
  if (text.find_first_of(",\"") == std::string::npos) return text;
  std::string out = "\"";
  for (const char c : text) out += c == '"' ? "\"\"" : std::string(1, c);
  return out + "\"";
}

std::string head(const Columns& columns) {
  std::string line = "step,kind";
  for (const std::string& name : columns) line += "," + cell(name);
  return line + "\n";
}

std::string row(const Columns& columns, int64_t step, const std::string& kind, const std::map<std::string, double>& values) {
  std::string line = fmt::format("{},{}", step, cell(kind));
  for (const std::string& name : columns) {
    const auto at = values.find(name);
    line += at == values.end() ? "," : fmt::format(",{}", at->second);
  }
  return line + "\n";
}

}  // namespace

void MetricsCsv::extend(Columns& columns, const std::map<std::string, double>& values) {
  for (const auto& [name, value] : values)
    if (std::find(columns.begin(), columns.end(), name) == columns.end()) columns.push_back(name);
}

void MetricsCsv::rewrite(const std::string& metrics_lines) {
  struct Line {
    int64_t step;
    std::string kind;
    std::map<std::string, double> values;
  };
  std::vector<Line> lines;
  Columns columns;
  std::istringstream in(metrics_lines);
  for (std::string text; std::getline(in, text);) {
    const Json j = Json::parse(text, nullptr, false);
    if (!j.is_object()) continue;
    Line line{j.value("step", int64_t{0}), j.value("kind", ""), {}};
    for (const auto& [name, v] : j.items())
      if (v.is_number() && name != "step") line.values[name] = v.get<double>();
      else if (v == "nan" || v == "inf" || v == "-inf") line.values[name] = v == "nan" ? std::nan("") : v == "inf" ? INFINITY : -INFINITY;
    extend(columns, line.values);
    lines.push_back(std::move(line));
  }
  std::string text = head(columns);
  for (const Line& line : lines) text += row(columns, line.step, line.kind, line.values);
  file_.reset();
  write_file_atomically(path_, text);
  columns_ = std::move(columns);
}

void MetricsCsv::add(int64_t step, const std::string& kind, const std::map<std::string, double>& values) {
  Columns columns = columns_;
  extend(columns, values);
  if (columns.size() > columns_.size()) {
    std::string text = head(columns);
    const std::string more(columns.size() - columns_.size(), ',');
    std::istringstream in(columns_.empty() ? "" : read_file(path_, uint64_t{1} << 40));
    std::string line;
    std::getline(in, line);  // the old head
    while (std::getline(in, line)) text += line + more + "\n";
    file_.reset();
    write_file_atomically(path_, text);
    columns_ = std::move(columns);
  }
  if (!file_) file_.emplace(path_);
  file_->append(row(columns_, step, kind, values));
}

}  // namespace facet

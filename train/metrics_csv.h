// The lines of metrics.jsonl as a table for spreadsheets: step, kind, and a column for every number that ever occurred. Columns keep
// their places: a new name comes last, and the rows above it get an empty cell.
#pragma once
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "tensor/io/durable.h"

namespace facet {

class MetricsCsv {
 public:
  explicit MetricsCsv(std::string path) : path_(std::move(path)) {}
  /// Starts over with what lines of metrics.jsonl say. Throws Error(Kind::environment) when it cannot be written.
  void rewrite(const std::string& metrics_lines);
  /// Throws Error(Kind::environment) when it cannot be written, a row, or the file anew with a column more; it is then as it was.
  void add(int64_t step, const std::string& kind, const std::map<std::string, double>& values);

 private:
  /// Names that are new come behind the others.
  static void extend(std::vector<std::string>& columns, const std::map<std::string, double>& values);
  std::string path_;
  std::vector<std::string> columns_;
  std::optional<GrowingFile> file_;
};

}  // namespace facet

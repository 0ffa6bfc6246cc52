// The numbers a run wrote down, from its metrics.jsonl.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "app/plot.h"

namespace facet::app {

/// Numbers by name, in order of first appearance. Lines of another kind than training steps ("kind": "valid") get their kind in
/// front of the name. Values that are not finite are NaN.
struct Series {
  std::vector<std::string> names;
  std::map<std::string, Points> points;
  int64_t lines = 0;
};

/// Throws Error(Kind::file) with the line when it is no such file. A last line without an end is left out: its run is still
/// writing, or was killed.
Series read_metrics(const std::string& path);

}  // namespace facet::app

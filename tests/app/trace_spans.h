// A trace that --profile wrote, read back.
#pragma once
#include <catch2/catch.hpp>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/app/process.h"

namespace facet::test {

struct Span {
  std::string name, kind, module;
  int row;  ///< 1 the host's, 2 the GPU's
  double begin, end;
};

/// Events with a duration. Fails the test unless any two of a row are apart or one holds the other, and what says that it belongs to a module lies
/// inside of that module's spans.
inline std::vector<Span> spans_of(const std::string& path) {
  const auto trace = nlohmann::json::parse(content_of(path));
  std::vector<Span> list;
  for (const auto& e : trace.at("traceEvents")) {
    if (e.at("ph") == "C") CHECK(e.at("args").at("bytes").get<int64_t>() > 0);
    if (e.at("ph") != "X") continue;
    const double begin = e.at("ts"), duration = e.at("dur");
    CHECK(duration >= 0);
    list.push_back({e.at("name"), e.at("cat"), e.value("args", nlohmann::json::object()).value("module", ""), e.at("tid"), begin, begin + duration});
  }
  // What ends with what it is in was written before it.
  std::reverse(list.begin(), list.end());
  std::stable_sort(list.begin(), list.end(), [](const Span& a, const Span& b) { return a.begin < b.begin || (a.begin == b.begin && a.end > b.end); });
  int64_t crossing = 0, astray = 0;
  std::map<int, std::vector<const Span*>> open_in_row;  // those that hold the present one; times are rounded to nanoseconds
  for (const Span& s : list) {
    auto& open = open_in_row[s.row];
    while (!open.empty() && open.back()->end <= s.begin + 0.002) open.pop_back();
    if (!open.empty() && s.end > open.back()->end + 0.002) ++crossing;
    open.push_back(&s);
    std::string inside;
    for (const Span* o : open)
      if (o->kind == "module") inside += (inside.empty() ? "" : ".") + o->name;
    if (s.kind == "module" || s.kind == "operation" || s.kind == "backward") astray += s.module != inside;
  }
  CHECK(crossing == 0);
  CHECK(astray == 0);
  return list;
}

inline int64_t count(const std::vector<Span>& spans, const std::string& kind, const std::string& name = "", int row = 1) {
  return std::count_if(spans.begin(), spans.end(), [&](const Span& s) { return s.row == row && s.kind == kind && (name.empty() || s.name == name); });
}

inline double seconds(const std::vector<Span>& spans, const std::string& kind, int row = 1) {
  double sum = 0;
  for (const Span& s : spans)
    if (s.kind == kind && s.row == row) sum += s.end - s.begin;
  return 1e-6 * sum;
}

}  // namespace facet::test

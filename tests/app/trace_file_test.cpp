// --profile FILE: a trace that a browser reads, whose parts lie inside of each other and add up.
#include <catch2/catch.hpp>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "tests/app/process.h"
#include "tests/app/run.h"
#include "tests/app/trainers.h"

using namespace facet::test;

namespace {

struct Span {
  std::string name, kind;
  double begin, end;
};

/// Events with a duration. Fails the test unless any two are apart or one holds the other.
std::vector<Span> spans_of(const std::string& path) {
  const auto trace = nlohmann::json::parse(content_of(path));
  std::vector<Span> list;
  for (const auto& e : trace.at("traceEvents")) {
    if (e.at("ph") == "C") CHECK(e.at("args").at("bytes").get<int64_t>() > 0);
    if (e.at("ph") != "X") continue;
    const double begin = e.at("ts"), duration = e.at("dur");
    CHECK(duration >= 0);
    list.push_back({e.at("name"), e.at("cat"), begin, begin + duration});
  }
  std::stable_sort(list.begin(), list.end(), [](const Span& a, const Span& b) { return a.begin < b.begin || (a.begin == b.begin && a.end > b.end); });
  std::vector<double> open;  // ends of those that hold the present one; times are rounded to nanoseconds
  int64_t crossing = 0;
  for (const Span& s : list) {
    while (!open.empty() && open.back() <= s.begin + 0.002) open.pop_back();
    if (!open.empty() && s.end > open.back() + 0.002) ++crossing;
    open.push_back(s.end);
  }
  CHECK(crossing == 0);
  return list;
}

int64_t count(const std::vector<Span>& spans, const std::string& kind, const std::string& name = "") {
  return std::count_if(spans.begin(), spans.end(), [&](const Span& s) { return s.kind == kind && (name.empty() || s.name == name); });
}

double seconds(const std::vector<Span>& spans, const std::string& kind) {
  double sum = 0;
  for (const Span& s : spans)
    if (s.kind == kind) sum += s.end - s.begin;
  return 1e-6 * sum;
}

}  // namespace

TEST_CASE("profile: the phases of every step lie in it and make it up") {
  const std::string path = std::filesystem::temp_directory_path() / ("facet-trace-" + std::to_string(::getpid()) + ".json");
  const Result r = run_facet("bench step --batch 16 --max-len 24 --steps 5 --threads 1 --profile " + path);
  INFO(r.err);
  REQUIRE(r.code == 0);
  CHECK_THAT(r.out, Catch::Contains("events to " + path) && Catch::Contains("outside kernels"));
  const auto spans = spans_of(path);
  CHECK(count(spans, "step") == 5);
  for (const char* phase : {"forward", "backward", "optimizer"}) CHECK(count(spans, "phase", phase) == 5);
  CHECK(count(spans, "kernel", "linear") == 5 * 12);
  CHECK(seconds(spans, "phase") == Approx(seconds(spans, "step")).epsilon(0.05));
  CHECK(seconds(spans, "kernel") <= seconds(spans, "phase"));
  std::filesystem::remove(path);
}

TEST_CASE("profile: runs of every kind, and generation") {
  const Trainers t;
  for (const char* kind : {"sft", "dpo", "grpo"}) {
    INFO(kind);
    const std::string path = t / (std::string(kind) + ".json");
    REQUIRE(t.run(t.words(kind, std::string(kind) + " traced", {"--profile", path})) == 0);
    CHECK_THAT(t.said(), Catch::Contains(" events to " + path));
    const auto spans = spans_of(path);
    CHECK(count(spans, "step") == 7);
    for (const char* phase : {"forward", "backward", "optimizer", "checkpoint"}) CHECK(count(spans, "phase", phase) > 0);
  }
  const std::string path = t / "generate.json";
  REQUIRE(t.run({"generate", t / "m", "-p", "√(2·2)=", "-n", "4", "--profile", path}) == 0);
  const auto spans = spans_of(path);
  CHECK(count(spans, "phase", "prefill") == 1);
  CHECK(count(spans, "phase", "decode") >= 1);
  CHECK(t.run({"generate", t / "m", "-p", "a", "-n", "1", "--profile", "/nowhere/x.json"}) == 5);
  CHECK(t.run({"generate", t / "m", "-p", "a", "-n", "1", "--profile", t / "m"}) == 2);
}

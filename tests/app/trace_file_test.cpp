// --profile FILE: a trace that a browser reads, whose parts lie inside of each other and add up.
#include <catch2/catch.hpp>

#include "tests/app/run.h"
#include "tests/app/trace_spans.h"
#include "tests/app/trainers.h"

using namespace facet::test;

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

TEST_CASE("profile: every operation and its backward lies in its module, computed once or again") {
  const TempFolder temp;
  const auto traced = [&](const std::string& recompute) {
    const std::string path = temp / "trace.json";
    const Result r = run_facet("bench step --batch 4 --max-len 8 --steps 2 --threads 1 --recompute " + recompute + " --profile " + path);
    INFO(r.err);
    REQUIRE(r.code == 0);
    return spans_of(path);
  };
  const auto of_module = [](const std::vector<Span>& spans, const std::string& kind, const std::string& name, const std::string& module) {
    return std::count_if(spans.begin(), spans.end(), [&](const Span& s) { return s.kind == kind && s.name == name && s.module == module; });
  };
  const auto kept = traced("none"), again = traced("block");
  for (const auto* spans : {&kept, &again}) {
    const int64_t unkept = spans == &again ? 2 : 0;  // passes of a forward that keeps nothing, and may join what it does not keep
    CHECK(of_module(*spans, "operation", "attention", "layers.1.self_attn") == 2 + unkept);
    CHECK(of_module(*spans, "operation", "geglu", "layers.0.mlp") == 2);
    CHECK(of_module(*spans, "operation", "linear_geglu", "layers.0.mlp") == unkept);
    CHECK(of_module(*spans, "backward", "attention backward", "layers.1.self_attn") == 2);
    CHECK(of_module(*spans, "backward", "geglu backward", "layers.0.mlp") == 2);
    CHECK(of_module(*spans, "backward", "linear_loss backward", "") == 2);
    CHECK(of_module(*spans, "operation", "embedding", "") == 2);
    CHECK(of_module(*spans, "module", "layers.2", "layers.2") == 4);  // forward and backward
    CHECK(of_module(*spans, "backward", "checkpoint backward", "layers.2") == unkept);
    CHECK(count(*spans, "operation", "", 2) == 0);
  }
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
    for (const char* part : {"module", "operation", "backward"}) CHECK(count(spans, part) > 0);
  }
  const std::string path = t / "generate.json";
  REQUIRE(t.run({"generate", t / "m", "-p", "√(2·2)=", "-n", "4", "--profile", path}) == 0);
  const auto spans = spans_of(path);
  CHECK(count(spans, "phase", "prefill") == 1);
  CHECK(count(spans, "phase", "decode") >= 1);
  CHECK(t.run({"generate", t / "m", "-p", "a", "-n", "1", "--profile", "/nowhere/x.json"}) == 5);
  CHECK(t.run({"generate", t / "m", "-p", "a", "-n", "1", "--profile", t / "m"}) == 2);
}

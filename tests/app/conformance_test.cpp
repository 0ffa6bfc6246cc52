// The parts of `facet conformance` that need no device; the whole of it runs on the emulated one (ctest: conformance).
#include "app/conformance/conformance.h"

#include <catch2/catch.hpp>
#include <filesystem>

#include "app/conformance/goldens.h"
#include "autograd/ops.h"
#include "tensor/error.h"
#include "tensor/gpu/emulator/emulator.h"
#include "tensor/io/safetensors.h"

using namespace facet;
using namespace facet::app;

TEST_CASE("conformance: what a check says or throws becomes a finding") {
  Console console(true);
  Conformance c(console, true, 1);
  c.begin("part");
  c.check("right", [] { return Outcome{true, "all is well", {{"figure", 3}}}; });
  c.check("wrong", [] { return Outcome{false, "it is not"}; });
  c.check("thrown", []() -> Outcome { fail(Kind::usage, "a mistake"); });
  c.measure("measured", [] { return Outcome{true, "fast"}; });
  c.measure("measured and thrown", []() -> Outcome { fail(Kind::memory, "too large"); });
  REQUIRE(c.findings().size() == 5);
  const Verdict verdicts[] = {Verdict::passed, Verdict::failed, Verdict::failed, Verdict::measured, Verdict::failed};
  for (size_t i = 0; i < 5; ++i) {
    INFO(c.findings()[i].name);
    CHECK(c.findings()[i].verdict == verdicts[i]);
    CHECK(c.findings()[i].section == "part");
  }
  CHECK(c.findings()[0].figures.at(0).second == 3);
  CHECK(c.findings()[2].detail == "a mistake");
  CHECK(c.count(Verdict::failed) == 3);
  // A call that is refused costs one finding.
  c.check("refused", []() -> Outcome { fail(Kind::environment, "rms_norm: a launch failed"); });
  CHECK(c.findings().back().verdict == Verdict::failed);
  CHECK(c.findings().back().detail == "rms_norm: a launch failed");
  // A device that is lost ends the run; what it was doing is on record.
  gpu::emulate(true);
  const auto loses_it = []() -> Outcome {
    gpu::emulator::fail_launch(1);
    return {exp(Tensor::zeros({1}, DType::f32, Device::gpu)).item() == 1};
  };
  CHECK_THROWS_AS(c.check("lost", loses_it), Error);
  CHECK(c.findings().back().name == "lost");
  CHECK_THAT(c.findings().back().detail, Catch::Contains("The last operation was unary of f32 [1]"));
  gpu::emulator::fail_launch(0);
  gpu::emulate(false);
}

TEST_CASE("conformance: the program carries the tiny model and its reference numbers, and leaves nothing behind") {
  std::string model;
  {
    const Goldens goldens;
    model = goldens.model();
    CHECK(Safetensors(model).tensors().size() > 50);
    for (const char* name : {"taps", "truth", "bf16", "generate"}) {
      const std::string path = goldens.reference(name);
      CHECK(std::filesystem::file_size(path) == std::filesystem::file_size(std::string(FACET_GOLDENS "/gemma3-tiny-ref/") + name + ".safetensors"));
      CHECK(Safetensors(path).tensors().size() > 1);
    }
  }
  CHECK_FALSE(std::filesystem::exists(model));
}

TEST_CASE("conformance: a figure is weighed against what is accepted and what is aimed at") {
  const auto said = [](double value, const Bound& b) {
    Outcome o{true, "fast", {{"rate", value}}};
    weigh(o, "rate", b);
    CHECK(o.figures.size() == 3);
    return o.detail;
  };
  CHECK_THAT(said(2, {2, 3}), Catch::StartsWith("fast; rate is accepted: 2, accepted 2, goal 3"));
  CHECK_THAT(said(3, {2, 3}), Catch::Contains("reaches its goal"));
  CHECK_THAT(said(1.9, {2, 3}), Catch::Contains("FALLS SHORT"));
  CHECK_THAT(said(2, {3, 2, true}), Catch::Contains("reaches its goal"));
  CHECK_THAT(said(3, {3, 2, true}), Catch::Contains("is accepted"));
  CHECK_THAT(said(3.1, {3, 2, true}), Catch::Contains("FALLS SHORT"));
  Outcome none;
  CHECK_THROWS_AS(weigh(none, "rate", {1, 2}), Error);
}

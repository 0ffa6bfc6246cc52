// --train: what is named learns, the rest stays as it was to the last byte and costs no optimizer state.
#include "tests/app/trainers.h"
#include "tests/support/compare.h"
#include "tensor/io/safetensors.h"

using namespace facet;
using namespace facet::test;

TEST_CASE("train part of a model: the last layer but one and the final norm") {
  const Trainers t;
  REQUIRE(t.run(t.words("sft", "out", {"--train", "layers.-2.*,final_norm"})) == 0);
  CHECK(t.said().find("parameters train") != std::string::npos);
  const Safetensors before(t / "m"), after(t / "out/final");
  int moved = 0, stayed = 0;
  for (const auto& [name, info] : before.tensors()) {
    INFO(name);
    const bool named = name.find("layers.0.") != std::string::npos || name == "model.norm.weight";
    if (named) CHECK_FALSE(bitwise_equal(before.load(name), after.load(name)));
    else CHECK(bitwise_equal(before.load(name), after.load(name)));
    ++(named ? moved : stayed);
  }
  CHECK(moved > 5);
  CHECK(stayed > 5);
  const Safetensors state(t / "out/checkpoints/step-7/optimizer.safetensors");
  for (const auto& [name, info] : state.tensors()) {
    INFO(name);
    CHECK((name == "step" || name.find("layers.0.") != std::string::npos || name == "m.norm.weight" || name == "v.norm.weight"));
  }
}

TEST_CASE("train part of a model: nothing left to train is refused, a peak out of reach is said") {
  const Trainers t;
  CHECK(t.run(t.words("sft", "none", {"--freeze", "*"})) == 2);
  CHECK(t.said().find("--freeze *: nothing is left to train") != std::string::npos);
  CHECK(t.run(t.words("sft", "late", {"--warmup", "100"})) == 0);
  CHECK(t.said().find("--warmup 100: the run has 7 steps, and its rate never gets to the peak") != std::string::npos);
}

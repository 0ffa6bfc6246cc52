// Moments in bf16, and bf16 weights without an f32 master: both rounded by chance, and what is learned is the same.
#include <catch2/catch.hpp>

#include "optim/adamw.h"
#include "optim/clip.h"
#include "tests/train/small.h"

using namespace facet;
using namespace facet::test;

namespace {

// Loss over all of the data after some steps.
double learned(DType dtype, const AdamWOptions& options) {
  const auto model = small_model(dtype);
  const Dataset data = small_data();
  const Loader loader(data, {.batch = 7});
  AdamW optimizer({{.parameters = parameters(*model)}}, options);
  for (int64_t step = 0; step < 60; ++step) {
    accumulate_sft(*model, loader.at(step));
    optimizer.step(2e-3, clip_global_norm(optimizer.parameters(), 1.0).scale);
  }
  return evaluate_loss(*model, loader.at(0)).loss;
}

}  // namespace

TEST_CASE("AdamW: with moments in bf16 the loss is within 2% of that with f32 ones") {
  const OneThread one_thread;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    INFO(name_of(dtype));
    const double exact = learned(dtype, {}), rounded = learned(dtype, {.bf16_moments = true, .key = key(5)});
    CHECK(rounded != exact);
    CHECK(rounded == Approx(exact).epsilon(0.02));
    CHECK(learned(dtype, {.bf16_moments = true, .key = key(5)}) == rounded);
  }
  CHECK(learned(DType::bf16, {.master = false, .key = key(5)}) == Approx(learned(DType::bf16, {})).epsilon(0.05));
}

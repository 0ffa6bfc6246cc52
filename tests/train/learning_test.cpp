// What a trainer owes at the least: a batch learned by heart, and bf16 weights that learn as f32 ones do.
#include <catch2/catch.hpp>

#include "optim/adamw.h"
#include "optim/clip.h"
#include "tests/train/small.h"

using namespace facet;
using namespace facet::test;

namespace {

struct Run {
  std::unique_ptr<Gemma> model;
  AdamW optimizer;
  explicit Run(DType dtype) : model(small_model(dtype)), optimizer({{.parameters = parameters(*model)}}) {}
  double step(std::span<const Batch> micro, double lr) {
    const double loss = accumulate_sft(*model, micro).loss;
    optimizer.step(lr, clip_global_norm(optimizer.parameters(), 1.0).scale);
    return loss;
  }
};

}  // namespace

TEST_CASE("learning: one batch is learned by heart, to a loss below 0.01 within 200 steps") {
  const OneThread one_thread;
  const Dataset data = small_data(8);
  const Loader loader(data, {.batch = 8});
  Run run(DType::f32);
  double loss = 0;
  int64_t steps = 0;
  do loss = run.step(loader.at(0), 0.01);
  while (loss >= 0.01 && ++steps < 200);
  INFO(steps << " steps");
  CHECK(loss < 0.01);
}

TEST_CASE("learning: after 200 steps the loss of bf16 weights is within 2% of that of f32 ones") {
  const OneThread one_thread;
  const Dataset data = small_data(800);  // more than can be learned by heart: what is left to learn is the half of the vocabulary
  const Loader loader(data, {.batch = 8});
  const auto held_out = batches_in_order(small_data(100), 20);
  double loss[2], first = 0;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    Run run(dtype);
    first = evaluate_loss(*run.model, held_out).loss;
    for (int64_t i = 0; i < 200; ++i) run.step(loader.at(i), 0.003);
    loss[dtype == DType::bf16] = evaluate_loss(*run.model, held_out).loss;
  }
  INFO("f32 " << loss[0] << ", bf16 " << loss[1] << ", untrained " << first);
  CHECK(loss[0] < 0.85 * first);
  CHECK(loss[1] == Approx(loss[0]).epsilon(0.02));
}

TEST_CASE("learning: the tokens that a model would have chosen itself are counted") {
  const auto model = small_model();
  const Dataset data = small_data();
  int64_t right = 0, expected = 0, supervised = 0;
  for (const Batch& b : batches_in_order(data, 8)) {
    right += count_right(*model, b);
    supervised += b.supervised;
    const NoGrad off;
    const Tensor z = model->logits(model->hidden({b.ids, b.positions, b.segments}));  // [B, T, V]
    for (int64_t i = 0; i < z.dim(0); ++i)
      for (int64_t t = 0; t < z.dim(1); ++t) {
        const auto label = static_cast<int64_t>(b.labels.at({i, t}));
        if (label < 0) continue;
        bool best = true;
        for (int64_t v = 0; v < z.dim(2); ++v) best = best && z.at({i, t, v}) <= z.at({i, t, label});
        expected += best;
      }
  }
  CHECK(right == expected);
  CHECK(right > 0);
  CHECK(right < supervised);
}

// The memory that a run announces before it begins, against what its steps take.
#include <catch2/catch.hpp>

#include <memory>

#include "app/train_run.h"
#include "nn/lora.h"
#include "optim/adamw.h"
#include "tensor/parallel.h"
#include "tensor/storage.h"
#include "tests/support/contract.h"
#include "train/sft.h"

using namespace facet;

namespace {

// Peak bytes of the second step over the plan's.
double peak_to_plan(Recompute recompute, const std::vector<std::string>& targets, int64_t rank, DType dtype) {
  const size_t before = pool_stats().live_bytes;
  const GemmaConfig config = preset("tiny");
  Gemma model(config, dtype);
  model.init(key(3));
  model.recompute = recompute;
  std::unique_ptr<Adapters> adapters;
  if (!targets.empty()) {
    LoraOptions o;
    o.rank = rank, o.targets = targets;
    adapters = std::make_unique<Adapters>(model);
    adapters->add("new", o, key(4));
  }
  AdamW optimizer(app::parameter_groups(model, 0.0), AdamWOptions{});
  const Batch batch = app::random_batch(32, 24, config.vocab, 5);
  const auto step = [&] {
    batch_loss(model, batch, 1.0 / static_cast<double>(batch.supervised));
    optimizer.step(1e-4);
  };
  step();
  pool_reset_peak();
  step();
  return static_cast<double>(pool_stats().peak_bytes - before) / app::plan_memory(model, 32 * 24).total();
}

}  // namespace

TEST_CASE("memory plan: what a step takes, within a tenth") {
  const test::MachineScope scope;
  set_threads(1);  // changes no byte; a busy machine makes small steps wait
  const std::vector<std::string> everything, all = {"all-linear"}, few = {"q", "v"};
  for (const Recompute recompute : {Recompute::none, Recompute::mlp, Recompute::block}) {
    INFO("recompute " << static_cast<int>(recompute));
    CHECK(peak_to_plan(recompute, everything, 0, DType::f32) == Approx(1).margin(0.1));
    CHECK(peak_to_plan(recompute, few, 8, DType::f32) == Approx(1).margin(0.1));
  }
  CHECK(peak_to_plan(Recompute::none, all, 64, DType::f32) == Approx(1).margin(0.1));
  CHECK(peak_to_plan(Recompute::none, all, 8, DType::bf16) == Approx(1).margin(0.1));
  CHECK(peak_to_plan(Recompute::none, everything, 0, DType::bf16) == Approx(1).margin(0.1));
}

// The memory that a run announces before it begins, against what its steps take.
#include <catch2/catch.hpp>

#include <memory>

#include "app/train_run.h"
#include "nn/body_graphs.h"
#include "nn/lora.h"
#include "optim/adamw.h"
#include "tensor/gpu/emulator/emulator.h"
#include "tensor/gpu/gemm.h"
#include "tensor/gpu/pool.h"
#include "tensor/parallel.h"
#include "tensor/storage.h"
#include "tests/support/contract.h"
#include "train/sft.h"

using namespace facet;

namespace {

struct Case {
  Recompute recompute = Recompute::none;
  DType dtype = DType::f32;
  std::vector<std::string> targets = {};  // of an adapter
  int64_t rank = 8;
  Device device = Device::cpu;
  bool narrow = false;  // bf16 moments, no master
};

/// What a step takes beside what was there before the model, and what the plan says.
struct Taken {
  double peak, plan;
  double ratio() const { return peak / plan; }
};

Taken taken(const Case& c) {
  const bool gpu = c.device == Device::gpu;
  gpu::set_gemm_workspace(0);  // the emulated library's first suggestions take none
  const size_t before = pool_stats(c.device).live_bytes;
  const GemmaConfig config = preset("tiny");
  const int64_t rows = gpu ? 8 : 64, length = 16;  // an emulated one is slow
  Gemma model(config, c.dtype);
  model.init(key(3));
  model.recompute = c.recompute;
  std::unique_ptr<Adapters> adapters;
  if (!c.targets.empty()) {
    LoraOptions o;
    o.rank = c.rank, o.targets = c.targets;
    adapters = std::make_unique<Adapters>(model);
    adapters->add("new", o, key(4));
  }
  model.to(c.device);
  if (gpu) model.graphs = std::make_shared<BodyGraphs>(model);
  app::OptimizerSettings settings;
  if (c.narrow) settings.moments = "bf16", settings.master = "none";
  const auto optimizer = settings.make(model, 1);
  optimizer->keep_gradients(gpu);
  const Batch batch = app::random_batch(rows, length, config.vocab, 5);
  const double plan = app::plan_memory(model, rows * length, settings).total();
  gpu ? gpu::pool_reset_peak() : pool_reset_peak();
  for (int step = 0; step < (gpu ? 3 : 2); ++step) {  // of those on a GPU the third is recorded
    batch_loss(model, batch, 1.0 / static_cast<double>(batch.supervised));
    optimizer->step(1e-4);
  }
  return {static_cast<double>(pool_stats(c.device).peak_bytes - before), plan};
}

const std::vector<std::string> all = {"all-linear"}, few = {"q", "v"};
const std::vector<Recompute> policies = {Recompute::none, Recompute::norms, Recompute::mlp, Recompute::block};

}  // namespace

TEST_CASE("memory plan: what a step takes, within a tenth") {
  const test::MachineScope scope;
  set_threads(1);  // changes no byte; a busy machine makes small steps wait
  for (const Recompute r : policies) {
    INFO("recompute " << static_cast<int>(r));
    CHECK(taken({r}).ratio() == Approx(1).margin(0.1));
    CHECK(taken({r, DType::f32, few}).ratio() == Approx(1).margin(0.1));
  }
  for (const Recompute r : {Recompute::none, Recompute::norms}) {
    INFO("recompute " << static_cast<int>(r));
    CHECK(taken({r, DType::f32, all, 64}).ratio() == Approx(1).margin(0.1));
    CHECK(taken({r, DType::bf16, all}).ratio() == Approx(1).margin(0.1));
    CHECK(taken({r, DType::bf16}).ratio() == Approx(1).margin(0.1));
  }
  CHECK(taken({Recompute::none, DType::bf16, {}, 0, Device::cpu, true}).ratio() == Approx(1).margin(0.1));
}

TEST_CASE("memory plan: what is computed again is what is no longer taken, within an eighth") {
  const test::MachineScope scope;
  set_threads(1);
  const Taken none = taken({Recompute::none}), norms = taken({Recompute::norms});
  CHECK(none.peak - norms.peak == Approx(none.plan - norms.plan).epsilon(0.125));
}

TEST_CASE("memory plan: what a step takes on a GPU, within a tenth") {
  gpu::emulate(true);
  CHECK(taken({Recompute::norms, DType::bf16, {}, 0, Device::gpu}).ratio() == Approx(1).margin(0.1));
}

TEST_CASE("memory plan: what steps of all kinds take on a GPU, within a tenth", "[full]") {
  gpu::emulate(true);
  for (const Recompute r : policies)
    for (const DType dtype : {DType::f32, DType::bf16}) {
      INFO("recompute " << static_cast<int>(r) << ", " << name_of(dtype));
      CHECK(taken({r, dtype, {}, 0, Device::gpu}).ratio() == Approx(1).margin(0.1));
      CHECK(taken({r, dtype, all, 8, Device::gpu}).ratio() == Approx(1).margin(0.1));
    }
}

TEST_CASE("memory plan: what a library's products work in is counted on a GPU") {
  gpu::emulate(true);
  const auto plan = [](Device device) {
    Gemma model(preset("tiny"));
    model.to(device);
    return app::plan_memory(model, 128);
  };
  const size_t bytes = 48'000'000;
  gpu::set_gemm_workspace(bytes);
  const app::MemoryPlan some = plan(Device::gpu);
  gpu::set_gemm_workspace(0);
  const app::MemoryPlan none = plan(Device::gpu);
  const bool library = gpu::cublaslt_why_not().empty();
  CHECK(some.total() - none.total() == Approx(library ? static_cast<double>(bytes) : 0));
  if (library) CHECK_THAT(some.text(), Catch::Contains(", workspace 48.0 MB"));
  CHECK_THAT(none.text(), !Catch::Contains("workspace"));
  gpu::set_gemm_workspace(bytes);
  CHECK_THAT(plan(Device::cpu).text(), !Catch::Contains("workspace"));
}

TEST_CASE("memory plan: a policy that fits is named") {
  app::MemoryPlan plan;
  plan.weights = 1e9, plan.activations = 3e9, plan.recompute = Recompute::none;
  plan.activations_with = {{Recompute::none, 3e9}, {Recompute::norms, 2e9}, {Recompute::mlp, 1e9}, {Recompute::block, 5e8}};
  CHECK(plan.misfit(4.5e9).empty());
  CHECK_THAT(plan.misfit(4.3e9, " on the GPU"), Catch::StartsWith("needs 4") && Catch::Contains("free on the GPU; --recompute norms would need 3"));
  CHECK_THAT(plan.misfit(2.5e9), Catch::Contains("--recompute mlp would need 2"));
  CHECK_THAT(plan.misfit(1.6e9), Catch::Contains("try --adapter lora") && !Catch::Contains("--recompute"));
  plan.recompute = Recompute::mlp, plan.activations = 1e9;
  CHECK_THAT(plan.misfit(2e9), Catch::Contains("--recompute block would need 1"));
}

// What a training step asks the system for. Counted: blocks the pool takes from the system, and calls of the global operator new
// (every std container, string and function of the process). Not counted: making the batch and writing logs, which happen outside
// of the counted region and are data, not mathematics.
#include <catch2/catch.hpp>

#include "optim/adamw.h"
#include "optim/clip.h"
#include "tests/train/count_new.h"
#include "tests/train/small.h"

using namespace facet;
using namespace facet::test;

TEST_CASE("a training step takes nothing from the system after the second") {
  // Of several threads each takes a workspace when it first works beside the others, in whichever step that happens.
  const OneThread one_thread;
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const Recompute recompute : {Recompute::none, Recompute::norms, Recompute::mlp, Recompute::block}) {
      INFO(name_of(dtype) << ", recompute " << static_cast<int>(recompute));
      const auto model = small_model(dtype);
      model->recompute = recompute;
      const Dataset data = small_data(8);
      const Loader loader(data, {.batch = 8, .accum = 2});
      AdamW optimizer({{.parameters = parameters(*model), .weight_decay = 0.1}});
      const std::vector<Batch> batch = loader.at(0);
      for (int step = 1; step <= 8; ++step) {
        const size_t blocks = pool_stats().sys_allocs;
        const int64_t before = calls_of_new();
        const StepReport r = accumulate_sft(*model, batch);
        const Clip clip = clip_global_norm(optimizer.parameters(), 1.0);
        optimizer.step(1e-3, clip.scale);
        const int64_t called = calls_of_new() - before;
        const size_t taken = pool_stats().sys_allocs - blocks;
        INFO("step " << step << ", loss " << r.loss);
        if (step <= 2) continue;
        CHECK(called == 0);
        CHECK(taken == 0);
      }
    }
}

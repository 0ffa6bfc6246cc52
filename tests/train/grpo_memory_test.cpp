// What a step of GRPO takes beyond a supervised one on the same tokens: the keys and values of its rollouts, and a row of numbers a token.
#include <catch2/catch.hpp>

#include "tensor/storage.h"
#include "tests/train/grpo_small.h"

using namespace facet;
using namespace facet::test;

TEST_CASE("grpo: a step peaks at most at a supervised step's memory on the same tokens and the cache") {
  for (const Recompute recompute : {Recompute::none, Recompute::block}) {
    GrpoTask task;
    task.model->recompute = recompute;
    GrpoOptions o = task.options();
    o.rollout.group = 32;
    o.rollout.max_new = 24;
    o.rollout.stop = {task.tokenizer.encode("z")[0]};
    o.updates = 2;
    const size_t before = pool_stats().live_bytes;
    size_t peak = 0, cache = 0;
    int64_t learned = 0;
    std::vector<PolicyBatch> batches;
    {
      Grpo g = task.objective(o);
      g.accumulate(0);
      cache = pool_stats().live_bytes - before - 4 * static_cast<size_t>(count_parameters(*task.model));
      pool_reset_peak();
      learned = g.accumulate(2).supervised;
      peak = pool_stats().peak_bytes - before;

      Snapshot s;
      g.save(s);
      std::vector<int32_t> tokens;
      std::vector<PolicySequence> list;
      const auto numbers = [&](const char* name) {
        for (const auto& [n, t] : s.files.at("objective"))
          if (n == name) return std::vector<int32_t>(t.view().as<int32_t>(), t.view().as<int32_t>() + t.numel());
        return std::vector<int32_t>();
      };
      tokens = numbers("tokens");
      const std::vector<int64_t> asked = g.questions_of(1);
      int64_t first = 0, i = 0;
      for (const int32_t n : numbers("lengths")) {
        list.push_back({task.train[static_cast<size_t>(asked[static_cast<size_t>(i / o.rollout.group)])].ids,
                        std::span(tokens).subspan(static_cast<size_t>(first), static_cast<size_t>(n)), first, i / o.rollout.group, i});
        first += n, ++i;
      }
      REQUIRE(first == learned);
      batches = policy_batches(list, o.layout);
    }
    REQUIRE(batches.size() == 1);
    Batch batch{batches[0].tokens.ids, batches[0].labels, batches[0].tokens.positions, batches[0].tokens.segments, learned, batches[0].computed, {}, {}};
    const size_t own = pool_stats().live_bytes - before - 4 * static_cast<size_t>(count_parameters(*task.model));  // the batch itself
    pool_reset_peak();
    batch_loss(*task.model, batch, 1.0 / static_cast<double>(learned));
    const size_t supervised = pool_stats().peak_bytes - before;
    INFO("GRPO " << peak << ", supervised " << supervised << " of which batch " << own << ", cache " << cache);
    CHECK(cache > 0);
    const size_t told = sizeof(PolicyToken) * static_cast<size_t>(learned);  // what the head is told of every token, and says of it
    CHECK(peak <= supervised + cache + told);
    CHECK(peak >= supervised / 2);  // the same kind of step
  }
}

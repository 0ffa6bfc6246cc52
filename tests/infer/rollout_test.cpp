#include "infer/rollout.h"

#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "autograd/ops.h"
#include "tensor/error.h"
#include "tensor/kernels/copy.h"
#include "tensor/parallel.h"
#include "tests/infer/models.h"

using namespace facet;
using namespace facet::test;

namespace {

using Prompts = std::vector<std::vector<int32_t>>;

Prompts some_prompts(int64_t vocab) {
  Prompts list;
  for (uint32_t i = 0; const int64_t n : {7, 3, 12, 1, 9}) list.push_back(some_tokens(n, vocab, ++i));
  return list;
}

/// Log-probabilities of the rollouts' tokens from one pass over whole sequences, padded at the right.
std::vector<std::vector<float>> log_probs_of(Gemma& model, const Prompts& prompts, const std::vector<Rollout>& rollouts, double temperature) {
  const NoGrad off;
  const auto B = static_cast<int64_t>(rollouts.size());
  int64_t T = 0;
  for (const Rollout& r : rollouts) T = std::max(T, static_cast<int64_t>(prompts[static_cast<size_t>(r.prompt)].size() + r.tokens.size()) - 1);
  const Tensor ids = Tensor::zeros({B, T}, DType::i32), positions = Tensor::full({B, T}, -1, DType::i32), labels = Tensor::full({B, T}, -1, DType::i32);
  for (int64_t b = 0; b < B; ++b) {
    const Rollout& r = rollouts[static_cast<size_t>(b)];
    std::vector<int32_t> all = prompts[static_cast<size_t>(r.prompt)];
    const size_t begin = all.size();
    all.insert(all.end(), r.tokens.begin(), r.tokens.end());
    for (size_t t = 0; t + 1 < all.size(); ++t) {
      const auto at = static_cast<size_t>(b * T) + t;
      ids.out().as<int32_t>()[at] = all[t];
      positions.out().as<int32_t>()[at] = static_cast<int32_t>(t);
      if (t + 1 >= begin) labels.out().as<int32_t>()[at] = all[t + 1];
    }
  }
  const Tensor h = model.hidden({ids, positions, {}});
  const Tensor y = linear_log_probs(h, model.head().value(), labels, model.final_cap(), temperature).to(DType::f32);
  std::vector<std::vector<float>> result;
  for (int64_t b = 0; b < B; ++b) {
    const Rollout& r = rollouts[static_cast<size_t>(b)];
    const auto row = row_of(y, b).subspan(prompts[static_cast<size_t>(r.prompt)].size() - 1, r.tokens.size());
    result.emplace_back(row.begin(), row.end());
  }
  return result;
}

/// Largest |ratio - 1| of two sets of log-probabilities.
double gap(const std::vector<std::vector<float>>& now, const std::vector<Rollout>& rollouts) {
  double worst = 0;
  for (size_t i = 0; i < now.size(); ++i)
    for (size_t t = 0; t < now[i].size(); ++t)
      worst = std::max(worst, std::abs(std::exp(static_cast<double>(now[i][t]) - rollouts[i].log_probs[t]) - 1));
  return worst;
}

}  // namespace

TEST_CASE("rollout: what is drawn depends neither on rows nor on neighbours") {
  auto model = random_model();
  const Prompts prompts = some_prompts(model->vocab());
  RolloutOptions o{.group = 6, .max_new = 20, .rows = 1, .stop = {1, 17, 40}, .key = key(11)};
  const auto alone = roll_out(*model, prompts, o);
  REQUIRE(alone.size() == 30);
  Roller roller(*model);  // its cache is used again and again
  const int machine = threads();
  for (const int64_t rows : {3, 16, 256, 5}) {
    o.rows = rows;
    set_threads(rows == 16 ? 4 : machine);
    RolloutFigures f;
    const auto together = roller(prompts, o, &f);
    INFO(rows << " rows");
    REQUIRE(together.size() == alone.size());
    int64_t tokens = 0;
    for (size_t i = 0; i < alone.size(); ++i) {
      CHECK(together[i].prompt == static_cast<int64_t>(i) / 6);
      CHECK(together[i].member == static_cast<int64_t>(i) % 6);
      CHECK(together[i].tokens == alone[i].tokens);
      CHECK(together[i].stop == alone[i].stop);
      CHECK(together[i].log_probs == alone[i].log_probs);  // to the bit
      CHECK(together[i].entropy == alone[i].entropy);
      tokens += static_cast<int64_t>(alone[i].tokens.size());
    }
    CHECK(f.sampled == tokens);
    CHECK(f.prefilled == 7 + 3 + 12 + 1 + 9);  // once per prompt
    CHECK(f.busy > 0.4);
  }
  set_threads(machine);
}

TEST_CASE("rollout: greedy and filtered draws are those of generate; entropy is that of the distribution") {
  auto model = random_model();
  const Prompts prompts = some_prompts(model->vocab());
  for (const SamplingOptions& s : {SamplingOptions{.temperature = 0}, SamplingOptions{.temperature = 0, .repetition_penalty = 2, .forbidden = {4, 5}}}) {
    const auto rollouts = roll_out(*model, prompts, {.sampling = s, .group = 2, .max_new = 12, .rows = 3});
    const auto want = generate(*model, prompts, {.sampling = s, .max_new = 12});
    for (const Rollout& r : rollouts) CHECK(r.tokens == want[static_cast<size_t>(r.prompt)].tokens);
  }
  const Tensor logits = full_logits(*model, prompts[0]);
  const auto all = candidates(row_of(logits, 6), {.temperature = 0.8});
  const SamplingOptions filtered{.temperature = 0.8, .top_k = 3, .forbidden = {all[0].id}};
  const auto r = roll_out(*model, {prompts.data(), 1}, {.sampling = filtered, .group = 4, .max_new = 1, .key = key(2)});
  double entropy = 0;
  for (const Candidate& c : all) entropy -= c.probability * std::log(c.probability);
  for (const Rollout& one : r) {
    CHECK(one.entropy[0] == Approx(entropy).epsilon(1e-4));
    const auto drawn = std::ranges::find(all, one.tokens[0], &Candidate::id);
    CHECK((drawn - all.begin() >= 1 && drawn - all.begin() <= 3));
    CHECK(one.log_probs[0] == Approx(std::log(drawn->probability)).margin(1e-4));  // of the whole vocabulary
  }
}

TEST_CASE("rollout: where completions end, and what is refused") {
  auto model = random_model();
  const Prompts long_one = {some_tokens(60, model->vocab())};  // the context is 64
  for (const Rollout& r : roll_out(*model, long_one, {.group = 3, .max_new = 50})) {
    CHECK(r.stop == Stop::context);
    CHECK(r.tokens.size() == 4);
  }
  for (const Rollout& r : roll_out(*model, long_one, {.group = 3, .max_new = 2})) CHECK(r.stop == Stop::length);
  std::vector<int32_t> every(static_cast<size_t>(model->vocab()));
  std::iota(every.begin(), every.end(), 0);
  for (const Rollout& r : roll_out(*model, some_prompts(61), {.group = 3, .rows = 2, .stop = every})) {
    CHECK(r.stop == Stop::stop_token);
    CHECK(r.tokens.size() == 1);
  }
  CHECK(roll_out(*model, {}, {}).empty());
  CHECK_THROWS_WITH(roll_out(*model, Prompts{{1}, {}}, {}), Catch::Contains("prompt 1") && Catch::Contains("no tokens"));
  CHECK_THROWS_WITH(roll_out(*model, Prompts{{1, 61}}, {}), Catch::Contains("token 61"));
  CHECK_THROWS_WITH(roll_out(*model, Prompts{some_tokens(64, 61)}, {}), Catch::Contains("context 64"));
  CHECK_THROWS_WITH(roll_out(*model, Prompts{{1}}, {.group = 0}), Catch::Contains("group"));
}

TEST_CASE("rollout: later calls ask the system for no memory") {
  auto model = random_model();
  const Prompts prompts = some_prompts(model->vocab());
  Roller roller(*model);
  RolloutOptions o{.group = 6, .max_new = 20, .rows = 8, .stop = {1, 17}, .key = key(1)};
  const auto first = roller(prompts, o);
  const auto again = roller(prompts, o);
  const size_t before = pool_stats().sys_allocs;
  const auto third = roller(prompts, o);
  CHECK(pool_stats().sys_allocs == before);
  for (size_t i = 0; i < first.size(); ++i) CHECK(first[i].log_probs == third[i].log_probs);
}

TEST_CASE("kv cache: a copied row is the row, and one that has gone round fits no other ring") {
  auto model = random_model();  // windows of 5
  const NoGrad off;
  const auto ids = some_tokens(9, model->vocab());
  KvCache small = model->new_cache(2, 16, 4), large = model->new_cache(3, 32, 32);
  const auto run = [&](KvCache& cache, int64_t row, int64_t begin, int64_t end) {
    cache.select(row, 1);
    std::vector<int32_t> at(static_cast<size_t>(end - begin));
    std::iota(at.begin(), at.end(), static_cast<int32_t>(begin));
    const std::vector<int32_t> part(ids.begin() + begin, ids.begin() + end);
    const Shape shape{1, end - begin};
    return model->hidden({Tensor::from(part, shape), Tensor::from(at, shape), {}}, &cache).to_vector();
  };
  run(large, 2, 0, 9);  // an old, longer row where the copy goes
  run(small, 0, 0, 4);
  small.copy(small, 0, 1);
  large.copy(small, 0, 2);
  const auto want = run(small, 0, 4, 7);
  CHECK(run(small, 1, 4, 7) == want);
  CHECK(run(large, 2, 4, 7) == want);
  run(small, 0, 7, 9);  // rings of 8 slots hold positions 1 to 8
  CHECK_THROWS_WITH(large.copy(small, 0, 2), Catch::Contains("gone round"));
  small.copy(small, 0, 1);  // the same ring: no question
  CHECK_THROWS_WITH(small.copy(small, 0, 2), Catch::Contains("row 2"));
}

TEST_CASE("rollout: at the first update the log-probabilities are those of the training pass, bit for bit") {
  for (const double temperature : {1.0, 0.7}) {
    auto model = random_model();
    const Prompts prompts = some_prompts(model->vocab());
    const RolloutOptions o{.sampling = {.temperature = temperature}, .group = 4, .max_new = 24, .rows = 7, .stop = {1, 17}, .key = key(3)};
    const auto rollouts = roll_out(*model, prompts, o);
    CHECK(gap(log_probs_of(*model, prompts, rollouts, temperature), rollouts) == 0);
    const std::vector<Rollout> few(rollouts.begin() + 5, rollouts.begin() + 6);
    CHECK(gap(log_probs_of(*model, prompts, few, temperature), few) == 0);
    CHECK(gap(log_probs_of(*model, prompts, rollouts, 0.9), rollouts) > 1e-3);  // another temperature
    for (Parameter* p : parameters(*model))
      if (p->name == "layers.1.mlp.gate_proj.weight") copy(mul(p->value(), 1.05).view(), p->value().out());
    CHECK(gap(log_probs_of(*model, prompts, rollouts, temperature), rollouts) > 1e-4);  // other weights
  }
}

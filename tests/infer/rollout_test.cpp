#include "infer/rollout.h"

#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>

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
  for (const int64_t rows : {3, 16, 256, 5}) {
    o.rows = rows;
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
      tokens += static_cast<int64_t>(alone[i].tokens.size());
    }
    CHECK(f.sampled == tokens);
    CHECK(f.prefilled == 7 + 3 + 12 + 1 + 9);  // once per prompt
    CHECK(f.busy > 0.4);
  }
}

TEST_CASE("rollout: at the first update the log-probabilities are those of the training pass") {
  for (const double temperature : {1.0, 0.7}) {
    auto model = random_model();
    const Prompts prompts = some_prompts(model->vocab());
    const RolloutOptions o{.sampling = {.temperature = temperature}, .group = 4, .max_new = 24, .rows = 7, .stop = {1, 17}, .key = key(3)};
    const auto rollouts = roll_out(*model, prompts, o);
    CHECK(gap(log_probs_of(*model, prompts, rollouts, temperature), rollouts) <= 1e-4);
    CHECK(gap(log_probs_of(*model, prompts, rollouts, 0.9), rollouts) > 1e-3);  // another temperature
    for (Parameter* p : parameters(*model))
      if (p->name == "layers.1.mlp.gate_proj.weight") copy(mul(p->value(), 1.05).view(), p->value().out());
    CHECK(gap(log_probs_of(*model, prompts, rollouts, temperature), rollouts) > 1e-4);  // other weights
  }
}

// The gradient of a step does not depend on how the step is computed: cut into micro-batches, packed, recomputed.
#include "train/sft.h"

#include <catch2/catch.hpp>

#include "autograd/ops.h"
#include "autograd/ops/linear_loss.h"
#include "tensor/storage.h"
#include "tests/support/compare.h"
#include "tests/train/small.h"

using namespace facet;
using namespace facet::test;

namespace {

struct Step {
  double loss;
  std::vector<Tensor> gradients;
};

Step one_step(DType dtype, int64_t accum, int64_t step, Recompute recompute = Recompute::none, bool pack = false) {
  const auto model = small_model(dtype);
  model->recompute = recompute;
  const Dataset data = small_data();
  const Loader loader(data, {.batch = pack ? 2 : 8, .accum = accum, .pack = pack, .row_len = 30});
  Sft sft(*model, loader, {});
  const StepReport r = sft.accumulate(step);
  int64_t supervised = 0;
  for (const Batch& b : loader.at(step)) supervised += b.supervised;
  CHECK(r.supervised == supervised);
  return {r.loss, gradients(*model)};
}

}  // namespace

TEST_CASE("sft: 8 = 4 x 2 = 2 x 4 = 1 x 8 examples, with masks of unequal length") {
  for (const auto& [dtype, tolerance] : {std::pair{DType::f64, 1e-12}, std::pair{DType::f32, 2e-6}})
    for (const int64_t step : {0, 2}) {
      const Step whole = one_step(dtype, 1, step);
      for (const int64_t accum : {2, 4, 8}) {
        INFO(name_of(dtype) << ", step " << step << ", " << accum << " micro-batches");
        const Step cut = one_step(dtype, accum, step);
        CHECK(cut.loss == Approx(whole.loss).epsilon(tolerance));
        CHECK(largest_difference(whole.gradients, cut.gradients) <= tolerance);
      }
    }
}

TEST_CASE("sft: the loss is the mean over learned tokens, not over rows or micro-batches") {
  const auto model = small_model(DType::f64);
  const Dataset data = small_data();
  const Loader loader(data, {.batch = 8, .accum = 4});
  const NoGrad off;
  double sum = 0;
  int64_t count = 0;
  for (const Batch& b : loader.at(0)) {
    const Tensor logits = model->logits(model->hidden({b.ids, b.positions, {}}));  // [B, T, V]
    for (int64_t r = 0; r < b.ids.dim(0); ++r)
      for (int64_t t = 0; t < b.ids.dim(1); ++t) {
        const double label = b.labels.at({r, t});
        if (label < 0) continue;
        double total = 0;
        for (int64_t v = 0; v < model->vocab(); ++v) total += std::exp(logits.at({r, t, v}));
        sum += std::log(total) - logits.at({r, t, static_cast<int64_t>(label)});
        ++count;
      }
  }
  const WithGrad on;
  Sft sft(*model, loader, {});
  CHECK(sft.accumulate(0).loss == Approx(sum / static_cast<double>(count)).epsilon(1e-12));
  const SftFigures f = evaluate_loss(*model, loader.at(0));
  CHECK(f.loss == Approx(sum / static_cast<double>(count)).epsilon(1e-12));
  CHECK(f.supervised == count);
}

TEST_CASE("sft: label smoothing and z-loss are learned from, not measured") {
  const auto model = small_model(DType::f64);
  const Dataset data = small_data();
  const Loader loader(data, {.batch = 4, .accum = 2});
  const SftLoss loss{.label_smoothing = 0.2, .z_loss = 0.01};
  double sum = 0;
  int64_t count = 0;
  {
    const NoGrad off;
    for (const Batch& b : loader.at(0)) {
      const Tensor log_p = log_softmax(model->logits(model->hidden({b.ids, b.positions, {}})));  // [B, T, V]
      const Tensor z = logsumexp(model->logits(model->hidden({b.ids, b.positions, {}})));         // [B, T]
      for (int64_t r = 0; r < b.ids.dim(0); ++r)
        for (int64_t t = 0; t < b.ids.dim(1); ++t) {
          const auto label = static_cast<int64_t>(b.labels.at({r, t}));
          if (label < 0) continue;
          double mean = 0;
          for (int64_t v = 0; v < model->vocab(); ++v) mean -= log_p.at({r, t, v}) / static_cast<double>(model->vocab());
          sum += -0.8 * log_p.at({r, t, label}) + 0.2 * mean + 0.01 * z.at({r, t}) * z.at({r, t});
          ++count;
        }
    }
  }
  Sft sft(*model, loader, loader.at(0), loss);
  CHECK(sft.accumulate(0).loss == Approx(sum / static_cast<double>(count)).epsilon(1e-12));
  CHECK(sft.evaluate().at("loss") == evaluate_loss(*model, loader.at(0)).loss);
}

TEST_CASE("sft: what is computed again is the same to the last bit") {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f64}) {
    const Step kept = one_step(dtype, 2, 0);
    for (const Recompute r : {Recompute::norms, Recompute::mlp, Recompute::block}) {
      const Step again = one_step(dtype, 2, 0, r);
      CHECK(again.loss == kept.loss);
      for (size_t i = 0; i < kept.gradients.size(); ++i) CHECK(bitwise_equal(kept.gradients[i], again.gradients[i]));
    }
  }
}

TEST_CASE("sft: packed rows are the same as rows of their own") {
  const Dataset data = small_data();
  const std::vector<std::vector<int64_t>> packed = {{0, 1, 2}, {3, 4}}, separate = {{0}, {1}, {2}, {3}, {4}};
  const auto step_of = [&](const std::vector<std::vector<int64_t>>& rows) {
    const auto model = small_model(DType::f64);
    const Batch b = make_batch(data, rows);
    CHECK(static_cast<bool>(b.segments) == (rows.size() == packed.size()));
    const double loss = accumulate_sft(*model, {&b, 1}).loss;
    return Step{loss, gradients(*model)};
  };
  const Step one = step_of(separate), other = step_of(packed);
  CHECK(other.loss == Approx(one.loss).epsilon(1e-13));
  CHECK(largest_difference(one.gradients, other.gradients) <= 1e-12);
}

TEST_CASE("sft: no gradient reaches another document of the row") {
  const Dataset data = small_data();
  for (const Recompute recompute : {Recompute::none, Recompute::block}) {
    const auto model = small_model();
    model->recompute = recompute;
    const Batch b = make_batch(data, std::vector<std::vector<int64_t>>{{0, 1}});  // tokens below 20, then tokens from 20 on
    const auto first = static_cast<int64_t>(data[0].ids.size()) - 1;
    for (const bool second : {false, true}) {
      model->embed_tokens.weight.clear_grad();
      const Tensor h = model->hidden({b.ids, b.positions, b.segments});  // [1, T, D]
      const Tensor part = second ? slice(h, 1, first, h.dim(1)) : slice(h, 1, 0, first);
      backward(sum(mul(part, part)));
      const Tensor g = model->embed_tokens.weight.grad();  // [V, D]
      double own = 0, foreign = 0;
      for (int64_t id = 0; id < 40; ++id)
        for (int64_t d = 0; d < g.dim(1); ++d) ((id >= 20) == second ? own : foreign) += std::abs(g.at({id, d}));
      CHECK(own > 0);
      CHECK(foreign == 0);
    }
  }
}

TEST_CASE("sft: block by block the loss and the gradients are those of whole logits, and the logits' memory is not taken") {
  GemmaConfig config = small_config();
  config.vocab = 30'000;
  config.layers = 1;
  config.kinds = pattern(1, 1);
  const Tokens tokens = plain_tokens(randint(key(3), {20, 32}, 0, config.vocab));
  Batch batch;
  batch.ids = tokens.ids, batch.positions = tokens.positions;
  batch.labels = randint(key(4), {20, 32}, 0, config.vocab);
  const int64_t n = batch.labels.numel(), block = linear_loss_chunk(n, config.vocab);
  REQUIRE(block < n / 2);
  struct Pass {
    double loss, peak;
    std::vector<Tensor> gradients;
  };
  const auto pass = [&](bool whole) {
    Gemma model(config);
    model.init(key(7));
    const auto before = pool_stats(Device::cpu).live_bytes;
    pool_reset_peak();
    const double loss = batch_loss(model, batch, 1.0 / static_cast<double>(n), {.whole_logits = whole});
    return Pass{loss, static_cast<double>(pool_stats(Device::cpu).peak_bytes - before), gradients(model)};
  };
  const Pass whole = pass(true), chunked = pass(false);
  CHECK(chunked.loss == Approx(whole.loss).epsilon(1e-6));
  CHECK(largest_difference(whole.gradients, chunked.gradients) <= 1e-5);
  const auto logits = static_cast<double>(config.vocab) * size_of(DType::f32);
  CHECK(whole.peak - chunked.peak >= 0.9 * static_cast<double>(n - block) * logits);
}

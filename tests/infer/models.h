// Two small models for the tests of generation: the reference checkpoint, and random weights of another shape.
#pragma once
#include <cmath>
#include <memory>
#include <numeric>

#include "models/gemma/hf.h"
#include "models/gemma/model.h"
#include "tests/support/goldens.h"

namespace facet::test {

inline std::unique_ptr<Gemma> reference_model(DType storage = DType::f32) {
  const std::string folder = golden_path("gemma3-tiny");
  auto model = std::make_unique<Gemma>(read_hf_config(folder), storage);
  load_weights(folder, model->config, named_values(*model));
  return model;
}

inline std::unique_ptr<Gemma> random_model(DType storage = DType::f32, int64_t vocab = 61) {
  GemmaConfig c;
  c.vocab = vocab, c.width = 24, c.layers = 3, c.heads = 3, c.kv_heads = 1, c.head_dim = 8, c.hidden = 40, c.window = 5;
  c.kinds = {LayerKind::local, LayerKind::global, LayerKind::local};
  c.query_scale_denominator = 8;
  c.generation = 2, c.final_cap = 30;
  c.context = 64;
  c.init_std = 0.3;
  auto model = std::make_unique<Gemma>(c, storage);
  model->init(key(5));
  return model;
}

inline std::vector<int32_t> some_tokens(int64_t n, int64_t vocab, uint32_t seed = 1) {
  const Tensor t = randint(key(seed), {n}, 3, vocab);
  return {t.data<int32_t>().begin(), t.data<int32_t>().end()};
}

/// Logits f32 [T, V] of one pass over everything, without a cache.
inline Tensor full_logits(Gemma& model, const std::vector<int32_t>& ids) {
  const NoGrad off;
  const Tensor h = model.hidden(plain_tokens(Tensor::from(ids, {1, static_cast<int64_t>(ids.size())})));
  return model.logits(h).to(DType::f32).reshape({static_cast<int64_t>(ids.size()), model.vocab()});
}

inline std::span<const float> row_of(const Tensor& t, int64_t i) {
  const auto n = static_cast<size_t>(t.dim(1));
  return t.data<float>().subspan(static_cast<size_t>(i) * n, n);
}

/// Largest difference in units of the standard deviation of `want`; infinite when something is no number.
inline double distance(std::span<const float> got, std::span<const float> want) {
  if (got.size() != want.size()) return INFINITY;
  double mean = 0, square = 0, worst = 0;
  for (float x : want) mean += x / static_cast<double>(want.size());
  for (float x : want) square += (x - mean) * (x - mean) / static_cast<double>(want.size());
  for (size_t i = 0; i < got.size(); ++i) {
    const double d = std::abs(static_cast<double>(got[i]) - want[i]);
    if (!(d <= worst)) worst = std::isfinite(d) ? d : INFINITY;
  }
  return worst / std::sqrt(square);
}

}  // namespace facet::test

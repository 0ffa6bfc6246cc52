// A small model and ragged data for tests of training: fast, but with everything that matters (local and global layers, grouped
// heads, masks of unequal length).
#pragma once
#include <cmath>
#include <memory>

#include "data/loader.h"
#include "models/gemma/model.h"
#include "tensor/parallel.h"
#include "train/sft.h"

namespace facet::test {

/// A step of this size is too small to share, and a team waits long where others compute too.
struct OneThread {
  int before = threads();
  OneThread() { set_threads(1); }
  ~OneThread() { set_threads(before); }
};

inline GemmaConfig small_config() {
  GemmaConfig c;
  c.vocab = 40;
  c.width = 24;
  c.layers = 3;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_dim = 8;
  c.hidden = 40;
  c.window = 5;
  c.kinds = pattern(3, 3);
  c.query_scale_denominator = 8;
  c.context = 64;
  c.init_std = 0.2;  // attention and losses that differ between rows from the first step on
  return c;
}

inline std::unique_ptr<Gemma> small_model(DType dtype = DType::f32, uint32_t seed = 7) {
  auto model = std::make_unique<Gemma>(small_config(), dtype);
  model->init(key(seed));
  return model;
}

/// `n` sequences of 3 to 14 tokens, of which the last third or so is learned. A sequence with an odd number uses the upper half of
/// the vocabulary, the others the lower half.
inline Dataset small_data(int64_t n = 21) {
  Dataset data;
  uint32_t state = 12345;
  const auto draw = [&](uint32_t below) {
    state = state * 1664525u + 1013904223u;
    return (state >> 16) % below;
  };
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t length = 3 + draw(12), learned = 1 + draw(length / 2);
    Example e;
    for (uint32_t t = 0; t < length; ++t) e.add(static_cast<int32_t>(draw(20) + 20 * (i % 2)), t + learned >= length);
    data.add(e, i + 1);
  }
  return data;
}

/// `n` pairs: a prompt of 1 to 6 tokens, then completions of 1 to 5 out of four, others for the chosen than for the rejected.
inline Dataset small_pairs(int64_t n = 13) {
  Dataset data(Task::preference, "pairs.jsonl");
  uint32_t state = 4321;
  const auto draw = [&](uint32_t below) {
    state = state * 1664525u + 1013904223u;
    return (state >> 16) % below;
  };
  for (int64_t i = 0; i < n; ++i) {
    Example prompt;
    for (uint32_t t = 0, length = 1 + draw(6); t < length; ++t) prompt.add(static_cast<int32_t>(draw(40)), false);
    for (const int32_t half : {0, 20}) {
      Example e = prompt;
      for (uint32_t t = 0, length = 1 + draw(5); t < length; ++t) e.add(half + static_cast<int32_t>(draw(4)), true);
      data.add(e, i + 1);
    }
  }
  return data;
}

/// Copies of all gradients, in the order of parameters(); zeros where there is none.
inline std::vector<Tensor> gradients(Module& model) {
  std::vector<Tensor> list;
  for (Parameter* p : parameters(model)) {
    const Tensor g = p->grad();
    list.push_back(g ? g.clone() : Tensor::zeros(p->value().shape(), acc_dtype(p->value().dtype())));
  }
  return list;
}

/// Largest difference of two lists, relative to the largest entry of each tensor.
inline double largest_difference(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const auto x = a[i].to_vector(), y = b[i].to_vector();
    double top = 0, difference = 0;
    for (size_t k = 0; k < x.size(); ++k) {
      top = std::max(top, std::abs(x[k]));
      difference = std::max(difference, std::abs(x[k] - y[k]));
    }
    if (!(difference == 0)) worst = std::max(worst, difference / top);
  }
  return worst;
}

}  // namespace facet::test

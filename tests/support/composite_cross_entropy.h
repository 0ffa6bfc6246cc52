// The slow twin of linear_cross_entropy, and what its tests share.
#pragma once
#include <cmath>
#include <vector>

#include "autograd/ops.h"
#include "tests/support/random.h"

namespace facet::test {

/// The definition, element by element in f64.
inline Tensor plain_cross_entropy(const Tensor& h, const Tensor& w, const Tensor& labels, const Tensor& weights, const CrossEntropyOptions& o) {
  const int64_t N = labels.numel(), D = h.dim(-1), V = w.dim(0);
  const auto hs = h.to_vector(), ws = w.to_vector(), ys = labels.to_vector();
  const auto gs = weights ? weights.to_vector() : std::vector<double>(N, 1.0);
  double total = 0;
  for (int64_t n = 0; n < N; ++n) {
    if (ys[n] < 0) continue;
    std::vector<double> z(V);
    double sum = 0, mean = 0;
    for (int64_t v = 0; v < V; ++v) {
      for (int64_t d = 0; d < D; ++d) z[v] += hs[n * D + d] * ws[v * D + d];
      if (o.cap > 0) z[v] = o.cap * std::tanh(z[v] / o.cap);
      sum += std::exp(z[v]);
      mean += z[v] / static_cast<double>(V);
    }
    const double lse = std::log(sum), e = o.label_smoothing;
    total += gs[n] * ((1 - e) * (lse - z[static_cast<size_t>(ys[n])]) + e * (lse - mean) + o.z_loss * lse * lse);
  }
  return Tensor::scalar(total, DType::f64);
}

/// Some of the labels are ignored (negative), the first is not.
inline Tensor labels_of(Random& r, const Shape& shape, int64_t V, int every_ignored = 3) {
  std::vector<int32_t> y;
  for (int64_t n = 0; n < shape.numel(); ++n)
    y.push_back(r.below(every_ignored) == 0 ? -1 - static_cast<int32_t>(r.below(100)) : static_cast<int32_t>(r.below(V)));
  if (!y.empty() && y[0] < 0) y[0] = 0;
  return Tensor::from(y, shape);
}

inline const CrossEntropyOptions all_cross_entropy_options[] = {{}, {.cap = 3}, {.label_smoothing = 0.2}, {.z_loss = 0.05}, {2, 0.1, 0.01}};

}  // namespace facet::test

// The slow twin of linear: x w^T by three loops in double.
#pragma once
#include <vector>

#include "tensor/tensor.h"

namespace facet::test {

/// x [.., I], w [O, I] -> [.., O] of x's dtype
inline Tensor slow_linear(const Tensor& x, const Tensor& w) {
  Shape shape = x.shape();
  shape[-1] = w.dim(0);
  const auto vx = x.to_vector(), vw = w.to_vector();
  const int64_t n = x.shape().rows(), in = w.dim(1), out = w.dim(0);
  std::vector<double> y(n * out);
  for (int64_t r = 0; r < n; ++r)
    for (int64_t o = 0; o < out; ++o)
      for (int64_t i = 0; i < in; ++i) y[r * out + o] += vx[r * in + i] * vw[o * in + i];
  return Tensor::from(y, shape).to(x.dtype());
}

}  // namespace facet::test

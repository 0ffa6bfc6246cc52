// Kernels work along the last dimension; operations along any. moved_last gives a kernel the window it expects.
#pragma once
#include "tensor/tensor.h"

namespace facet {

/// v with dimension `dim` behind all others, which keep their order. Rank 0 counts as [1].
template <class V>
V moved_last(V v, int dim) {
  if (v.shape.rank == 0) v.shape = {1}, v.stride = {1};
  for (int i = dim; i + 1 < v.shape.rank; ++i) {
    std::swap(v.shape.dim[i], v.shape.dim[i + 1]);
    std::swap(v.stride.dim[i], v.stride.dim[i + 1]);
  }
  return v;
}

/// As normal_dim, but a scalar has the one dimension 0 (or -1).
inline int along_dim(const char* op, int dim, const Tensor& x) { return normal_dim(op, dim, std::max(1, x.rank())); }

/// x's shape with size 1 in `dim` (as backward sees it), and what the caller gets.
inline Shape kept_shape(const Shape& x, int dim) {
  Shape s = x;
  if (s.rank) s[dim] = 1;
  return s;
}
inline Tensor dropped(const Tensor& y, int dim, bool keep) {
  if (keep || y.rank() == 0) return y;
  Shape s;
  for (int i = 0; i < y.rank(); ++i)
    if (i != dim) s.push(y.dim(i));
  return y.reshape(s);
}

}  // namespace facet

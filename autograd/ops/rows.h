// What the row-wise ops check and prepare alike.
#pragma once
#include "tensor/tensor.h"

namespace facet {

/// Kernels read rows whose elements are contiguous; a tensor without such rows (transposed, expanded along the last dimension) is
/// copied once. The result carries no history.
inline Tensor with_dense_rows(const Tensor& x) {
  const Tensor t = x.detach();
  return t.rank() == 0 || t.dim(-1) <= 1 || t.stride()[-1] == 1 ? t : t.dense();
}

/// A [.., D] window as [N, D], when its leading dimensions follow each other in memory; else absent.
template <class V>
V as_rows(V v) {
  const int r = v.shape.rank;
  Shape shape{v.shape.rows(), v.shape[-1]}, stride{v.shape[-1], v.stride[-1]};
  bool first = true;
  int64_t next = 0;
  for (int i = r - 2; i >= 0; --i) {
    if (v.shape.dim[i] == 1) continue;
    if (first) stride.dim[0] = v.stride.dim[i];
    else if (v.stride.dim[i] != next) return {};
    first = false;
    next = v.stride.dim[i] * v.shape.dim[i];
  }
  v.shape = shape;
  v.stride = stride;
  return v;
}

/// Elements [begin, end) of the last dimension.
template <class V>
V columns(V v, int64_t begin, int64_t end) {
  v.data = static_cast<const char*>(v.data) + begin * v.stride[-1] * size_of(v.dtype);
  v.shape[-1] = end - begin;
  return v;
}

inline void check_floating(const char* op, const char* name, const Tensor& x) {
  if (!x) fail(Kind::usage, "{}: {} is absent", op, name);
  if (x.dtype() == DType::i32) fail(Kind::usage, "{}: {} {} is i32, expected f32, bf16 or f64", op, name, to_string(x.shape()));
}

/// The weight of a norm over the last dimension of x: [D], f64 with f64, else f32 or bf16 whatever x is.
inline void check_norm_weight(const char* op, const Tensor& x, const Tensor& w) {
  check_floating(op, "w", w);
  if (w.rank() != 1 || w.dim(0) != x.dim(-1))
    fail(Kind::usage, "{}: w {} does not fit x {}: expected w [{}]", op, to_string(w.shape()), to_string(x.shape()), x.dim(-1));
  if (acc_dtype(w.dtype()) != acc_dtype(x.dtype()))
    fail(Kind::usage, "{}: w is {} and x is {}: cast one of them", op, name_of(w.dtype()), name_of(x.dtype()));
}

}  // namespace facet

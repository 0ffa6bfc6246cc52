// Index arithmetic of strided windows, usable in code for any instruction set.
#pragma once
#include "tensor/view.h"

namespace facet::cpu {

/// v's strides seen from a shape it broadcasts to (aligned at the last dimension): 0 where it repeats.
FACET_INLINE Shape broadcast_strides(const View& v, const Shape& shape) {
  Shape s;
  s.rank = shape.rank;
  for (int i = 0; i < shape.rank; ++i) {
    const int j = i - (shape.rank - v.shape.rank);
    s.dim[i] = j < 0 || v.shape.dim[j] == 1 ? 0 : v.stride.dim[j];
  }
  return s;
}

/// Drops dimensions of size 1 and merges neighbours that every window walks as one, so that dense tensors become a single run.
/// `stride` are the windows' strides over `shape`; at least one dimension remains.
template <int windows>
FACET_INLINE void coalesce(Shape& shape, Shape (&stride)[windows]) {
  int k = -1;
  for (int i = 0; i < shape.rank; ++i) {
    if (shape.dim[i] == 1) continue;
    bool joins = k >= 0;
    for (const Shape& s : stride) joins = joins && s.dim[k < 0 ? 0 : k] == s.dim[i] * shape.dim[i];
    if (joins) shape.dim[k] *= shape.dim[i];
    else shape.dim[++k] = shape.dim[i];
    for (Shape& s : stride) s.dim[k] = s.dim[i];
  }
  if (k < 0) {
    shape.dim[++k] = 1;
    for (Shape& s : stride) s.dim[k] = 1;
  }
  shape.rank = k + 1;
  for (Shape& s : stride) s.rank = k + 1;
}

/// Where the element with this row-major number lies.
FACET_INLINE int64_t offset_of(int64_t number, const Shape& shape, const Shape& stride) {
  int64_t offset = 0;
  for (int i = shape.rank - 1; i >= 0; --i) {
    offset += number % shape.dim[i] * stride.dim[i];
    number /= shape.dim[i];
  }
  return offset;
}

}  // namespace facet::cpu

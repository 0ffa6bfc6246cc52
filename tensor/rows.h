// Windows [.., D] seen as rows, for kernels that work row by row. Elements of a row are contiguous; rows may lie anywhere, so a
// slice of a fused projection needs no copy.
#pragma once
#include "tensor/view.h"

namespace facet {

struct Rows {
  int64_t n = 1;      ///< how many
  int64_t d = 1;      ///< elements in one
  Shape size, step;   ///< the row index as a tuple, neighbouring dimensions merged where the layout allows

  FACET_INLINE explicit Rows(const View& v) {
    if (v.shape.rank > 0) d = v.shape[-1];
    for (int i = 0; i + 1 < v.shape.rank; ++i) {
      const int64_t s = v.shape.dim[i], t = v.stride.dim[i];
      n *= s;
      if (s == 1) continue;
      if (size.rank > 0 && step[-1] == s * t) {
        size[-1] *= s;
        step[-1] = t;
      } else {
        size.push(s);
        step.push(t);
      }
    }
  }
  /// All rows lie one after the other.
  FACET_INLINE bool dense() const { return size.rank == 0 || (size.rank == 1 && step.dim[0] == d); }
  /// From row to row, of rows that lie at one distance: dense ones, and those with room behind them.
  FACET_INLINE int64_t pitch() const { return size.rank == 0 ? d : step.dim[0]; }
  /// Where row r begins, in elements.
  FACET_INLINE int64_t at(int64_t r) const {
    if (size.rank == 0) return 0;
    if (size.rank == 1) return r * step.dim[0];
    // Below 2^32 rows when they lie in several dimensions: a division of 64 bits is a call on a GPU, around which registers are spilled.
    int64_t offset = 0;
    auto rest = static_cast<uint32_t>(r);
    for (int i = size.rank - 1; i > 0; --i) {
      const auto s = static_cast<uint32_t>(size.dim[i]);
      offset += rest % s * step.dim[i];
      rest /= s;
    }
    return offset + rest * step.dim[0];
  }
  /// Rows for one chunk of parallel_for: some 8,192 elements.
  FACET_INLINE int64_t chunk() const { return d >= 8192 ? 1 : 8192 / (d > 0 ? d : 1); }
};

}  // namespace facet

// The rotary table as kernels see it: plain numbers in pages (CPU) or one after the other (GPU). tensor/rope_table.h makes them.
#pragma once
#include "tensor/view.h"

namespace facet {

/// What a kernel sees of a table: row p is [cos | sin], Dh numbers.
///   CPU: of f32 or f64, at pages[p >> bits] + (p & mask) * Dh; the caller has asked for every position there is.
///   GPU: of f32, at rows + p * Dh for p < count; kernels ask at(), since nobody on the host knows the positions.
struct RopeRows {
  static constexpr int bits = 9;
  static constexpr int64_t page_rows = int64_t{1} << bits;

  const void* const* pages = nullptr;
  int64_t head_dim = 0;
  const float* rows = nullptr;
  int64_t count = 0;

  template <class A>
  FACET_INLINE const A* row(int64_t p) const {
    return static_cast<const A*>(pages[p >> bits]) + (p & (page_rows - 1)) * head_dim;
  }
  /// Row p in device memory, null when the table ends before it: its numbers count as NaN.
  FACET_INLINE const float* at(int64_t p) const { return p < count ? rows + p * head_dim : nullptr; }
};

}  // namespace facet

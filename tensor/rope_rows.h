// The rotary table as kernels see it: plain pages of numbers. tensor/rope_table.h makes them.
#pragma once
#include "tensor/view.h"

namespace facet {

/// What a kernel sees of a table: row p is [cos | sin], Dh numbers of f32 or f64, at page[p >> bits] + (p & mask) * Dh.
struct RopeRows {
  static constexpr int bits = 9;
  static constexpr int64_t page_rows = int64_t{1} << bits;

  const void* const* pages = nullptr;
  int64_t head_dim = 0;

  template <class A>
  FACET_INLINE const A* row(int64_t p) const {
    return static_cast<const A*>(pages[p >> bits]) + (p & (page_rows - 1)) * head_dim;
  }
};

}  // namespace facet

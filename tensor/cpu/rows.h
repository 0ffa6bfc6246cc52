// Windows [.., D] seen as rows, for kernels that work row by row. Elements of a row are contiguous; rows may lie anywhere, so a
// slice of a fused projection needs no copy.
#pragma once
#include <type_traits>

#include "tensor/cpu/bf16.h"

namespace facet::cpu {

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
  /// Where row r begins, in elements.
  FACET_INLINE int64_t at(int64_t r) const {
    if (size.rank == 0) return 0;
    if (size.rank == 1) return r * step.dim[0];
    int64_t offset = 0;
    for (int i = size.rank - 1; i > 0; --i) {
      offset += r % size.dim[i] * step.dim[i];
      r /= size.dim[i];
    }
    return offset + r * step.dim[0];
  }
  /// Rows for one chunk of parallel_for: some 8,192 elements.
  FACET_INLINE int64_t chunk() const { return d >= 8192 ? 1 : 8192 / (d > 0 ? d : 1); }
};

/// How a sum over n rows is cut into partial sums: at most 64, so that their memory and their addition stay small.
struct Partials {
  int64_t chunk, count;
  FACET_INLINE Partials(int64_t n, int64_t least) {
    chunk = (n + 63) / 64 > least ? (n + 63) / 64 : least;
    count = (n + chunk - 1) / chunk;
  }
};

/// Calls f(std::true_type) or f(std::false_type): a choice made once, outside the loop.
template <class F>
FACET_INLINE void by_bool(bool b, F&& f) {
  if (b) f(std::true_type{});
  else f(std::false_type{});
}

/// out[i] = 1 + w[i] (or 1 when w is absent) in the accumulation type, whatever w is stored in: formed in bf16 it would lose
/// every w below 2^-8.
template <class A>
FACET_INLINE void one_plus(View w, int64_t n, A* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = 1;
  if (!w) return;
  by_float_dtype(w.dtype, [&](auto t) __attribute__((always_inline)) {
    for (int64_t i = 0; i < n; ++i) out[i] += convert<A>(w.as<decltype(t)>()[i * w.stride[-1]]);
  });
}

}  // namespace facet::cpu

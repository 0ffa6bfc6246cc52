// What kernels that work row by row share: how their sums are cut, and weights as a dense row.
#pragma once
#include <type_traits>

#include "tensor/cpu/bf16.h"
#include "tensor/rows.h"

namespace facet::cpu {

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

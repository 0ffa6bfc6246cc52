#include "tensor/kernels/dropout.h"

#include "tensor/cpu/rows.h"
#include "tensor/cpu/simd.h"
#include "tensor/parallel.h"
#include "tensor/threefry.h"

namespace facet::cpu::FACET_TIER {
namespace {

// All ones where element n, n + 1, ... is kept: its 23 random bits, as a uniform number in [0, 1), are below q.
FACET_INLINE vi kept(const MaskKey& key, int64_t n, uint32_t limit) {
  vu step;
  for (int j = 0; j < lanes; ++j) step[j] = static_cast<uint32_t>(j);
  const uint32_t low = static_cast<uint32_t>(n), high = static_cast<uint32_t>(static_cast<uint64_t>(n) >> 32);
  vu b = step + low;
  vu a = high - __builtin_bit_cast(vu, b < low);  // one more where the low word has wrapped
  threefry_rounds<1>(key.hi, key.lo, &a, &b);
  return __builtin_bit_cast(vi, ((a ^ b) >> 9) < limit);
}

template <class T>
FACET_INLINE Vec<T> masked(Vec<T> v, vi keep) {
  if constexpr (std::is_same_v<T, double>) return keep[0] ? v : 0.0;
  else return __builtin_bit_cast(vf, __builtin_bit_cast(vi, v) & keep);
}

template <class T>
void run(const View& x, const MaskKey& key, double q, const Out& y) {
  const Rows rows(x);
  // The uniform numbers are m / 2^23 in f32 and are compared with q in f32, as JAX does.
  const double edge = static_cast<double>(static_cast<float>(q)) * (1 << 23);
  const uint32_t whole = static_cast<uint32_t>(edge), limit = whole + (static_cast<double>(whole) < edge);
  const Acc<T> scale = static_cast<Acc<T>>(1 / q);
  parallel_for(rows.n, rows.chunk(), 16 * rows.d, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T* const from = x.as<T>() + rows.at(r);
      T* const to = y.as<T>() + r * rows.d;
      for_row<T>(rows.d, [&](int64_t i, auto part) {
        put(to + i, masked<T>(load(from + i, part) * scale, kept(key, r * rows.d + i, limit)), part, y.accumulate);
      });
    }
  });
}

}  // namespace

void dropout(View x, MaskKey key, double q, Out y) {
  by_float_dtype(y.dtype, [&](auto t) { run<decltype(t)>(x, settled(key), q, y); });
}

}  // namespace facet::cpu::FACET_TIER

FACET_TIERED(dropout)

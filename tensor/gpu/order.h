// Orders of numbers as integers: a key is larger when its number is, NaN largest of all, and among equals when its index is smaller. No two
// elements of a row have the same key, so whatever is selected or sorted by it is the same in every run.
#pragma once
#include "tensor/gpu/device.h"

namespace facet::gpu {

FACET_INLINE uint64_t order_key(float v, int64_t index) {
  uint32_t u = 0xffffffffu;
  if (v == v) {
    u = __builtin_bit_cast(uint32_t, v + 0.0f);  // -0 equals 0
    u = u >> 31 ? ~u : u | 0x80000000u;
  }
  return static_cast<uint64_t>(u) << 32 | ~static_cast<uint32_t>(index);
}
FACET_INLINE uint32_t index_of_key(uint64_t key) { return ~static_cast<uint32_t>(key); }
/// The number of a key; any NaN for NaN's.
FACET_INLINE float number_of_key(uint64_t key) {
  const auto u = static_cast<uint32_t>(key >> 32);
  return __builtin_bit_cast(float, u >> 31 ? u & 0x7fffffffu : ~u);
}

/// Sorts `n` keys, a power of two, in shared or device memory, largest first (Batcher's bitonic network). All `threads` threads of the block
/// call it after a barrier; it ends with one.
template <int threads>
__device__ inline void sort_keys(uint64_t* keys, int64_t n) {
  for (int64_t size = 2; size <= n; size *= 2)
    for (int64_t half = size / 2; half > 0; half /= 2) {
      for (int64_t i = threadIdx.x; i < n / 2; i += threads) {
        const int64_t a = 2 * i - (i & (half - 1)), b = a + half;  // i / half * 2 * half + i % half
        const uint64_t x = keys[a], y = keys[b];
        if ((x < y) == ((a & size) == 0)) keys[a] = y, keys[b] = x;
      }
      sync_block();
    }
}

FACET_INLINE int64_t power_of_two_above(int64_t n) {
  int64_t p = 1;
  while (p < n) p *= 2;
  return p;
}

}  // namespace facet::gpu

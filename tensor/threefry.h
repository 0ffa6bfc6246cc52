// The block function of tensor/rng.h on vectors of counters. Included by code for foreign instruction sets (tensor/cpu/tier.h).
#pragma once
#include "tensor/view.h"

namespace facet {

/// Threefry-2x32 with 20 rounds on `regs` pairs of vectors, in place: counter words go in, random words come out. Written with vector
/// types because the compiler leaves the rotating loop scalar.
template <int regs, class V>
FACET_INLINE void threefry_rounds(uint32_t hi, uint32_t lo, V* a, V* b) {
  constexpr int rotation[8] = {13, 15, 26, 6, 17, 29, 16, 24};
  const uint32_t k[3] = {hi, lo, hi ^ lo ^ 0x1BD11BDAu};
  for (int i = 0; i < regs; ++i) a[i] += k[0], b[i] += k[1];
#ifdef __CUDACC__
#pragma unroll
#else
#pragma GCC unroll 5
#endif
  for (int group = 0; group < 5; ++group) {
#ifdef __CUDACC__
#pragma unroll
#else
#pragma GCC unroll 4
#endif
    for (int r = 0; r < 4; ++r) {
      const int left = rotation[group % 2 * 4 + r], right = 32 - left;
      for (int i = 0; i < regs; ++i) {
        a[i] += b[i];
        b[i] = (b[i] << left | b[i] >> right) ^ a[i];
      }
    }
    const uint32_t ka = k[(group + 1) % 3], kb = k[(group + 2) % 3] + static_cast<uint32_t>(group) + 1;
    for (int i = 0; i < regs; ++i) a[i] += ka, b[i] += kb;
  }
}

}  // namespace facet

#include "bench/support/loops.h"

namespace facet::cpu::FACET_TIER {
namespace {
#if defined(__AVX512F__)
constexpr int lanes = 16, chains = 12;
#elif defined(__AVX2__)
constexpr int lanes = 8, chains = 12;
#else
constexpr int lanes = 4, chains = 12;
#endif
typedef float V __attribute__((vector_size(lanes * 4)));
typedef float Unaligned __attribute__((vector_size(lanes * 4), aligned(4), may_alias));
volatile float sink;
}  // namespace

double fma_loop(int64_t rounds) {
  V sum[chains];
  V a = V{} + 1.0000001f, b = V{} + 1e-9f;
  asm volatile("" : "+m"(a), "+m"(b));
  for (V& s : sum) s = b;
  for (int64_t r = 0; r < rounds; ++r)
    for (int u = 0; u < 4; ++u)
#pragma GCC unroll 12
      for (int i = 0; i < chains; ++i) sum[i] = sum[i] * a + b;
  for (int i = 1; i < chains; ++i) sum[0] += sum[i];
  sink = sum[0][0];
  return 2.0 * chains * 4 * lanes * static_cast<double>(rounds);
}

double read_loop(const float* x, int64_t n) {
  constexpr int streams = 8;
  V sum[streams] = {};
  for (int64_t i = 0; i + streams * lanes <= n; i += streams * lanes)
#pragma GCC unroll 8
    for (int c = 0; c < streams; ++c) sum[c] += *reinterpret_cast<const Unaligned*>(x + i + c * lanes);
  for (int c = 1; c < streams; ++c) sum[0] += sum[c];
  sink = sum[0][0];
  return 4.0 * static_cast<double>(n);
}

}  // namespace facet::cpu::FACET_TIER

FACET_TIERED(fma_loop)
FACET_TIERED(read_loop)

// Few rows of a against lines of contiguous k, as in decoding: an element of b meets so few others that its way through a packed panel
// costs more than its products. W lines are transposed in registers and multiplied at once. The terms of a sum and the blocks of k are
// those of the panels, so a row's bits do not tell how many rows came with it. Part of gemm_tiles.cpp.
#pragma once
#include "tensor/cpu/gemm_pack.h"

namespace facet::cpu::FACET_TIER {
namespace {

constexpr int few = W > 8 ? 8 : 4;  // rows of a up to which b is not packed

// Reads the lines of the next panel into the cache, in the order in which they lie in memory.
template <class T>
struct Ahead {
  const T* line;
  int64_t line_step, k, at = 0;
  FACET_INLINE void touch() {
    __builtin_prefetch(line + at);
    at += 64 / static_cast<int64_t>(sizeof(T));
    if (at < k) return;
    at = 0;
    line += line_step;
  }
};

// A step of k: `v` holds one element of each line.
template <int M>
FACET_INLINE void add_products(V (&sum)[M], const float* a, int64_t line_a, V v) {
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m) sum[m] += a[m * line_a] * v;
}

template <int M, class T>
FACET_INLINE void sum_lines(V (&sum)[M], const T* b, int64_t line_step, int lines, int64_t k, const float* a, int64_t line_a, int64_t step_a,
                            Ahead<T>& ahead) {
  V r[W];
  int64_t j = 0;
  if constexpr (sizeof(T) == 2) {  // pairs, as in packing
    if (lines == W)
      for (; j + 2 * W <= k; j += 2 * W, a += 2 * W * step_a) {
#pragma GCC unroll 16
        for (int i = 0; i < W; ++i) {
          r[i] = load(reinterpret_cast<const float*>(b + i * line_step + j));
          ahead.touch();
        }
        transpose(r);
#pragma GCC unroll 16
        for (int i = 0; i < W; ++i) {
          const U pair = reinterpret_cast<U>(r[i]);
          add_products(sum, a + 2 * i * step_a, line_a, reinterpret_cast<V>(pair << 16));
          add_products(sum, a + (2 * i + 1) * step_a, line_a, reinterpret_cast<V>(pair & 0xffff0000u));
        }
      }
  }
  for (; j < k; j += W, a += W * step_a) {
    const int steps = k - j < W ? static_cast<int>(k - j) : W;
    if (steps == W && lines == W) {
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) {
        r[i] = load(b + i * line_step + j);
        ahead.touch();
      }
      transpose(r);
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) add_products(sum, a + i * step_a, line_a, r[i]);
      continue;
    }
    for (int i = 0; i < W; ++i) {
      const T* p = b + i * line_step + j;
      r[i] = i >= lines ? V{} : steps == W ? load(p) : load_some(p, steps);
    }
    transpose(r);
    for (int i = 0; i < steps; ++i) add_products(sum, a + i * step_a, line_a, r[i]);
  }
}

bool in_lines(const GemmTask& t) {
  const GemmPart& p = t.parts[0];
  return t.m0 == 0 && t.m1 <= few && t.read != GemmRead::pack && t.part_count == 1 && p.read == GemmRead::pack && p.b.k_step == 1 && p.b.line_step != 1;
}

// W lines at a time through all of k: what lies side by side is read one after the other.
template <int M, class T>
void multiply_lines(const GemmTask& t) {
  const GemmPart& p = t.parts[0];
  const T* b = static_cast<const T*>(p.b.data);
  Ahead<T> ahead{b + (p.n0 + W) * p.b.line_step + t.k0, p.b.line_step, t.k1 - t.k0};
  for (int64_t n = p.n0; n < p.n1; n += W) {
    const int lines = p.n1 - n < W ? static_cast<int>(p.n1 - n) : W;
    float* c = p.c + n;
    for (int64_t block = t.k0; block < t.k1; block += t.kc) {
      const int64_t k = t.k1 - block < t.kc ? t.k1 - block : t.kc;
      const Window a = window(t.a, t.read, t.panels, 0, M, t.k0, k, block, nullptr);
      const bool add = p.accumulate || block > t.k0;
      V sum[M] = {};
      sum_lines<M, T>(sum, b + n * p.b.line_step + block, p.b.line_step, lines, k, a.base, a.line_step, a.k_step, ahead);
#pragma GCC unroll 16
      for (int m = 0; m < M; ++m) {
        float* to = c + m * p.c_step;
        if (lines == W) store(to, add ? load(to) + t.alpha * sum[m] : t.alpha * sum[m]);
        else store_some(to, add ? load_some(to, lines) + t.alpha * sum[m] : t.alpha * sum[m], lines);
      }
    }
  }
}

using MultiplyLines = void (*)(const GemmTask&);
template <class T, int... M>
constexpr MultiplyLines lines_kernel(int rows, std::integer_sequence<int, M...>) {
  constexpr MultiplyLines of[] = {multiply_lines<M + 1, T>...};
  return of[rows - 1];
}

}  // namespace
}  // namespace facet::cpu::FACET_TIER

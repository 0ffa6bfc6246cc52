// Vectors of f32 and the packing of panels, with transposition in registers and widening of bf16. Part of gemm_tiles.cpp, compiled
// once per instruction set.
#pragma once
#include "tensor/cpu/gemm_tiles.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include <cstring>
#include <utility>

#include "tensor/cpu/bf16.h"

namespace facet::cpu::FACET_TIER {
namespace {

#if defined(__AVX512F__)
constexpr int W = 16, MR = 14;  // 28 sums, two vectors of b, one broadcast: 31 of 32 registers
#elif defined(__AVX2__)
constexpr int W = 8, MR = 6;  // 12 sums of 16 registers
#elif defined(__aarch64__)
constexpr int W = 4, MR = 12;  // 24 sums of 32 registers
#else
constexpr int W = 4, MR = 6;
#endif
constexpr int NV = 2, NR = NV * W;
// Few rows are too few sums to keep the multipliers busy: they take wider panels.
constexpr int NV_wide = 4, MR_wide = MR * NV / NV_wide;

typedef float V __attribute__((vector_size(W * 4)));
typedef float Unaligned __attribute__((vector_size(W * 4), aligned(4), may_alias));
typedef uint16_t Half __attribute__((vector_size(W * 2)));
typedef uint16_t UnalignedHalf __attribute__((vector_size(W * 2), aligned(2), may_alias));
typedef uint32_t U __attribute__((vector_size(W * 4)));
typedef int32_t I __attribute__((vector_size(W * 4)));

FACET_INLINE V load(const float* p) { return *reinterpret_cast<const Unaligned*>(p); }
FACET_INLINE V load(const bf16* p) {
  const Half h = *reinterpret_cast<const UnalignedHalf*>(p);
  return reinterpret_cast<V>(__builtin_convertvector(h, U) << 16);
}
FACET_INLINE void store(float* p, V v) { *reinterpret_cast<Unaligned*>(p) = v; }

// The first n lanes, 0 < n < W.
FACET_INLINE V load_some(const float* p, int n) {
#if defined(__AVX512F__)
  return reinterpret_cast<V>(_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p));
#elif defined(__AVX2__)
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return reinterpret_cast<V>(_mm256_maskload_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32(n), lane)));
#else
  V v = {};
  for (int i = 0; i < n; ++i) v[i] = p[i];
  return v;
#endif
}
FACET_INLINE V load_some(const bf16* p, int n) {
  bf16 t[W] = {};
  for (int i = 0; i < n; ++i) t[i] = p[i];
  return load(t);
}
FACET_INLINE void store_some(float* p, V v, int n) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), reinterpret_cast<__m512>(v));
#elif defined(__AVX2__)
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  _mm256_maskstore_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32(n), lane), reinterpret_cast<__m256>(v));
#else
  for (int i = 0; i < n; ++i) p[i] = v[i];
#endif
}

// ---- packing

// Exchanges the off-diagonal D x D blocks of every 2D x 2D block (Eklundh 1972): D = 1, 2, .. W/2 transposes a W x W matrix.
template <int D, int... L>
FACET_INLINE void exchange(V (&r)[W], std::integer_sequence<int, L...>) {
#pragma GCC unroll 16
  for (int i = 0; i < W; ++i) {
    if (i & D) continue;
    const V a = r[i], b = r[i + D];
    r[i] = __builtin_shufflevector(a, b, ((L & D) ? W + L - D : L)...);
    r[i + D] = __builtin_shufflevector(a, b, ((L & D) ? W + L : L + D)...);
  }
}
FACET_INLINE void transpose(V (&r)[W]) {
  constexpr auto lanes = std::make_integer_sequence<int, W>{};
  exchange<1>(r, lanes);
  exchange<2>(r, lanes);
  if constexpr (W > 4) exchange<4>(r, lanes);
  if constexpr (W > 8) exchange<8>(r, lanes);
}

// W lines (those from `lines` on are zeros) of contiguous k become columns of a panel.
template <class T>
FACET_INLINE void pack_transposed(const T* x, int64_t line_step, int lines, int64_t k, float* to, int64_t width, int columns) {
  V r[W];
  int64_t j = 0;
  if constexpr (sizeof(T) == 2) {  // two steps at a time: pairs of bf16 move as one f32, then come apart
    if (lines == W && columns == W) {
      for (; j + 2 * W <= k; j += 2 * W) {
#pragma GCC unroll 16
        for (int i = 0; i < W; ++i) {
          r[i] = load(reinterpret_cast<const float*>(x + i * line_step + j));
          __builtin_prefetch(x + (i + W) * line_step + j);
        }
        transpose(r);
        float* t = to + j * width;
#pragma GCC unroll 16
        for (int i = 0; i < W; ++i) {
          const U pair = reinterpret_cast<U>(r[i]);
          store(t + 2 * i * width, reinterpret_cast<V>(pair << 16));
          store(t + (2 * i + 1) * width, reinterpret_cast<V>(pair & 0xffff0000u));
        }
      }
    }
  }
  for (; j < k; j += W) {
    const int steps = k - j < W ? static_cast<int>(k - j) : W;
    if (steps == W && lines == W) {
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) {
        r[i] = load(x + i * line_step + j);
        __builtin_prefetch(x + (i + W) * line_step + j);  // streams through weights that are used once
      }
    } else {
      for (int i = 0; i < W; ++i) {
        const T* p = x + i * line_step + j;
        r[i] = i >= lines ? V{} : steps == W ? load(p) : load_some(p, steps);
      }
    }
    transpose(r);
    float* t = to + j * width;
    // In a panel narrower than a vector a full store may run into the next step, which is written afterwards; the last may not.
    if (steps == W && (columns == W || (columns == width && j + W < k))) {
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) store(t + i * width, r[i]);
    } else {
      for (int i = 0; i < steps; ++i) {
        if (columns == W) store(t + i * width, r[i]);
        else store_some(t + i * width, r[i], columns);
      }
    }
  }
}

// Lines side by side: each step of k is read through once and dealt out to the panels.
template <class T>
FACET_INLINE void pack_straight(const T* x, int64_t k_step, int64_t lines, int64_t k, float* to, int64_t width) {
  for (int64_t j = 0; j < k; ++j, x += k_step, to += width) {
    float* t = to;
    for (int64_t first = 0; first < lines; first += width, t += k * width) {
      const int64_t n = lines - first < width ? lines - first : width;
      int64_t i = 0;
      for (; i + W <= n; i += W) store(t + i, load(x + first + i));
      if (i < n) {
        store_some(t + i, load_some(x + first + i, static_cast<int>(n - i)), static_cast<int>(n - i));
        i = n;
      }
      for (; i < width; ++i) t[i] = 0;
    }
  }
}

template <class T>
void pack_panels(const GemmOperand& x, int64_t p0, int64_t p1, int64_t k0, int64_t k1, float* to) {
  const int64_t k = k1 - k0, width = x.width;
  if (x.line_step == 1) {
    const int64_t begin = p0 * width, end = p1 * width < x.lines ? p1 * width : x.lines;
    return pack_straight(static_cast<const T*>(x.data) + begin + k0 * x.k_step, x.k_step, end - begin, k, to, width);
  }
  for (int64_t p = p0; p < p1; ++p, to += k * width) {
    const int64_t left = x.lines - p * width;
    const int lines = static_cast<int>(left < width ? left : width);
    const T* from = static_cast<const T*>(x.data) + p * width * x.line_step + k0 * x.k_step;
    if (x.k_step == 1) {
      for (int c = 0; c < width; c += W) {
        const int columns = width - c < W ? static_cast<int>(width) - c : W;
        const int filled = lines - c < 0 ? 0 : lines - c < columns ? lines - c : columns;
        pack_transposed(from + c * x.line_step, x.line_step, filled, k, to + c, width, columns);
      }
    } else {
      for (int64_t j = 0; j < k; ++j)
        for (int i = 0; i < width; ++i)
          to[j * width + i] = i < lines ? convert<float>(from[i * x.line_step + j * x.k_step]) : 0.0f;
    }
  }
}

// Where a block of an operand's panels lies.
struct Window {
  const float* base;
  int64_t panel_step, line_step, k_step;
};

FACET_INLINE Window window(const GemmOperand& x, GemmRead read, const float* shared, int64_t first, int64_t end, int64_t k0,
                           int64_t k, int64_t block, float* own) {
  if (read == GemmRead::direct)
    return {static_cast<const float*>(x.data) + first * x.line_step + block * x.k_step, x.width * x.line_step, x.line_step,
            x.k_step};
  if (read == GemmRead::panels)
    return {shared + (block - k0) * x.panels() * x.width + first * k, x.width * k, 1, x.width};
  if (x.dtype == DType::bf16) pack_panels<bf16>(x, first / x.width, (end + x.width - 1) / x.width, block, block + k, own);
  else pack_panels<float>(x, first / x.width, (end + x.width - 1) / x.width, block, block + k, own);
  return {own, x.width * k, 1, x.width};
}

}  // namespace
}  // namespace facet::cpu::FACET_TIER

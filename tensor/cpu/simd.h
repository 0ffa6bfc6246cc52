// Vectors of float for tier files: `vf` is 4, 8 or 16 lanes wide by FACET_TIER, and arithmetic is the compiler's own
// (a * b + c becomes one fused operation where the tier has it). Functions of tensor/math.h work on vf.
//
// How a kernel walks a row of any element type (f32 and bf16 in vf, f64 in double):
//
//   for_row<T>(n, [&](int64_t i, auto part) {
//     const Vec<T> v = load(x + i, part);
//     store(y + i, v * v, part);
//   });
//
// `part` is All for whole vectors and Some for the rest of the row: loads then give zeros beyond the end, stores write
// nothing there.
#pragma once
#ifndef FACET_TIER
#error "tensor/cpu/simd.h is for files compiled in tiers (tensor/cpu/tier.h)"
#endif
#ifdef __AVX512BW__
#include <immintrin.h>
#endif

#include "tensor/cpu/bf16.h"
#include "tensor/math.h"

namespace facet::cpu::FACET_TIER {

#if defined(__AVX512F__)
constexpr int lanes = 16;
#elif defined(__AVX2__)
constexpr int lanes = 8;
#else
constexpr int lanes = 4;
#endif

typedef float vf __attribute__((vector_size(4 * lanes)));
typedef int32_t vi __attribute__((vector_size(4 * lanes)));
typedef uint32_t vu __attribute__((vector_size(4 * lanes)));
typedef uint16_t vu16 __attribute__((vector_size(2 * lanes)));

/// What a row of T is computed in, and how many elements one step takes.
template <class T>
using Vec = std::conditional_t<std::is_same_v<T, double>, double, vf>;
template <class T>
constexpr int width = std::is_same_v<T, double> ? 1 : lanes;

struct All {};
struct Some { int n; };  ///< 0 < n < lanes

// ---- loads and stores, unaligned

FACET_INLINE vf splat(float x) { return x - vf{}; }  // x - 0 is x, -0 included, and costs nothing; x + 0 is an addition
/// x in the type a row of T is computed in.
template <class T>
FACET_INLINE Vec<T> broadcast(Acc<T> x) {
  return x - Vec<T>{};
}

using cpu::narrow;  // of one number
using cpu::widen;
FACET_INLINE vf widen(vu16 x) { return __builtin_bit_cast(vf, __builtin_convertvector(x, vu) << 16); }
/// Rounds to nearest even; NaN stays a (quiet) NaN.
FACET_INLINE vu16 narrow(vf x) {
  const vu u = __builtin_bit_cast(vu, x);
  const vu rounded = u + 0x7fffu + ((u >> 16) & 1u);
  return __builtin_convertvector((x == x ? rounded : u | 0x400000u) >> 16, vu16);
}

FACET_INLINE vf load(const float* p, All = {}) {
  vf v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
FACET_INLINE vf load(const bf16* p, All = {}) {
  vu16 v;
  __builtin_memcpy(&v, p, sizeof v);
  return widen(v);
}
FACET_INLINE double load(const double* p, All = {}) { return *p; }
FACET_INLINE void store(float* p, vf v, All = {}) { __builtin_memcpy(p, &v, sizeof v); }
FACET_INLINE void store(bf16* p, vf v, All = {}) {
  const vu16 b = narrow(v);
  __builtin_memcpy(p, &b, sizeof b);
}
FACET_INLINE void store(double* p, double v, All = {}) { *p = v; }

#ifdef __AVX512BW__
FACET_INLINE vf load(const float* p, Some part) {
  return (vf)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << part.n) - 1), p);
}
FACET_INLINE vf load(const bf16* p, Some part) {
  return widen((vu16)_mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << part.n) - 1), p));
}
FACET_INLINE void store(float* p, vf v, Some part) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << part.n) - 1), (__m512)v);
}
FACET_INLINE void store(bf16* p, vf v, Some part) {
  _mm256_mask_storeu_epi16(p, static_cast<__mmask16>((1u << part.n) - 1), (__m256i)narrow(v));
}
#else
FACET_INLINE vf load(const float* p, Some part) {
  vf v{};
  for (int i = 0; i < lanes - 1; ++i)
    if (i < part.n) v[i] = p[i];
  return v;
}
FACET_INLINE vf load(const bf16* p, Some part) {
  vu16 v{};
  for (int i = 0; i < lanes - 1; ++i)
    if (i < part.n) v[i] = p[i].bits;
  return widen(v);
}
FACET_INLINE void store(float* p, vf v, Some part) {
  for (int i = 0; i < lanes - 1; ++i)
    if (i < part.n) p[i] = v[i];
}
FACET_INLINE void store(bf16* p, vf v, Some part) {
  const vu16 b = narrow(v);
  for (int i = 0; i < lanes - 1; ++i)
    if (i < part.n) p[i].bits = b[i];
}
#endif
FACET_INLINE double load(const double* p, Some) { return *p; }
FACET_INLINE void store(double* p, double v, Some) { *p = v; }

/// "=" or "+=", as Out::accumulate asks.
template <class T, class Part>
FACET_INLINE void put(T* p, Vec<T> v, Part part, bool accumulate) {
  if (accumulate) v += load(p, part);
  store(p, v, part);
}

/// Calls f(i, All{}) for every whole vector of a row of n elements, then f(i, Some{rest}) if something is left.
template <class T, class F>
FACET_INLINE void for_row(int64_t n, F&& f) {
  int64_t i = 0;
  for (; i + width<T> <= n; i += width<T>) f(i, All{});
  if (i < n) f(i, Some{static_cast<int>(n - i)});
}

// ---- choosing and reducing

FACET_INLINE vf select(vi mask, vf a, vf b) { return mask ? a : b; }
FACET_INLINE vf max(vf a, vf b) { return a > b ? a : b; }  ///< b when a is NaN
FACET_INLINE vf min(vf a, vf b) { return a < b ? a : b; }
FACET_INLINE double max(double a, double b) { return a > b ? a : b; }
FACET_INLINE double min(double a, double b) { return a < b ? a : b; }
using math::sqrt;

FACET_INLINE vi iota() {
  vi i{};
  for (int k = 0; k < lanes; ++k) i[k] = k;
  return i;
}
/// The sum of all lanes, folded by halves: a fixed order per tier.
FACET_INLINE float reduce_add(vf v) {
  for (int h = lanes / 2; h > 0; h /= 2) v += __builtin_shuffle(v, iota() ^ h);
  return v[0];
}
FACET_INLINE float reduce_max(vf v) {
  for (int h = lanes / 2; h > 0; h /= 2) v = max(v, __builtin_shuffle(v, iota() ^ h));
  return v[0];
}
FACET_INLINE double reduce_add(double v) { return v; }
FACET_INLINE double reduce_max(double v) { return v; }

}  // namespace facet::cpu::FACET_TIER

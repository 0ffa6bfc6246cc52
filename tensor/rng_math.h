// From random words to numbers, one at a time: the formulas tensor/rng.cpp and tensor/gpu/random.cu share. No libm. The CPU compiles them without
// contraction, so they give the same bits on every machine; on a GPU what needs a logarithm may differ in the last places.
#pragma once
#include "tensor/view.h"

namespace facet::rng {

// ---- logarithm and inverse error function in f32

// log(m 2^k) = k ln 2 + 2 atanh(s), s = (m-1)/(m+1), m in [sqrt(1/2), sqrt(2)): |s| < 0.172, where the series up to s^9 leaves a
// relative error of 2e-9. `low` is a small addend of x that did not fit into it.
FACET_INLINE float log_of(float x, float low = 0) {
  constexpr float ln2_hi = 0x1.62e4p-1f, ln2_lo = 0x1.7f7d1cp-20f;  // hi * k is exact
  const uint32_t u = __builtin_bit_cast(uint32_t, x);
  const int32_t shifted = static_cast<int32_t>(u - 0x3f3504f3u);  // bits of sqrt(1/2)
  const int32_t k = shifted >> 23;
  const float m = __builtin_bit_cast(float, u - (static_cast<uint32_t>(k) << 23));
  const float f = m - 1, s = f / (f + 2), z = s * s;
  const float series = z * (0x1.555556p-1f + z * (0x1.99999ap-2f + z * (0x1.24924ap-2f + z * 0x1.c71c72p-3f)));
  // 2 atanh(s) = f - f^2/2 + s (f^2/2 + series): the leading term is exact.
  const float h = f * f * 0.5f, kf = static_cast<float>(k);
  return kf * ln2_hi + (f - (h - (s * (h + series) + (kf * ln2_lo + low / x))));
}

// log(1 - t) for 0 <= t < 1.
FACET_INLINE float log1m(float t) {
  const float u = 1 - t;
  return log_of(u, (1 - u) - t);  // what rounding 1 - t lost is exact
}

// M. Giles, "Approximating the erfinv function" (2010), single precision. The square is rounded before 1 - x^2, as in XLA: in the
// far tail that rounding is visible.
FACET_INLINE float erfinv_centre(float x, float w) {
  w -= 2.5f;
  float p = 2.81022636e-08f;
  p = 3.43273939e-07f + p * w;
  p = -3.5233877e-06f + p * w;
  p = -4.39150654e-06f + p * w;
  p = 0.00021858087f + p * w;
  p = -0.00125372503f + p * w;
  p = -0.00417768164f + p * w;
  p = 0.246640727f + p * w;
  return (1.50140941f + p * w) * x;
}

FACET_INLINE float erfinv_tail(float x, float w) {
  w = __builtin_sqrtf(w) - 3;
  float p = -0.000200214257f;
  p = 0.000100950558f + p * w;
  p = 0.00134934322f + p * w;
  p = -0.00367342844f + p * w;
  p = 0.00573950773f + p * w;
  p = -0.0076224613f + p * w;
  p = 0.00943887047f + p * w;
  p = 1.00167406f + p * w;
  return (2.83297682f + p * w) * x;
}

/// a * b rounded, also where the compiler likes to fuse it with a sum.
FACET_INLINE float rounded_product(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}

FACET_INLINE float erfinv(float x) {
  const float w = -log1m(rounded_product(x, x));
  return w < 5 ? erfinv_centre(x, w) : erfinv_tail(x, w);
}

// ---- uniform numbers

inline constexpr float sqrt2 = 1.41421356f;
inline constexpr float below_minus_one = -0x1.fffffep-1f;  // nextafter(-1, 0)
inline constexpr float tiny = 0x1p-126f;                   // keeps log finite

/// [from, to) in f32.
struct UniformRange {
  float lo, width;
  bool exact;  ///< a width that is a power of two: the product is exact
  FACET_INLINE UniformRange(double from, double to)
      : lo(static_cast<float>(from)),
        width(static_cast<float>(to) - lo),
        exact((__builtin_bit_cast(uint32_t, width) & 0x7fffffu) == 0) {}
};

// a * b + c rounded once: the product is exact in double; rounding the sum to odd keeps the second rounding right.
FACET_INLINE float fused(float a, float b, float c) {
  const double p = static_cast<double>(a) * b, s = p + c;
  const double back = s - p, error = (p - (s - back)) + (c - back);
  uint64_t u = __builtin_bit_cast(uint64_t, s);
  if (error != 0 && (u & 1) == 0) u += (error > 0) == (s > 0) ? 1 : -1;
  return static_cast<float>(__builtin_bit_cast(double, u));
}

/// 23 random bits below a leading one give [1, 2), then [0, 1).
FACET_INLINE float unit(uint32_t word) { return __builtin_bit_cast(float, word >> 9 | 0x3f800000u) - 1; }
/// The range's number for a word. XLA fuses the multiply-add; with a width that is a power of two the plain form rounds once as well.
FACET_INLINE float uniform(uint32_t word, const UniformRange& r) {
  const float u = unit(word), v = r.exact ? u * r.width + r.lo : fused(u, r.width, r.lo);
  return v > r.lo ? v : r.lo;
}

}  // namespace facet::rng

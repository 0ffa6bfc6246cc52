// Scalar formulas, each written once, for every type that has arithmetic: float, double, std::complex<double> (complex-step
// gradients in tests) and vectors of float (tensor/cpu/simd.h). On float and its vectors exp, log, tanh and erf are
// branch-free polynomials (a scalar std::tanh per element costs some hundred times more); on double they are the C library's.
//
// Everything is FACET_INLINE: the header is compiled for several instruction sets (tensor/cpu/tier.h).
// Errors on float, measured over all magnitudes by tests/tensor/math_test.cpp: exp <= 1.1 ulp, log <= 1 ulp, tanh and
// erf <= 4 ulp. exp reaches into the denormals, and infinities and NaN follow C99 Annex F.
#pragma once
#include <cstdint>
#include <type_traits>

#include "tensor/view.h"

namespace facet::math {

namespace detail {
template <class T>
concept Vector = requires(T x) { x[0]; };
template <class T>
struct Element { using type = T; };
template <Vector T>
struct Element<T> { using type = std::remove_cvref_t<decltype(T{}[0])>; };
template <class T>
constexpr bool is_f32 = std::is_same_v<typename Element<T>::type, float>;
/// Integers as wide as T, lane by lane: what comparing two vectors yields.
template <class T>
struct Bits { using type = int32_t; };
template <Vector T>
struct Bits<T> { using type = decltype(T{} < T{}); };
template <class T>
using bits_of = typename Bits<T>::type;
}  // namespace detail

/// A constant in T.
template <class T>
FACET_INLINE T num(double c) {
  if constexpr (detail::is_f32<T>) return T{} + static_cast<float>(c);
  else return T(c);
}

/// What comparisons look at: x itself, the real part of a complex number.
template <class T>
FACET_INLINE auto real_part(const T& x) {
  if constexpr (requires { x.real(); }) return x.real();
  else return x;
}

// ---- exp, log, log1p, tanh, erf. Overloads for complex<double> are found in std.

namespace detail {
/// x = n ln2 + r with |r| <= ln2 / 2; returns r and bits of n. |x| stays below 150.
template <class T>
FACET_INLINE T reduce_ln2(T x, bits_of<T>& n) {
  const T magic = num<T>(12582912.0);  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  const T shifted = x * num<T>(1.44269504088896341) + magic;
  n = __builtin_bit_cast(bits_of<T>, shifted) - __builtin_bit_cast(bits_of<T>, magic);
  const T k = shifted - magic;
  return (x - k * num<T>(0.693359375)) - k * num<T>(-2.12194440054690583e-4);  // the first product is exact
}
/// exp(r) - 1 for |r| <= ln2 / 2, minimax to 4e-9.
template <class T>
FACET_INLINE T expm1_reduced(T r) {
  T q = num<T>(1.395170311e-3);
  q = q * r + num<T>(8.369597908e-3);
  q = q * r + num<T>(4.166618751e-2);
  q = q * r + num<T>(1.666651289e-1);
  q = q * r + num<T>(0.5000000101);
  return (q * r) * r + r;
}
template <class T>
FACET_INLINE T power_of_two(bits_of<T> n) {
  return __builtin_bit_cast(T, (n + 127) << 23);
}
}  // namespace detail

template <class T>
FACET_INLINE T exp(T x) {
  if constexpr (detail::is_f32<T>) {
    const T high = num<T>(89), low = num<T>(-104.5);  // beyond: infinity and zero; NaN passes both comparisons by
    x = x > high ? high : x;
    x = x < low ? low : x;
    detail::bits_of<T> n;
    const T r = detail::reduce_ln2(x, n);
    // 2^n in two factors, so that results near overflow and in the denormals come out right (and rounded once).
    const detail::bits_of<T> half = n >> 1;
    return (detail::expm1_reduced(r) + num<T>(1)) * detail::power_of_two<T>(half) * detail::power_of_two<T>(n - half);
  } else {
    return __builtin_exp(x);
  }
}

template <class T>
FACET_INLINE T log(T x) {
  if constexpr (detail::is_f32<T>) {
    using I = detail::bits_of<T>;
    const T tiny = num<T>(1.17549435e-38);
    const T scaled = x < tiny ? x * num<T>(8388608) : x;  // denormals
    // x = 2^e (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)): 0x3f3504f3 are the bits of sqrt(1/2)
    const I above = __builtin_bit_cast(I, scaled) - 0x3f3504f3;
    const I e = above >> 23;
    const T f = __builtin_bit_cast(T, (above & 0x7fffff) + 0x3f3504f3) - num<T>(1);
    T p = num<T>(0.06915336644);
    p = p * f + num<T>(-0.1178973215);
    p = p * f + num<T>(0.1187294546);
    p = p * f + num<T>(-0.1238435878);
    p = p * f + num<T>(0.1421866432);
    p = p * f + num<T>(-0.1666925049);
    p = p * f + num<T>(0.2000222625);
    p = p * f + num<T>(-0.249999866);
    p = p * f + num<T>(0.3333331045);
    T exponent;
    if constexpr (detail::Vector<T>) exponent = __builtin_convertvector(e, T);
    else exponent = static_cast<T>(e);
    exponent = x < tiny ? exponent - num<T>(23) : exponent;
    const T f2 = f * f;
    const T tail = p * f * f2 + exponent * num<T>(-2.12194440054690583e-4) - f2 * num<T>(0.5);
    T y = exponent * num<T>(0.693359375) + (f + tail);
    const T zero = num<T>(0), infinity = num<T>(__builtin_inf());
    y = x == zero ? -infinity : y;
    y = x < zero ? num<T>(__builtin_nan("")) : y;
    return x < infinity ? y : x + y;  // +inf and NaN keep themselves
  } else {
    return __builtin_log(x);
  }
}

/// log(1 + x) for 0 <= x <= 1 (what softplus needs), relative error as log's.
template <class T>
FACET_INLINE T log1p_unit(T x) {
  const T one = num<T>(1);
  const T w = x + one;
  return log(w) + (x - (w - one)) / w;  // the second term is what rounding 1 + x lost
}

template <class T>
FACET_INLINE T tanh(T x) {
  if constexpr (detail::is_f32<T>) {
    // expm1(2|x|) / (expm1(2|x|) + 2): no cancellation for small x, one division
    T a = x < num<T>(0) ? -x : x;
    a = a > num<T>(10) ? num<T>(10) : a;
    detail::bits_of<T> n;
    const T r = detail::reduce_ln2(a + a, n);
    const T scale = detail::power_of_two<T>(n);
    const T e = detail::expm1_reduced(r) * scale + (scale - num<T>(1));
    const T t = e / (e + num<T>(2));
    return x < num<T>(0) ? -t : x == num<T>(0) ? x : t;  // keeps -0
  } else {
    return __builtin_tanh(x);
  }
}

template <class T>
FACET_INLINE T erf(T x) {
  if constexpr (detail::is_f32<T>) {
    T a = x < num<T>(0) ? -x : x;
    a = a > num<T>(4) ? num<T>(4) : a;
    const T s = a * a;
    T p = num<T>(7.889117579e-5);  // erf(x) / x in x^2 up to 1
    p = p * s + num<T>(-8.020840714e-4);
    p = p * s + num<T>(5.189535278e-3);
    p = p * s + num<T>(-2.685444456e-2);
    p = p * s + num<T>(0.1128360018);
    p = p * s + num<T>(-0.3761262714);
    p = p * s + num<T>(1.128379166);
    T q = num<T>(1.971804265e-4);  // log(1 - erf(x)) beyond
    q = q * a + num<T>(-3.055595271e-3);
    q = q * a + num<T>(2.227703997e-2);
    q = q * a + num<T>(-0.1040372659);
    q = q * a + num<T>(-0.6370598552);
    q = q * a + num<T>(-1.127749505);
    q = q * a + num<T>(-1.775079395e-4);
    const T t = num<T>(1) - exp(q);
    return a < num<T>(1) ? x * p : x < num<T>(0) ? -t : t;
  } else {
    return __builtin_erf(x);
  }
}

/// Correctly rounded.
template <class T>
FACET_INLINE T sqrt(T x) {
#ifdef __AVX512F__
  if constexpr (sizeof(T) == 64)  // lane by lane the compiler keeps scalar code, for errno
    return (T)__builtin_ia32_sqrtps512_mask(x, x, static_cast<short>(-1), 4);
#endif
  if constexpr (detail::Vector<T>) {
    for (size_t i = 0; i < sizeof(T) / sizeof(float); ++i) x[i] = __builtin_sqrtf(x[i]);
    return x;
  } else if constexpr (detail::is_f32<T>) {
    return __builtin_sqrtf(x);
  } else {
    return __builtin_sqrt(x);
  }
}

// ---- activations. `..._slope` is the derivative; a Pair carries both where they share their cost.

template <class T>
struct Pair { T value, slope; };

/// sigmoid(x) = 1 / (1 + exp(-x)) and 1 - sigmoid(x), neither by cancellation nor through overflow.
template <class T>
struct Odds { T yes, no; };
template <class T>
FACET_INLINE Odds<T> sigmoid_odds(T x) {
  const T one = num<T>(1);
  if constexpr (requires { x.real(); }) {
    return {one / (one + exp(-x)), one / (one + exp(x))};
  } else {
    const T e = exp(x < num<T>(0) ? x : -x);
    const T likely = one / (one + e), unlikely = e * likely;
    return {x < num<T>(0) ? unlikely : likely, x < num<T>(0) ? likely : unlikely};
  }
}
template <class T>
FACET_INLINE T sigmoid(T x) {
  return sigmoid_odds(x).yes;
}
template <class T>
FACET_INLINE T sigmoid_slope(T x) {
  const Odds<T> s = sigmoid_odds(x);
  return s.yes * s.no;
}

/// log(1 + exp(x)) = max(x, 0) + log1p(exp(-|x|)); its slope is sigmoid.
template <class T>
FACET_INLINE T softplus(T x) {
  if constexpr (requires { x.real(); }) {
    return real_part(x) > 0 ? x + log(num<T>(1) + exp(-x)) : log(num<T>(1) + exp(x));
  } else {
    const T zero = num<T>(0);
    return (x > zero ? x : x != x ? x : zero) + log1p_unit(exp(x > zero ? -x : x));
  }
}
/// log(sigmoid(x)); its slope is sigmoid(-x).
template <class T>
FACET_INLINE T log_sigmoid(T x) {
  return -softplus(-x);
}

template <class T>
FACET_INLINE T silu(T x) {
  return x * sigmoid(x);
}
template <class T>
FACET_INLINE Pair<T> silu_pair(T x) {
  const Odds<T> s = sigmoid_odds(x);
  const T y = x * s.yes;
  return {y, s.yes + y * s.no};
}
template <class T>
FACET_INLINE T silu_slope(T x) {
  return silu_pair(x).slope;
}

namespace detail {
constexpr double sqrt_8_over_pi = 1.59576912160573071;  // 2 sqrt(2 / pi)
constexpr double gelu_cubic = 0.044715;
}  // namespace detail

/// 0.5 x (1 + tanh(u)), u = sqrt(2/pi) (x + 0.044715 x^3): written as x sigmoid(2u), which is the same number without the
/// cancellation of 1 + tanh for negative x.
template <class T>
FACET_INLINE T gelu_tanh(T x) {
  const T u2 = num<T>(detail::sqrt_8_over_pi) * (x + num<T>(detail::gelu_cubic) * x * x * x);
  return x * sigmoid(u2);
}
template <class T>
FACET_INLINE Pair<T> gelu_tanh_pair(T x) {
  const T x2 = x * x;
  const T u2 = num<T>(detail::sqrt_8_over_pi) * x * (num<T>(1) + num<T>(detail::gelu_cubic) * x2);
  const T du2 = num<T>(detail::sqrt_8_over_pi) * (num<T>(1) + num<T>(3 * detail::gelu_cubic) * x2);
  const Odds<T> s = sigmoid_odds(u2);
  const T y = x * s.yes;
  return {y, s.yes + y * s.no * du2};
}
template <class T>
FACET_INLINE T gelu_tanh_slope(T x) {
  return gelu_tanh_pair(x).slope;
}

/// x Phi(x) = 0.5 x (1 + erf(x / sqrt(2))). Not for complex numbers (std has no complex erf).
template <class T>
FACET_INLINE T gelu_erf(T x) {
  return num<T>(0.5) * x * (num<T>(1) + erf(x * num<T>(0.707106781186547524)));
}
template <class T>
FACET_INLINE T gelu_erf_slope(T x) {
  const T density = num<T>(0.398942280401432678) * exp(num<T>(-0.5) * x * x);
  return num<T>(0.5) * (num<T>(1) + erf(x * num<T>(0.707106781186547524))) + x * density;
}

/// cap * tanh(x / cap).
template <class T>
FACET_INLINE T softcap(T x, T cap) {
  return cap * tanh(x / cap);
}
template <class T>
FACET_INLINE Pair<T> softcap_pair(T x, T cap) {
  const T t = tanh(x / cap);
  return {cap * t, num<T>(1) - t * t};
}
template <class T>
FACET_INLINE T softcap_slope(T x, T cap) {
  return softcap_pair(x, cap).slope;
}

}  // namespace facet::math

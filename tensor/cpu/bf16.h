// bf16 <-> f32 and the accumulation type, usable in code for any instruction set.
#pragma once
#include <type_traits>

#include "tensor/view.h"

namespace facet::cpu {

FACET_INLINE float widen(bf16 x) { return __builtin_bit_cast(float, static_cast<uint32_t>(x.bits) << 16); }
FACET_INLINE bf16 narrow(float x) {
  const uint32_t u = __builtin_bit_cast(uint32_t, x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return bf16{static_cast<uint16_t>((u >> 16) | 0x40u)};  // quiet NaN
  return bf16{static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16)};
}

/// The type kernels compute in: double for f64, float for f32 and bf16.
template <class T>
using Acc = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <class To, class From>
FACET_INLINE To convert(From x) {
  if constexpr (std::is_same_v<To, From>) return x;
  else if constexpr (std::is_same_v<From, bf16>) return static_cast<To>(widen(x));
  else if constexpr (std::is_same_v<To, bf16>) return narrow(static_cast<float>(x));
  else return static_cast<To>(x);
}

/// Calls f(T{}) for the element type T of a floating dtype.
template <class F>
FACET_INLINE void by_float_dtype(DType t, F&& f) {
  if (t == DType::f32) f(float{});
  else if (t == DType::bf16) f(bf16{});
  else if (t == DType::f64) f(double{});
}

/// Calls f(T{}) for the element type T.
template <class F>
FACET_INLINE void by_dtype(DType t, F&& f) {
  if (t == DType::i32) f(int32_t{});
  else by_float_dtype(t, static_cast<F&&>(f));
}

}  // namespace facet::cpu

// Single elements of a dtype that is known when the kernel runs: for what is too rare to have a kernel per dtype.
#pragma once
#include "tensor/gpu/device.h"

namespace facet::gpu {

template <class A>
__device__ inline A load_any(const void* p, DType t, int64_t i) {
  switch (t) {
    case DType::f32: return static_cast<A>(static_cast<const float*>(p)[i]);
    case DType::bf16: return static_cast<A>(widen(static_cast<const bf16*>(p)[i]));
    case DType::f64: return static_cast<A>(static_cast<const double*>(p)[i]);
    case DType::i32: return static_cast<A>(static_cast<const int32_t*>(p)[i]);
  }
  return A{};
}

template <class A>
__device__ inline void store_any(void* p, DType t, int64_t i, A v) {
  switch (t) {
    case DType::f32: static_cast<float*>(p)[i] = static_cast<float>(v); break;
    case DType::bf16: static_cast<bf16*>(p)[i] = narrow<bf16>(static_cast<float>(v)); break;
    case DType::f64: static_cast<double*>(p)[i] = static_cast<double>(v); break;
    case DType::i32: static_cast<int32_t*>(p)[i] = static_cast<int32_t>(v); break;
  }
}

/// Calls f(T{}) for the element type of a floating dtype.
template <class F>
void by_float(DType t, F&& f) {
  if (t == DType::bf16) f(bf16{});
  else if (t == DType::f64) f(double{});
  else f(float{});
}

}  // namespace facet::gpu

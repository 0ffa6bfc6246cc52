// Activations for bf16 results, from the approximations the hardware has: two special-function steps an element, where the polynomials
// of tensor/math.h take some forty instructions and would bound a kernel that should wait for memory. Errors stay below 1e-6 of the
// value (f32 rounding of the exponent's argument), one bf16 rounding is 2e-3. f32 kernels use tensor/math.h.
#pragma once
#include "tensor/gpu/device.h"

namespace facet::gpu {

/// sigmoid(x) and 1 - sigmoid(x), neither by cancellation nor through overflow.
__device__ inline math::Odds<float> fast_sigmoid_odds(float x) {
  const float e = fast_exp2((x < 0 ? x : -x) * 1.44269504f);
  const float likely = fast_reciprocal(1 + e), unlikely = e * likely;
  return {x < 0 ? unlikely : likely, x < 0 ? likely : unlikely};
}

__device__ inline float fast_gelu_tanh(float x) {
  const float u2 = static_cast<float>(math::detail::sqrt_8_over_pi) * (x + static_cast<float>(math::detail::gelu_cubic) * x * x * x);
  return x * fast_sigmoid_odds(u2).yes;
}
__device__ inline math::Pair<float> fast_gelu_tanh_pair(float x) {
  const float x2 = x * x;
  const float u2 = static_cast<float>(math::detail::sqrt_8_over_pi) * x * (1 + static_cast<float>(math::detail::gelu_cubic) * x2);
  const float du2 = static_cast<float>(math::detail::sqrt_8_over_pi) * (1 + static_cast<float>(3 * math::detail::gelu_cubic) * x2);
  const math::Odds<float> s = fast_sigmoid_odds(u2);
  const float y = x * s.yes;
  return {y, s.yes + y * s.no * du2};
}

/// The activation a kernel with results in T uses.
template <class T>
__device__ inline float gelu_tanh_for(float x) {
  if constexpr (sizeof(T) == 2) return fast_gelu_tanh(x);
  else return math::gelu_tanh(x);
}
template <class T>
__device__ inline math::Pair<float> gelu_tanh_pair_for(float x) {
  if constexpr (sizeof(T) == 2) return fast_gelu_tanh_pair(x);
  else return math::gelu_tanh_pair(x);
}

}  // namespace facet::gpu

// The functions of tensor/math.h and tensor/cpu/simd.h as kernels over contiguous arrays, one body per tier, for tests.
#pragma once
#include "tensor/cpu/tier.h"

namespace facet::cpu {

enum class MathFunction {
  exp, log, log1p_unit, tanh, erf, sigmoid, sigmoid_slope, softplus, log_sigmoid, silu, silu_slope, gelu_tanh,
  gelu_tanh_slope, gelu_erf, gelu_erf_slope, softcap, softcap_slope, sqrt, identity,
};

/// y[i] = f(x[i]) for i < n through whole and partial vectors; x and y of one dtype each (f32, bf16, f64, equal).
extern const Kernel<void(MathFunction f, View x, Out y)> map_function;
/// {sum, maximum} of x[0..n) in lanes: what reductions of a row do.
extern const Kernel<void(View x, Out y)> reduce_row;

}  // namespace facet::cpu

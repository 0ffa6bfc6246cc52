#include "tests/tensor/math_bodies.h"

#include "tensor/cpu/simd.h"

namespace facet::cpu::FACET_TIER {
namespace {

template <class V>
V apply(MathFunction f, V x) {
  switch (f) {
    case MathFunction::exp: return math::exp(x);
    case MathFunction::log: return math::log(x);
    case MathFunction::log1p_unit: return math::log1p_unit(x);
    case MathFunction::tanh: return math::tanh(x);
    case MathFunction::erf: return math::erf(x);
    case MathFunction::sigmoid: return math::sigmoid(x);
    case MathFunction::sigmoid_slope: return math::sigmoid_slope(x);
    case MathFunction::softplus: return math::softplus(x);
    case MathFunction::log_sigmoid: return math::log_sigmoid(x);
    case MathFunction::silu: return math::silu(x);
    case MathFunction::silu_slope: return math::silu_slope(x);
    case MathFunction::gelu_tanh: return math::gelu_tanh(x);
    case MathFunction::gelu_tanh_slope: return math::gelu_tanh_slope(x);
    case MathFunction::gelu_erf: return math::gelu_erf(x);
    case MathFunction::gelu_erf_slope: return math::gelu_erf_slope(x);
    case MathFunction::softcap: return math::softcap(x, math::num<V>(30));
    case MathFunction::softcap_slope: return math::softcap_slope(x, math::num<V>(30));
    case MathFunction::sqrt: return sqrt(x);
    default: return x;
  }
}

}  // namespace

void map_function(MathFunction f, View x, Out y) {
  by_float_dtype(x.dtype, [&](auto t) {
    using T = decltype(t);
    for_row<T>(x.numel(), [&](int64_t i, auto part) {
      put(y.as<T>() + i, apply(f, load(x.as<T>() + i, part)), part, y.accumulate);
    });
  });
}

void reduce_row(View x, Out y) {
  by_float_dtype(x.dtype, [&](auto t) {
    using T = decltype(t);
    Vec<T> sum = broadcast<T>(0), top = broadcast<T>(-__builtin_inf());
    for_row<T>(x.numel(), [&](int64_t i, auto part) {
      const Vec<T> v = load(x.as<T>() + i, part);
      sum += v;
      top = max(top, v);
    });
    y.as<double>()[0] = reduce_add(sum);
    y.as<double>()[1] = reduce_max(top);
  });
}

}  // namespace facet::cpu::FACET_TIER

FACET_TIERED(map_function)
FACET_TIERED(reduce_row)

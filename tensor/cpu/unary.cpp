// The formulas of one operand and their slopes. value(x, s) is y; slope(v, s) is dy/dx, with v = x or y as saved_by() says.
#include "tensor/cpu/map.h"
#include "tensor/cpu/simd.h"

namespace facet::cpu::FACET_TIER {
namespace {

using math::num;

/// A function of the C library, lane by lane: for operations too rare to deserve a polynomial.
template <class V, class F>
FACET_INLINE V each_lane(V x, F f) {
  if constexpr (std::is_same_v<V, double>) {
    return f(x);
  } else {
    for (int i = 0; i < lanes; ++i) x[i] = f(x[i]);
    return x;
  }
}
template <class V>
FACET_INLINE V power(V x, double s) {
  return each_lane(x, [s](auto e) {
    if constexpr (sizeof(e) == 8) return __builtin_pow(e, s);
    else return __builtin_powf(e, static_cast<float>(s));
  });
}
template <class V>
FACET_INLINE V sine(V x) {
  return each_lane(x, [](auto e) {
    if constexpr (sizeof(e) == 8) return __builtin_sin(e);
    else return __builtin_sinf(e);
  });
}
template <class V>
FACET_INLINE V cosine(V x) {
  return each_lane(x, [](auto e) {
    if constexpr (sizeof(e) == 8) return __builtin_cos(e);
    else return __builtin_cosf(e);
  });
}
template <class V>
FACET_INLINE V positive(V x) {  // 1 where x > 0, else 0
  return x > num<V>(0) ? num<V>(1) : num<V>(0);
}

struct Add {
  template <class V> static FACET_INLINE V value(V x, double s) { return x + num<V>(s); }
  template <class V> static FACET_INLINE V slope(V, double) { return num<V>(1); }
};
struct Mul {
  template <class V> static FACET_INLINE V value(V x, double s) { return x * num<V>(s); }
  template <class V> static FACET_INLINE V slope(V, double s) { return num<V>(s); }
};
struct Pow {
  template <class V> static FACET_INLINE V value(V x, double s) { return power(x, s); }
  template <class V> static FACET_INLINE V slope(V x, double s) { return s == 0 ? num<V>(0) : num<V>(s) * power(x, s - 1); }
};
struct Exp {
  template <class V> static FACET_INLINE V value(V x, double) { return math::exp(x); }
  template <class V> static FACET_INLINE V slope(V y, double) { return y; }
};
struct Log {
  template <class V> static FACET_INLINE V value(V x, double) { return math::log(x); }
  template <class V> static FACET_INLINE V slope(V x, double) { return num<V>(1) / x; }
};
struct Tanh {
  template <class V> static FACET_INLINE V value(V x, double) { return math::tanh(x); }
  template <class V> static FACET_INLINE V slope(V x, double) {
    const V t = math::tanh(x);
    return (num<V>(1) - t) * (num<V>(1) + t);
  }
};
struct Sqrt {
  template <class V> static FACET_INLINE V value(V x, double) { return sqrt(x); }
  template <class V> static FACET_INLINE V slope(V y, double) { return num<V>(0.5) / y; }
};
struct Rsqrt {
  template <class V> static FACET_INLINE V value(V x, double) { return num<V>(1) / sqrt(x); }
  template <class V> static FACET_INLINE V slope(V x, double) { return num<V>(-0.5) / (x * sqrt(x)); }
};
struct Square {
  template <class V> static FACET_INLINE V value(V x, double) { return x * x; }
  template <class V> static FACET_INLINE V slope(V x, double) { return x + x; }
};
struct Abs {  // the slope at 0 is 0
  template <class V> static FACET_INLINE V value(V x, double) { return x < num<V>(0) ? -x : x + num<V>(0); }
  template <class V> static FACET_INLINE V slope(V x, double) { return positive(x) - positive(-x); }
};
struct Sin {
  template <class V> static FACET_INLINE V value(V x, double) { return sine(x); }
  template <class V> static FACET_INLINE V slope(V x, double) { return cosine(x); }
};
struct Cos {
  template <class V> static FACET_INLINE V value(V x, double) { return cosine(x); }
  template <class V> static FACET_INLINE V slope(V x, double) { return -sine(x); }
};
struct Sigmoid {
  template <class V> static FACET_INLINE V value(V x, double) { return math::sigmoid(x); }
  template <class V> static FACET_INLINE V slope(V x, double) { return math::sigmoid_slope(x); }
};
struct LogSigmoid {
  template <class V> static FACET_INLINE V value(V x, double) { return math::log_sigmoid(x); }
  template <class V> static FACET_INLINE V slope(V x, double) { return math::sigmoid(-x); }
};
struct Softplus {
  template <class V> static FACET_INLINE V value(V x, double) { return math::softplus(x); }
  template <class V> static FACET_INLINE V slope(V x, double) { return math::sigmoid(x); }
};
struct Relu {  // NaN stays NaN; the slope at 0 is 0
  template <class V> static FACET_INLINE V value(V x, double) { return x <= num<V>(0) ? num<V>(0) : x; }
  template <class V> static FACET_INLINE V slope(V y, double) { return positive(y); }
};
struct Silu {
  template <class V> static FACET_INLINE V value(V x, double) { return math::silu(x); }
  template <class V> static FACET_INLINE V slope(V x, double) { return math::silu_slope(x); }
};
struct GeluTanh {
  template <class V> static FACET_INLINE V value(V x, double) { return math::gelu_tanh(x); }
  template <class V> static FACET_INLINE V slope(V x, double) { return math::gelu_tanh_slope(x); }
};
struct GeluErf {
  template <class V> static FACET_INLINE V value(V x, double) { return math::gelu_erf(x); }
  template <class V> static FACET_INLINE V slope(V x, double) { return math::gelu_erf_slope(x); }
};
struct Softcap {
  template <class V> static FACET_INLINE V value(V x, double s) { return math::softcap(x, num<V>(s)); }
  template <class V> static FACET_INLINE V slope(V x, double s) { return math::softcap_slope(x, num<V>(s)); }
};

template <class T, class Op>
void value_row(int64_t n, const void* const* x, double s, void* y, bool accumulate) {
  const T* px = static_cast<const T*>(x[0]);
  T* py = static_cast<T*>(y);
  for_row<T>(n, [&](int64_t i, auto part) { put(py + i, Op::value(load(px + i, part), s), part, accumulate); });
}
template <class T, class Op>
void slope_row(int64_t n, const void* const* x, double s, void* y, bool accumulate) {
  const T *dy = static_cast<const T*>(x[0]), *saved = static_cast<const T*>(x[1]);
  T* dx = static_cast<T*>(y);
  for_row<T>(n, [&](int64_t i, auto part) {
    put(dx + i, load(dy + i, part) * Op::slope(load(saved + i, part), s), part, accumulate);
  });
}

struct Values {
  template <class T, class Op> static RowFn row() { return value_row<T, Op>; }
};
struct Slopes {
  template <class T, class Op> static RowFn row() { return slope_row<T, Op>; }
};

template <class What, class T>
RowFn choose(Unary op) {
  switch (op) {
    case Unary::add: return What::template row<T, Add>();
    case Unary::mul: return What::template row<T, Mul>();
    case Unary::pow: return What::template row<T, Pow>();
    case Unary::exp: return What::template row<T, Exp>();
    case Unary::log: return What::template row<T, Log>();
    case Unary::tanh: return What::template row<T, Tanh>();
    case Unary::sqrt: return What::template row<T, Sqrt>();
    case Unary::rsqrt: return What::template row<T, Rsqrt>();
    case Unary::square: return What::template row<T, Square>();
    case Unary::abs: return What::template row<T, Abs>();
    case Unary::sin: return What::template row<T, Sin>();
    case Unary::cos: return What::template row<T, Cos>();
    case Unary::sigmoid: return What::template row<T, Sigmoid>();
    case Unary::log_sigmoid: return What::template row<T, LogSigmoid>();
    case Unary::softplus: return What::template row<T, Softplus>();
    case Unary::relu: return What::template row<T, Relu>();
    case Unary::silu: return What::template row<T, Silu>();
    case Unary::gelu_tanh: return What::template row<T, GeluTanh>();
    case Unary::gelu_erf: return What::template row<T, GeluErf>();
    case Unary::softcap: return What::template row<T, Softcap>();
  }
  return nullptr;
}
template <class What>
RowFn choose(Unary op, DType t) {
  return t == DType::f64 ? choose<What, double>(op) : t == DType::bf16 ? choose<What, bf16>(op) : choose<What, float>(op);
}

}  // namespace

RowFn unary_row(Unary op, DType t) { return choose<Values>(op, t); }
RowFn unary_grad_row(Unary op, DType t) { return choose<Slopes>(op, t); }

}  // namespace facet::cpu::FACET_TIER
FACET_TIERED(unary_row)
FACET_TIERED(unary_grad_row)

// The formulas of elementwise operations (tensor/kernels/elementwise.h), each written once for the bodies of all devices: on float, double
// and vectors of float.
#pragma once
#include "tensor/kernels/elementwise.h"
#include "tensor/math.h"

namespace facet::formula {

using math::num;

namespace detail {
/// A function of the C library, lane by lane: for operations too rare to deserve a polynomial.
template <class V, class F>
FACET_INLINE V each_lane(V x, F f) {
  if constexpr (math::detail::Vector<V>) {
    for (size_t i = 0; i < sizeof(V) / sizeof(x[0]); ++i) x[i] = f(x[i]);
    return x;
  } else {
    return f(x);
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
FACET_INLINE V power_each(V a, V b) {
  if constexpr (math::detail::Vector<V>) {
    for (size_t i = 0; i < sizeof(V) / sizeof(a[0]); ++i) a[i] = __builtin_powf(a[i], b[i]);
    return a;
  } else if constexpr (sizeof(V) == 8) {
    return __builtin_pow(a, b);
  } else {
    return __builtin_powf(a, b);
  }
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
template <class V>
FACET_INLINE V share(V a, V b) {  // of the larger one: 1, of the smaller: 0, of equals: 1/2
  return a > b ? num<V>(1) : a == b ? num<V>(0.5) : num<V>(0);
}
}  // namespace detail

// ---- one operand. value(x, s) is y; slope(v, s) is dy/dx, with v = x or y as saved_by() says.

namespace unary {
using namespace detail;

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
  template <class V> static FACET_INLINE V value(V x, double) { return math::sqrt(x); }
  template <class V> static FACET_INLINE V slope(V y, double) { return num<V>(0.5) / y; }
};
struct Rsqrt {
  template <class V> static FACET_INLINE V value(V x, double) { return num<V>(1) / math::sqrt(x); }
  template <class V> static FACET_INLINE V slope(V x, double) { return num<V>(-0.5) / (x * math::sqrt(x)); }
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

/// Calls f(formula) with the formula of `op`.
template <class F>
FACET_INLINE auto choose(Unary op, F&& f) {
  switch (op) {
    case Unary::add: return f(Add{});
    case Unary::mul: return f(Mul{});
    case Unary::pow: return f(Pow{});
    case Unary::exp: return f(Exp{});
    case Unary::log: return f(Log{});
    case Unary::tanh: return f(Tanh{});
    case Unary::sqrt: return f(Sqrt{});
    case Unary::rsqrt: return f(Rsqrt{});
    case Unary::square: return f(Square{});
    case Unary::abs: return f(Abs{});
    case Unary::sin: return f(Sin{});
    case Unary::cos: return f(Cos{});
    case Unary::sigmoid: return f(Sigmoid{});
    case Unary::log_sigmoid: return f(LogSigmoid{});
    case Unary::softplus: return f(Softplus{});
    case Unary::relu: return f(Relu{});
    case Unary::silu: return f(Silu{});
    case Unary::gelu_tanh: return f(GeluTanh{});
    case Unary::gelu_erf: return f(GeluErf{});
    case Unary::softcap: break;
  }
  return f(Softcap{});
}

}  // namespace unary

// ---- two operands. value(a, b); da and db are the slopes.

namespace binary {
using namespace detail;

struct Add {
  template <class V> static FACET_INLINE V value(V a, V b) { return a + b; }
};
struct Sub {
  template <class V> static FACET_INLINE V value(V a, V b) { return a - b; }
};
struct Mul {
  template <class V> static FACET_INLINE V value(V a, V b) { return a * b; }
  template <class V> static FACET_INLINE V da(V, V b) { return b; }
  template <class V> static FACET_INLINE V db(V a, V) { return a; }
};
struct Div {
  template <class V> static FACET_INLINE V value(V a, V b) { return a / b; }
  template <class V> static FACET_INLINE V da(V, V b) { return num<V>(1) / b; }
  template <class V> static FACET_INLINE V db(V a, V b) { return -(a / b) / b; }
};
struct Maximum {  // NaN in either operand gives NaN
  template <class V> static FACET_INLINE V value(V a, V b) { return a > b ? a : a != a ? a : b; }
  template <class V> static FACET_INLINE V da(V a, V b) { return share(a, b); }
  template <class V> static FACET_INLINE V db(V a, V b) { return share(b, a); }
};
struct Minimum {
  template <class V> static FACET_INLINE V value(V a, V b) { return a < b ? a : a != a ? a : b; }
  template <class V> static FACET_INLINE V da(V a, V b) { return share(b, a); }
  template <class V> static FACET_INLINE V db(V a, V b) { return share(a, b); }
};
struct Pow {
  template <class V> static FACET_INLINE V value(V a, V b) { return power_each(a, b); }
  template <class V> static FACET_INLINE V da(V a, V b) {
    return b == num<V>(0) ? num<V>(0) : b * power_each(a, b - num<V>(1));
  }
  template <class V> static FACET_INLINE V db(V a, V b) {  // 0^b does not move for b > 0
    const V y = power_each(a, b);
    return a == num<V>(0) ? y * num<V>(0) : y * math::log(a);
  }
};

template <class F>
FACET_INLINE auto choose(Binary op, F&& f) {
  switch (op) {
    case Binary::add: return f(Add{});
    case Binary::sub: return f(Sub{});
    case Binary::mul: return f(Mul{});
    case Binary::div: return f(Div{});
    case Binary::maximum: return f(Maximum{});
    case Binary::minimum: return f(Minimum{});
    case Binary::pow: break;
  }
  return f(Pow{});
}

}  // namespace binary

/// Whether a and b compare; NaN never does.
template <class A>
FACET_INLINE bool holds(Compare op, A a, A b) {
  return op == Compare::equal ? a == b : op == Compare::less ? a < b : a <= b;
}

}  // namespace facet::formula

#include "tensor/kernels/elementwise.h"

#include "autograd/ops.h"
#include "autograd/ops/check.h"

namespace facet {
namespace {

struct UnaryGrad {
  Unary op;
  double s;
  Saved saved;
  void operator()(Grads dy, Sinks dx) {
    const DType t = dy[0].dtype();
    if (op == Unary::add) dx[0].pass(dy[0]);
    else if (op == Unary::mul) unary(op, dy[0].view(), s, dx[0].dst(t));
    else unary_grad(op, dy[0].view(), saved.view(), s, dx[0].dst(t));
  }
};

Tensor apply(const char* name, Unary op, const Tensor& x, double s = 0) {
  const OpScope scope(name);
  check_floating(name, "x", x);
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  unary(op, x.view(), s, y.out());
  if (tracing(x)) {
    const Saves saves = saved_by(op);
    attach(name, {&y}, {&x}, UnaryGrad{op, s, saves == Saves::nothing ? Saved{} : Saved(saves == Saves::input ? x : y)});
  }
  return y;
}

struct BinaryGrad {
  Binary op;
  bool repeated[2];  ///< the operand was broadcast
  Saved a, b;
  void operator()(Grads dy, Sinks dx) {
    for (int which : {0, 1}) {
      if (!dx[which]) continue;
      if (op == Binary::add || (op == Binary::sub && which == 0)) {
        dx[which].pass_sum(dy[0]);
        continue;
      }
      const Tensor full = repeated[which] ? Tensor::empty(dy[0].shape(), dy[0].dtype(), dy[0].device()) : Tensor{};
      slope(which, dy[0], full ? full.out() : dx[which].dst(dy[0].dtype()));
      if (full) dx[which].pass_sum(full);
    }
  }
  void slope(int which, const Tensor& dy, Out out) const {
    if (op == Binary::sub) unary(Unary::mul, dy.view(), -1, out);
    else binary_grad(op, which, dy.view(), a.view(), b.view(), out);
  }
};

Tensor apply(const char* name, Binary op, const Tensor& a, const Tensor& b) {
  const OpScope scope(name);
  check_same_dtype(name, "a", a, "b", b);
  check_floating(name, "a", a);
  Tensor y = Tensor::empty(broadcast_shape(name, a.shape(), b.shape()), a.dtype(), a.device());
  binary(op, a.view(), b.view(), y.out());
  if (tracing(a, b)) {
    BinaryGrad g{op, {!(a.shape() == y.shape()), !(b.shape() == y.shape())}, {}, {}};
    const bool da = static_cast<bool>(a.slot()), db = static_cast<bool>(b.slot());
    if (op == Binary::mul) {  // each gradient needs the partner only
      if (db) g.a = a;
      if (da) g.b = b;
    } else if (op != Binary::add && op != Binary::sub) {
      if (op != Binary::div || db) g.a = a;
      g.b = b;
    }
    attach(name, {&y}, {&a, &b}, std::move(g));
  }
  return y;
}

Tensor apply(const char* name, Compare op, const Tensor& a, const Tensor& b) {
  const OpScope scope(name);
  check_same_dtype(name, "a", a, "b", b);
  Tensor y = Tensor::empty(broadcast_shape(name, a.shape(), b.shape()), DType::i32, a.device());
  compare(op, a.view(), b.view(), y.out());
  return y;
}

struct WhereGrad {
  Saved condition;
  bool repeated[2];
  void operator()(Grads dy, Sinks dx) {
    const Tensor zero = Tensor::zeros({}, dy[0].dtype(), dy[0].device());
    for (int which : {0, 1}) {
      if (!dx[which]) continue;
      const Tensor full = repeated[which] ? Tensor::empty(dy[0].shape(), dy[0].dtype(), dy[0].device()) : Tensor{};
      where(condition.view(), (which == 0 ? dy[0] : zero).view(), (which == 0 ? zero : dy[0]).view(),
            full ? full.out() : dx[which].dst(dy[0].dtype()));
      if (full) dx[which].pass_sum(full);
    }
  }
};

struct PassGrad {
  void operator()(Grads dy, Sinks dx) { dx[0].pass(dy[0]); }
};

}  // namespace

Tensor add(const Tensor& a, const Tensor& b) { return apply("add", Binary::add, a, b); }
Tensor sub(const Tensor& a, const Tensor& b) { return apply("sub", Binary::sub, a, b); }
Tensor mul(const Tensor& a, const Tensor& b) { return apply("mul", Binary::mul, a, b); }
Tensor div(const Tensor& a, const Tensor& b) { return apply("div", Binary::div, a, b); }
Tensor maximum(const Tensor& a, const Tensor& b) { return apply("maximum", Binary::maximum, a, b); }
Tensor minimum(const Tensor& a, const Tensor& b) { return apply("minimum", Binary::minimum, a, b); }
Tensor pow(const Tensor& a, const Tensor& b) { return apply("pow", Binary::pow, a, b); }
Tensor add(const Tensor& a, double b) { return apply("add", Unary::add, a, b); }
Tensor mul(const Tensor& a, double b) { return apply("mul", Unary::mul, a, b); }
Tensor pow(const Tensor& a, double b) { return apply("pow", Unary::pow, a, b); }
Tensor neg(const Tensor& x) { return apply("neg", Unary::mul, x, -1); }
Tensor exp(const Tensor& x) { return apply("exp", Unary::exp, x); }
Tensor log(const Tensor& x) { return apply("log", Unary::log, x); }
Tensor tanh(const Tensor& x) { return apply("tanh", Unary::tanh, x); }
Tensor sqrt(const Tensor& x) { return apply("sqrt", Unary::sqrt, x); }
Tensor rsqrt(const Tensor& x) { return apply("rsqrt", Unary::rsqrt, x); }
Tensor square(const Tensor& x) { return apply("square", Unary::square, x); }
Tensor abs(const Tensor& x) { return apply("abs", Unary::abs, x); }
Tensor sin(const Tensor& x) { return apply("sin", Unary::sin, x); }
Tensor cos(const Tensor& x) { return apply("cos", Unary::cos, x); }
Tensor sigmoid(const Tensor& x) { return apply("sigmoid", Unary::sigmoid, x); }
Tensor log_sigmoid(const Tensor& x) { return apply("log_sigmoid", Unary::log_sigmoid, x); }
Tensor softplus(const Tensor& x) { return apply("softplus", Unary::softplus, x); }
Tensor relu(const Tensor& x) { return apply("relu", Unary::relu, x); }
Tensor silu(const Tensor& x) { return apply("silu", Unary::silu, x); }
Tensor gelu_tanh(const Tensor& x) { return apply("gelu_tanh", Unary::gelu_tanh, x); }
Tensor gelu_erf(const Tensor& x) { return apply("gelu_erf", Unary::gelu_erf, x); }
Tensor softcap(const Tensor& x, double cap) {
  if (!(cap > 0)) fail(Kind::usage, "softcap: cap must be positive, found {}", cap);
  return apply("softcap", Unary::softcap, x, cap);
}

Tensor cast(const Tensor& x, DType dtype) {
  const OpScope scope("cast");
  if (!x) fail(Kind::usage, "cast: x is absent");
  if (x.dtype() == dtype) return x;
  Tensor y = x.detach().to(dtype);
  if (dtype != DType::i32 && tracing(x)) attach("cast", {&y}, {&x}, PassGrad{});
  return y;
}

Tensor equal(const Tensor& a, const Tensor& b) { return apply("equal", Compare::equal, a, b); }
Tensor less(const Tensor& a, const Tensor& b) { return apply("less", Compare::less, a, b); }
Tensor less_equal(const Tensor& a, const Tensor& b) { return apply("less_equal", Compare::less_equal, a, b); }
Tensor greater(const Tensor& a, const Tensor& b) { return apply("greater", Compare::less, b, a); }
Tensor greater_equal(const Tensor& a, const Tensor& b) { return apply("greater_equal", Compare::less_equal, b, a); }

Tensor where(const Tensor& condition, const Tensor& a, const Tensor& b) {
  const OpScope scope("where");
  check_i32("where", "condition", condition);
  check_same_dtype("where", "a", a, "b", b);
  const Shape shape = broadcast_shape("where", condition.shape(), broadcast_shape("where", a.shape(), b.shape()));
  Tensor y = Tensor::empty(shape, a.dtype(), a.device());
  where(condition.view(), a.view(), b.view(), y.out());
  if (tracing(a, b))
    attach("where", {&y}, {&a, &b}, WhereGrad{condition, {!(a.shape() == shape), !(b.shape() == shape)}});
  return y;
}

}  // namespace facet

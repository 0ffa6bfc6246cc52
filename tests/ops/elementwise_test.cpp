#include <catch2/catch.hpp>
#include <cmath>

#include "autograd/ops.h"
#include "tensor/kernels/elementwise.h"
#include "tests/support/contract.h"
#include "tests/support/goldens.h"

using namespace facet;
using namespace facet::test;

namespace {

// Twelve shapes and layouts: rank 0, size 0, size 1, primes, vector tails, views, one large.
Tensor sample_input(Random& r, int sample, double low, double high) {
  const auto x = [&](const Shape& s) { return r.uniform(s, low, high); };
  switch (sample) {
    case 0: return x({});
    case 1: return x({0, 3});
    case 2: return x({1});
    case 3: return x({7, 13});
    case 4: return with_layout(x({5, 17}), Layout::transposed);
    case 5: return with_layout(x({3, 31}), Layout::strided);
    case 6: return with_layout(x({4, 9}), Layout::expanded);
    case 7: return with_layout(x({2, 3, 5}), Layout::transposed);
    case 8: return x({2, 1, 16});
    case 9: return with_layout(x({2, 300}), Layout::strided);
    case 10: return with_layout(x({20, 257}), Layout::transposed);
    default: return x({4, 1100});
  }
}

Function elementwise_reference(std::function<double(double)> f) {
  return [f](const Tensors& x) {
    std::vector<double> v = x[0].to_vector();
    for (double& d : v) d = f(d);
    return Tensor::from(v, x[0].shape());
  };
}

struct UnaryOp {
  const char* name;
  std::function<Tensor(const Tensor&)> op;
  std::function<double(double)> reference;
  double low = -3, high = 3;
  std::vector<double> kinks = {};
};

double logistic(double x) { return 1 / (1 + std::exp(-x)); }
double gelu_tanh_reference(double x) { return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))); }

const std::vector<UnaryOp>& unary_ops() {
  using T = const Tensor&;
  static const std::vector<UnaryOp> ops = {
      {"add scalar", [](T x) { return x + 0.7; }, [](double x) { return x + 0.7; }},
      {"mul scalar", [](T x) { return -1.3 * x; }, [](double x) { return -1.3 * x; }},
      {"pow scalar", [](T x) { return pow(x, 1.7); }, [](double x) { return std::pow(x, 1.7); }, 0.3, 3},
      {"pow 3", [](T x) { return pow(x, 3); }, [](double x) { return x * x * x; }},
      {"pow 0", [](T x) { return pow(x, 0); }, [](double) { return 1; }},
      {"neg", [](T x) { return -x; }, [](double x) { return -x; }},
      {"exp", [](T x) { return exp(x); }, [](double x) { return std::exp(x); }},
      {"log", [](T x) { return log(x); }, [](double x) { return std::log(x); }, 0.1, 3},
      {"tanh", [](T x) { return tanh(x); }, [](double x) { return std::tanh(x); }},
      {"sqrt", [](T x) { return sqrt(x); }, [](double x) { return std::sqrt(x); }, 0.1, 3},
      {"rsqrt", [](T x) { return rsqrt(x); }, [](double x) { return 1 / std::sqrt(x); }, 0.1, 3},
      {"square", [](T x) { return square(x); }, [](double x) { return x * x; }},
      {"abs", [](T x) { return abs(x); }, [](double x) { return std::abs(x); }, -3, 3, {0}},
      {"sin", [](T x) { return sin(x); }, [](double x) { return std::sin(x); }},
      {"cos", [](T x) { return cos(x); }, [](double x) { return std::cos(x); }},
      {"sigmoid", [](T x) { return sigmoid(x); }, logistic, -6, 6},
      {"log_sigmoid", [](T x) { return log_sigmoid(x); }, [](double x) { return std::log(logistic(x)); }},
      {"softplus", [](T x) { return softplus(x); }, [](double x) { return std::log1p(std::exp(x)); }},
      {"relu", [](T x) { return relu(x); }, [](double x) { return x > 0 ? x : 0; }, -3, 3, {0}},
      {"silu", [](T x) { return silu(x); }, [](double x) { return x * logistic(x); }},
      {"gelu_tanh", [](T x) { return gelu_tanh(x); }, gelu_tanh_reference},
      {"gelu_erf", [](T x) { return gelu_erf(x); }, [](double x) { return 0.5 * x * std::erfc(-x / std::sqrt(2.0)); }},
      {"softcap", [](T x) { return softcap(x, 2.5); }, [](double x) { return 2.5 * std::tanh(x / 2.5); }},
  };
  return ops;
}

struct BinaryOp {
  const char* name;
  Tensor (*op)(const Tensor&, const Tensor&);
  double (*reference)(double, double);
  bool positive = false;
};
const std::vector<BinaryOp>& binary_ops() {
  static const std::vector<BinaryOp> ops = {
      {"add", add, [](double a, double b) { return a + b; }},
      {"sub", sub, [](double a, double b) { return a - b; }},
      {"mul", mul, [](double a, double b) { return a * b; }},
      {"div", div, [](double a, double b) { return a / b; }, true},
      {"maximum", maximum, [](double a, double b) { return std::max(a, b); }},
      {"minimum", minimum, [](double a, double b) { return std::min(a, b); }},
      {"pow", pow, [](double a, double b) { return std::pow(a, b); }, true},
  };
  return ops;
}

// Pairs of shapes that broadcast in every direction, and layouts.
std::pair<Shape, Shape> broadcast_pair(int sample) {
  switch (sample) {
    case 0: return {{}, {}};
    case 1: return {{2, 3}, {3}};
    case 2: return {{7}, {5, 1}};
    case 3: return {{2, 1, 3}, {1, 4, 1}};
    case 4: return {{0, 3}, {3}};
    case 5: return {{13, 17}, {13, 17}};
    case 6: return {{5, 7}, {}};
    case 7: return {{}, {3, 11}};
    case 8: return {{4, 300}, {300}};
    case 9: return {{9, 1}, {9, 31}};
    case 10: return {{1}, {1, 1}};
    default: return {{64, 80}, {64, 80}};
  }
}
int64_t broadcast_index(const Shape& shape, const Shape& operand, int64_t flat) {
  int64_t offset = 0, step = 1;
  for (int i = 1; i <= shape.rank; ++i) {
    const int64_t k = flat % shape[-i];
    flat /= shape[-i];
    if (i > operand.rank) continue;
    if (operand[-i] != 1) offset += k * step;
    step *= operand[-i];
  }
  return offset;
}

}  // namespace

TEST_CASE("elementwise: contract of the operations on one tensor") {
  for (const UnaryOp& u : unary_ops()) {
    Contract c;
    c.name = u.name;
    c.inputs = [&](Random& r, int sample) -> Tensors { return {sample_input(r, sample, u.low, u.high)}; };
    c.fused = [&](const Tensors& x) { return u.op(x[0]); };
    c.composite = elementwise_reference(u.reference);
    c.gradcheck.kinks = u.kinks;
    check_contract(c);
  }
}

TEST_CASE("elementwise: contract of the operations on two tensors, with broadcasting") {
  for (const BinaryOp& b : binary_ops()) {
    Contract c;
    c.name = b.name;
    c.inputs = [&](Random& r, int sample) -> Tensors {
      const auto [sa, sb] = broadcast_pair(sample);
      if (std::string(b.name).ends_with("imum")) {  // ties and near ties are kinks
        const Tensor both = r.distinct({sa.numel() + sb.numel()});
        return {both.slice(0, 0, sa.numel()).reshape(sa), both.slice(0, sa.numel(), sa.numel() + sb.numel()).reshape(sb)};
      }
      const double low = b.positive ? 0.3 : -2;
      return {with_layout(r.uniform(sa, low, 2), all_layouts[sample % 5]), with_layout(r.uniform(sb, low, 2), all_layouts[(sample + 2) % 4])};
    };
    c.fused = [&](const Tensors& x) { return b.op(x[0], x[1]); };
    c.composite = [&](const Tensors& x) {
      const Shape s = broadcast_shape("test", x[0].shape(), x[1].shape());
      const std::vector<double> va = x[0].to_vector(), vb = x[1].to_vector();
      std::vector<double> v(s.numel());
      for (int64_t i = 0; i < s.numel(); ++i)
        v[i] = b.reference(va[broadcast_index(s, x[0].shape(), i)], vb[broadcast_index(s, x[1].shape(), i)]);
      return Tensor::from(v, s);
    };
    c.gradcheck.twice_in_one = !std::string(b.name).ends_with("imum");
    check_contract(c);
  }
}

TEST_CASE("elementwise: extremes") {
  const float big = 1e4f, tiny = 1e-40f, inf = INFINITY;
  const Tensor x = Tensor::from({0, -0.f, tiny, -tiny, big, -big, inf, -inf, NAN}, {9});
  const auto values = [&](const Tensor& y) { return y.to_vector(); };
  const auto nan_last = [](const std::vector<double>& v) { return std::isnan(v.back()); };
  for (const UnaryOp& u : unary_ops()) {
    if (std::string(u.name) == "pow 0") continue;
    INFO(u.name);
    CHECK(nan_last(values(u.op(x))));
    CHECK(nan_last(values(u.op(x.to(DType::f64)))));
  }
  CHECK(values(softplus(x))[4] == big);
  CHECK(values(softplus(x))[5] == 0);
  CHECK(values(log_sigmoid(x))[5] == -big);
  CHECK(values(sigmoid(x))[7] == 0);
  CHECK(values(gelu_tanh(x))[5] == 0);
  CHECK(values(silu(x))[4] == big);
  CHECK(values(softcap(x, 30))[6] == 30);
  CHECK(values(log(x))[0] == -INFINITY);
  CHECK(std::isnan(maximum(x, x).to_vector().back()));
  CHECK(std::isnan(maximum(Tensor::from({NAN}, {1}), Tensor::from({1.f}, {1})).item()));
  CHECK(std::isnan(minimum(Tensor::from({1.f}, {1}), Tensor::from({NAN}, {1})).item()));
  for (auto op : {relu, abs}) {  // the slope at 0 is 0, as JAX
    const Tensor zero = leaf(Tensor::from({0.f}, {1}));
    backward(op(zero));
    CHECK(grad_of(zero).item() == 0);
  }
}

TEST_CASE("elementwise: ties share the gradient by halves") {
  const Tensor a = leaf(Tensor::from({1, 2, 3}, {3})), b = leaf(Tensor::from({1, 1, 4}, {3}));
  backward(maximum(a, b), Tensor::full({3}, 1));
  CHECK(grad_of(a).to_vector() == std::vector<double>{0.5, 1, 0});
  CHECK(grad_of(b).to_vector() == std::vector<double>{0.5, 0, 1});
}

TEST_CASE("elementwise: comparisons and where") {
  const Tensor a = Tensor::from({1, 2, NAN, 4}, {4}), b = Tensor::from({1, 3, 3, 3}, {4});
  using V = std::vector<double>;
  CHECK(equal(a, b).to_vector() == V{1, 0, 0, 0});
  CHECK(less(a, b).to_vector() == V{0, 1, 0, 0});
  CHECK(less_equal(a, b).to_vector() == V{1, 1, 0, 0});
  CHECK(greater(a, b).to_vector() == V{0, 0, 0, 1});
  CHECK(greater_equal(a, b).to_vector() == V{1, 0, 0, 1});
  CHECK(less(Tensor::arange(3), Tensor::scalar(1, DType::i32)).to_vector() == V{1, 0, 0});
  CHECK(less(a.to(DType::bf16), b.to(DType::bf16)).dtype() == DType::i32);
  CHECK_FALSE(less(leaf(b), b).slot());

  Contract c;
  c.name = "where";
  c.inputs = [](Random& r, int sample) -> Tensors {
    const auto [sa, sb] = broadcast_pair(sample);
    const Shape s = broadcast_shape("test", sa, sb);
    return {sample % 3 == 0 ? r.ids(s, 2) : r.ids(Shape{s.rank ? s[-1] : 1}, 3), with_layout(r.normal(sa), all_layouts[sample % 4]), r.normal(sb)};
  };
  c.fused = [](const Tensors& x) { return where(x[0], x[1], x[2]); };
  c.composite = [](const Tensors& x) {
    const Tensor yes = cast(less(Tensor::scalar(0, DType::i32), x[0]), DType::f64);
    return yes * x[1] + (yes * -1.0 + 1.0) * x[2];
  };
  check_contract(c);
  CHECK(where(Tensor::from(std::vector<int32_t>{1, 0}, {2}), Tensor::arange(2), Tensor::scalar(7, DType::i32)).to_vector() == V{0, 7});
}

TEST_CASE("elementwise: cast") {
  const Tensor x = leaf(Tensor::from({1.00390625f, 2, -3}, {3}));  // 1 + 2^-8 is no bf16
  const Tensor y = cast(x, DType::bf16);
  CHECK(y.to_vector() == std::vector<double>{1, 2, -3});
  backward(cast(y, DType::f64), Tensor::full({3}, 0.5, DType::f64));
  CHECK(grad_of(x).dtype() == DType::f32);
  CHECK(grad_of(x).to_vector() == std::vector<double>(3, 0.5));
  CHECK_FALSE(cast(x, DType::i32).slot());
  gradcheck("cast", [](const Tensors& t) { return cast(cast(t[0], DType::f64), DType::f64) * 2; }, {Random(1).normal({3, 4})});
  CHECK(cast(x, DType::f32).shares_storage(x));
}

TEST_CASE("elementwise: errors name the operation, the arguments and both sides") {
  const Tensor f = Tensor::zeros({2, 3}), d = Tensor::zeros({2, 3}, DType::f64), i = Tensor::arange(3);
  CHECK_THROWS_WITH(mul(f, d), Catch::Contains("mul") && Catch::Contains("a is f32 [2, 3]") && Catch::Contains("b is f64 [2, 3]"));
  CHECK_THROWS_WITH(add(f, Tensor::zeros({2})), Catch::Contains("add") && Catch::Contains("[2, 3]") && Catch::Contains("[2]"));
  CHECK_THROWS_WITH(add(i, i), Catch::Contains("add") && Catch::Contains("i32"));
  CHECK_THROWS_WITH(less(f, i), Catch::Contains("less") && Catch::Contains("i32"));
  CHECK_THROWS_WITH(where(f, f, f), Catch::Contains("where") && Catch::Contains("condition is f32"));
  CHECK_THROWS_WITH(softcap(f, 0), Catch::Contains("softcap"));
  CHECK_THROWS_WITH(add(f, Tensor{}), Catch::Contains("b is absent"));
  for (const UnaryOp& u : unary_ops()) CHECK_THROWS_AS(u.op(i), Error);
  for (const BinaryOp& b : binary_ops()) CHECK_THROWS_AS(b.op(i, i), Error);
}

TEST_CASE("elementwise: only what backward reads is kept") {
  const auto held = [](auto make) {
    const Tensor x = leaf(Tensor::full({1 << 16}, 1)), w = leaf(Tensor::full({1 << 16}, 2)), c = Tensor::full({1 << 16}, 2);
    const size_t before = pool_stats().live_bytes;
    const Tensor y = make(x, w, c);
    return (pool_stats().live_bytes - before) >> 18;  // tensors of this size
  };
  CHECK(held([](auto& x, auto&, auto&) { return neg(exp(x)); }) == 2);       // exp keeps its output
  CHECK(held([](auto& x, auto&, auto&) { return neg(neg(x)); }) == 1);       // neg keeps nothing
  CHECK(held([](auto& x, auto&, auto& c) { return exp(x) * c; }) == 2);      // c wants no gradient, so exp(x) is kept by exp alone
  CHECK(held([](auto& x, auto&, auto& c) { return neg(x) * c; }) == 1);
  CHECK(held([](auto& x, auto& w, auto&) { return neg(x) * w; }) == 2);
}

TEST_CASE("elementwise: a written saved tensor is noticed") {
  const Tensor x = leaf(Tensor::full({3}, 1)), v = x.detach().clone();
  const Tensor y = mul(x, v);
  v.out().as<float>()[0] = 5;
  CHECK_THROWS_WITH(backward(y, Tensor::full({3}, 1)), Catch::Contains("written in place"));
}

TEST_CASE("elementwise: goldens") {
  using F = Tensor (*)(const Tensor&);
  const std::vector<std::pair<const char*, F>> unary = {
      {"exp", exp}, {"log", log}, {"tanh", tanh}, {"sqrt", sqrt}, {"rsqrt", rsqrt}, {"square", square}, {"abs", abs},
      {"sin", sin}, {"cos", cos}, {"sigmoid", sigmoid}, {"log_sigmoid", log_sigmoid}, {"softplus", softplus},
      {"relu", relu}, {"silu", silu}, {"gelu_tanh", gelu_tanh}, {"gelu_erf", gelu_erf}};
  for (const auto& [name, f] : unary)
    check_op_goldens(name, {"x"}, [f = f](const OpCase&, const Tensors& x) -> Tensors { return {f(x[0])}; });
  check_op_goldens("softcap", {"x"}, [](const OpCase& c, const Tensors& x) -> Tensors { return {softcap(x[0], c.attribute("cap"))}; });
  for (const BinaryOp& b : binary_ops()) {
    const std::string name = b.name;
    if (name == "minimum" || name == "pow") continue;
    check_op_goldens(name, {"a", "b"}, [&](const OpCase&, const Tensors& x) -> Tensors {
      return {b.op(x[0], name == "div" ? x[1] * x[1] + 1 : x[1])};
    });
  }
  check_op_goldens("where", {"cond", "a", "b"}, [](const OpCase&, const Tensors& x) -> Tensors { return {where(x[0], x[1], x[2])}; });
}

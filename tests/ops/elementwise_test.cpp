#include <catch2/catch.hpp>
#include <cmath>

#include "autograd/ops.h"
#include "tensor/kernels/elementwise.h"
#include "tests/contracts/ops/elementwise.h"
#include "tests/support/contract.h"
#include "tests/support/goldens.h"

using namespace facet;
using namespace facet::test;

TEST_CASE("elementwise: contracts of the operations on one tensor, on two with broadcasting, of where", "[contract]") { check_contracts("elementwise"); }

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

#include <catch2/catch.hpp>

#include "autograd/ops.h"
#include "autograd/parameter.h"
#include "tensor/kernels/gemm.h"
#include "tests/support/composite_linear.h"
#include "tests/support/contract.h"
#include "tests/support/goldens.h"

using namespace facet;
using namespace facet::test;

TEST_CASE("linear: contract", "[contract]") { check_contracts("linear"); }

TEST_CASE("linear: several outputs are one node with the gradients of several calls") {
  Random r(5);
  const Tensors in{r.normal({4, 3, 10}), r.normal({6, 10}), r.normal({1, 10}), r.normal({17, 10})};
  const Function grouped = [](const Tensors& x) {
    const auto y = linear(x[0], std::span(x).subspan(1));
    return Tensors(y.begin(), y.end());
  };
  gradcheck("linear", grouped, in);
  const Function apart = [](const Tensors& x) { return Tensors{linear(x[0], x[1]), linear(x[0], x[2]), linear(x[0], x[3])}; };
  Tensors f32;
  for (const Tensor& t : in) f32.push_back(t.to(DType::f32));
  const Tensors y = grouped(f32), z = apart(f32);
  Tensors dy = random_weights(y, 7);
  for (int skip = -1; skip < 3; ++skip) {  // an output without gradient is skipped
    Tensors some = dy;
    if (skip >= 0) some[skip] = {};
    const Tensors g = gradients(grouped, f32, some), h = gradients(apart, f32, some);
    for (size_t i = 0; i < g.size(); ++i) {
      REQUIRE(bool(g[i]) == bool(h[i]));
      if (g[i] && i > 0) CHECK(bitwise_equal(g[i], h[i]));
      if (g[i]) CHECK(nmse_within(g[i], h[i], 1e-12));
    }
  }
  for (size_t i = 0; i < y.size(); ++i) CHECK(bitwise_equal(y[i], z[i]));
}

TEST_CASE("linear: bf16 weights under f32 activations, gradient in f32") {
  Random r(9);
  const Tensor x = leaf(r.normal({5, 33}, DType::f32));
  Parameter w(r.normal({40, 33}, DType::bf16));
  const Tensor y = linear(x, w.value());
  CHECK(y.dtype() == DType::f32);
  CHECK(bitwise_equal(y, linear(x.detach(), w.value().detach().to(DType::f32))));
  const Tensor dy = r.normal({5, 40}, DType::f32);
  backward(y, dy);
  CHECK(w.grad().dtype() == DType::f32);
  CHECK(nmse_within(w.grad(), slow_linear(dy.transpose(0, 1), x.detach().transpose(0, 1)), 1e-12));
  CHECK(nmse_within(grad_of(x), slow_linear(dy, w.value().detach().to(DType::f32).transpose(0, 1)), 1e-12));
}

TEST_CASE("linear: products write into the parameter's gradient, frozen weights cost nothing") {
  Random r(11);
  Parameter w(r.normal({8, 6}, DType::f32)), frozen(r.normal({8, 6}, DType::f32), false);
  const Tensor x = r.normal({3, 6}, DType::f32), dy = r.normal({3, 8}, DType::f32);
  for (int i = 0; i < 2; ++i) {
    tape_stats() = {};
    const Tensor both[] = {w.value(), frozen.value()};
    const auto y = linear(x, both);
    backward(y[0], dy);
    CHECK(tape_stats().adds == 0);
    CHECK(tape_stats().copies == 0);
  }
  const Tensor once = slow_linear(dy.transpose(0, 1), x.transpose(0, 1));
  CHECK(nmse_within(w.grad(), Tensor::from([&] { auto v = once.to_vector(); for (double& e : v) e *= 2; return v; }(), {8, 6}), 1e-12));
  CHECK_FALSE(frozen.grad());
  CHECK_FALSE(linear(x, frozen.value()).slot());
}

TEST_CASE("linear: says what does not fit") {
  const Tensor x = Tensor::zeros({2, 3});
  CHECK_THROWS_WITH(linear(x, Tensor::zeros({4, 5})), Catch::Contains("linear: x [2, 3] and w [4, 5]"));
  CHECK_THROWS_WITH(linear(x, Tensor::zeros({4, 3}, DType::f64)), Catch::Contains("x is f32, w is f64"));
  CHECK_THROWS_AS(linear(x.to(DType::bf16), Tensor::zeros({4, 3})), Error);
  CHECK_THROWS_AS(linear(x, Tensor::zeros({3})), Error);
}

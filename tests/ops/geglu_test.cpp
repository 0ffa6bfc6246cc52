#include <catch2/catch.hpp>
#include <cmath>

#include "autograd/ops.h"
#include "tests/support/contract.h"
#include "tests/support/goldens.h"

using namespace facet;
using namespace facet::test;

TEST_CASE("geglu: contract", "[contract]") { check_contracts("geglu"); }

TEST_CASE("geglu: goldens") {
  check_op_goldens("geglu", {"gate", "up"}, [](const OpCase&, const Tensors& x) { return Tensors{geglu(x[0], x[1])}; });
}

TEST_CASE("geglu: the gate is the first argument; extremes") {
  const Tensor g = Tensor::from({-3, -1, 0.5f, 2, 1e4f, -1e4f, 0}, {7}), one = Tensor::full({7}, 1);
  CHECK(close(geglu(g, one), Tensor::from({-0.003637392f, -0.158808009f, 0.345714010f, 1.954597694f, 1e4f, 0, 0}, {7}), 1e-6, 1e-9));
  CHECK(geglu(Tensor::from({-1}, {1}), Tensor::from({2}, {1})).item() == Approx(2 * -0.158808009));
}

TEST_CASE("geglu: one input adds to a gradient that is there while the other starts afresh") {
  const Tensor g = leaf(Tensor::full({3}, 2)), u = leaf(Tensor::full({3}, 5));
  const Tensor first = geglu(g, u);  // recorded first, so that the other use's gradient arrives before its own
  backward(add(first, mul(u, 10)), Tensor::full({3}, 1));
  CHECK(grad_of(u).at({0}) == Approx(10 + 1.954597694));
  CHECK(grad_of(g).at({0}) == Approx(5 * 1.0860992));
  const Tensor h = leaf(Tensor::full({3}, 2)), v = leaf(Tensor::full({3}, 5));
  const Tensor second = geglu(h, v);
  backward(add(second, mul(h, 10)), Tensor::full({3}, 1));
  CHECK(grad_of(v).at({0}) == Approx(1.954597694));
  CHECK(grad_of(h).at({0}) == Approx(10 + 5 * 1.0860992));
}

TEST_CASE("geglu: errors") {
  CHECK_THROWS_WITH(geglu(Tensor::zeros({2, 3}), Tensor::zeros({2, 4})), Catch::Contains("geglu: gate f32 [2, 3] and up f32 [2, 4]"));
  CHECK_THROWS_AS(geglu(Tensor::zeros({2}), Tensor::zeros({2}, DType::bf16)), Error);
}

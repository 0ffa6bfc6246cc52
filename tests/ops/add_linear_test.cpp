#include <catch2/catch.hpp>

#include "autograd/ops.h"
#include "tensor/profile.h"
#include "tests/support/contract.h"

using namespace facet;
using namespace facet::test;

TEST_CASE("add_linear: contract, into a copy and into the memory of a fresh y", "[contract]") { check_contracts("add_linear"); }

TEST_CASE("add_linear: memory is used again when nobody else holds it, and never otherwise") {
  Random random(1);
  const Tensor x = random.normal({3, 2}, DType::f32), w = random.normal({4, 2}, DType::f32);
  Tensor y = random.normal({3, 4}, DType::f32);
  const void* memory = y.view().data;
  const Tensor before = y.clone();
  Tensor kept = add_linear(y, x, w);  // y is still held here
  CHECK(kept.view().data != memory);
  CHECK(bitwise_equal(y, before));
  CHECK(add_linear(std::move(y), x, w).view().data == memory);

  // A gradient that reads y finds it as it was.
  const Tensor a = leaf(Tensor::full({3, 4}, 2));
  Tensor squares = exp(a);  // saves its result
  backward(sum(add_linear(std::move(squares), x, w)));
  CHECK(close(grad_of(a), exp(Tensor::full({3, 4}, 2)), 1e-6));
}

TEST_CASE("add_linear: bf16 w under f32, and no work for what needs no gradient") {
  Random random(2);
  const Tensor x = random.normal({5, 3}, DType::f32), w = random.normal({4, 3}, DType::f32).to(DType::bf16), y = random.normal({5, 4}, DType::f32);
  CHECK(close(add_linear(y, x, w, 0.5), add(y, mul(linear(x, w.to(DType::f32)), 0.5)), 1e-6, 1e-6));

  const Tensor trained = leaf(x);
  const Tensor out = sum(add_linear(y, trained, w, 0.5));
  count_products();
  backward(out);
  const Products p = counted_products();
  CHECK(p.count == 1);  // dx alone: neither dw nor anything for y
  CHECK(p.flops == 2 * 5 * 4 * 3);
}

TEST_CASE("add_linear: errors") {
  const Tensor y = Tensor::zeros({2, 4}), x = Tensor::zeros({2, 3}), w = Tensor::zeros({4, 3});
  CHECK_THROWS_WITH(add_linear(y, x, Tensor::zeros({3, 4})), Catch::Contains("add_linear: y [2, 4], x [2, 3] and w [3, 4]: expected y [.., O], x [.., I] and w [O, I]"));
  CHECK_THROWS_AS(add_linear(Tensor::zeros({3, 4}), x, w), Error);
  CHECK_THROWS_AS(add_linear(Tensor::zeros({2, 4}, DType::f64), x, w), Error);
  CHECK_THROWS_AS(add_linear(y, x, w.to(DType::f64)), Error);
  CHECK_THROWS_AS(add_linear(Tensor(), x, w), Error);
}

#include <catch2/catch.hpp>

#include "autograd/ops.h"
#include "tests/support/contract.h"
#include "tests/support/goldens.h"

using namespace facet;
using namespace facet::test;

TEST_CASE("embedding: contract", "[contract]") { check_contracts("embedding"); }

TEST_CASE("embedding: goldens, repeated ids add up") {
  check_op_goldens("embedding", {"table"}, [](const OpCase& c, const Tensors& x) {
    return Tensors{embedding(c.in("ids"), x[0], 1, x[0].dtype())};
  });
}

TEST_CASE("embedding: a bf16 table feeds f32 activations; the scale is not rounded to bf16") {
  const Tensor table = Tensor::full({3, 5}, 1, DType::bf16), ids = Tensor::from(std::vector<int32_t>{2, 0}, {2});
  const double scale = 25.298221281347036;  // sqrt(640); bf16 would make it 25.25
  const Tensor y = embedding(ids, table, scale, DType::f32);
  CHECK(y.dtype() == DType::f32);
  CHECK(y.at({1, 4}) == static_cast<float>(scale));
  const Tensor t = leaf(table);
  backward(embedding(ids, t, scale, DType::f32), Tensor::full({2, 5}, 1));
  CHECK(grad_of(t).dtype() == DType::f32);
  CHECK(grad_of(t).at({0, 0}) == static_cast<float>(scale));
  CHECK(grad_of(t).at({1, 0}) == 0);
}

TEST_CASE("embedding: the gradient is added to what the tied head left") {
  const Tensor t = leaf(Tensor::full({4, 3}, 1)), ids = Tensor::from(std::vector<int32_t>{1, 1}, {2});
  for (int pass = 0; pass < 2; ++pass) backward(embedding(ids, t, 1, DType::f32), Tensor::full({2, 3}, 1));
  CHECK(grad_of(t).at({1, 2}) == 4);
  CHECK(grad_of(t).at({0, 2}) == 0);
}

TEST_CASE("embedding: errors name position, id and table") {
  const Tensor table = Tensor::zeros({4, 3});
  CHECK_THROWS_WITH(embedding(Tensor::from(std::vector<int32_t>{1, 7}, {2}), table, 1, DType::f32),
                    Catch::Contains("embedding: id 7 at position 1 is not in a table of 4 rows"));
  CHECK_THROWS_AS(embedding(Tensor::from(std::vector<int32_t>{4}, {1}), table, 1, DType::f32), Error);
  CHECK_THROWS_AS(embedding(Tensor::from(std::vector<int32_t>{-1}, {1}), table, 1, DType::f32), Error);
  CHECK_THROWS_AS(embedding(Tensor::zeros({2}), table, 1, DType::f32), Error);
  CHECK_THROWS_AS(embedding(Tensor::arange(2), table, 1, DType::f64), Error);
  CHECK(embedding(Tensor::empty({0}, DType::i32), table, 1, DType::f32).shape() == Shape{0, 3});
}

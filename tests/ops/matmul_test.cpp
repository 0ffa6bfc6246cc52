#include <catch2/catch.hpp>

#include "autograd/ops.h"
#include "tests/support/contract.h"
#include "tests/support/goldens.h"

using namespace facet;
using namespace facet::test;

TEST_CASE("matmul: contract", "[contract]") { check_contracts("matmul"); }

TEST_CASE("matmul: the reference's numbers") {
  check_op_goldens("matmul", {"a", "b"}, [](const OpCase&, const Tensors& x) -> Tensors { return {matmul(x[0], x[1])}; });
}

TEST_CASE("matmul: says what does not fit") {
  const Tensor a = Tensor::zeros({2, 3});
  CHECK_THROWS_WITH(matmul(a, Tensor::zeros({2, 3})), Catch::Contains("matmul: a [2, 3] and b [2, 3]"));
  CHECK_THROWS_WITH(matmul(a, Tensor::zeros({3, 1}, DType::bf16)), Catch::Contains("a is f32, b is bf16"));
  CHECK_THROWS_AS(matmul(Tensor::zeros({2, 1, 3}), Tensor::zeros({3, 3, 1})), Error);
}

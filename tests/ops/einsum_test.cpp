// einsum against a loop over all indices, the reference's numbers, and its error messages.
#include <catch2/catch.hpp>

#include "autograd/ops.h"
#include "tests/support/compare.h"
#include "tests/support/contract.h"
#include "tests/support/goldens.h"
#include "tests/support/random.h"

using namespace facet;
using namespace facet::test;

TEST_CASE("einsum: contract, against a loop over all indices, for more than forty specs", "[contract]") {
  check_contracts("einsum");
  for (const Contract& c : contracts())
    if (c.name == "einsum") CHECK(c.samples >= 40);
}

TEST_CASE("einsum: without an output the letters that appear once, sorted") {
  Random r(4);
  const Tensor a = r.normal({2, 3}), b = r.normal({3, 4});
  CHECK(bitwise_equal(einsum("ij,jk", {a, b}).dense(), einsum("ij,jk->ik", {a, b}).dense()));
  CHECK(bitwise_equal(einsum("zj,jk", {a, b}).dense(), einsum("zj,jk->kz", {a, b}).dense()));
  CHECK(bitwise_equal(einsum("ba", {a}).dense(), a.transpose(0, 1).dense()));
}

TEST_CASE("einsum: the reference's numbers") {
  check_op_goldens("einsum", {"a", "b"}, [](const OpCase& c, const Tensors& x) -> Tensors { return {einsum(c.text("equation"), x)}; });
}

TEST_CASE("einsum: says what is wrong with a spec") {
  const Tensor a = Tensor::zeros({2, 3}), b = Tensor::zeros({4, 5});
  CHECK_THROWS_WITH(einsum("ij,jk->ik", {a, b}), Catch::Contains("'j' is 3 in operand 0 [2, 3] but 4 in operand 1 [4, 5]"));
  CHECK_THROWS_WITH(einsum("ii->i", {a}), Catch::Contains("diagonals are not supported"));
  CHECK_THROWS_WITH(einsum("ij->ii", {a}), Catch::Contains("appears twice in the output"));
  CHECK_THROWS_WITH(einsum("ij->k", {a}), Catch::Contains("'k' of the output appears in no operand"));
  CHECK_THROWS_WITH(einsum("i...->i", {a}), Catch::Contains("not supported"));
  CHECK_THROWS_WITH(einsum("ij,jk->ik", {a}), Catch::Contains("names 2 operands, 1 are given"));
  CHECK_THROWS_WITH(einsum("ijk->i", {a}), Catch::Contains("operand 0 is [2, 3], expected 3 dimensions"));
  for (const char* bad : {"ij->i->j", "i1->i", "ij-i", "ij>i", "ij->i,j", "i|j"}) CHECK_THROWS_AS(einsum(bad, {a}), Error);
}

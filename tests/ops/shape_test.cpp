#include <catch2/catch.hpp>

#include "autograd/ops.h"
#include "tests/support/contract.h"

using namespace facet;
using namespace facet::test;

TEST_CASE("shapes: contracts", "[contract]") { check_contracts("shape"); }

TEST_CASE("shapes: views where the layout allows") {
  const Tensor x = leaf(Random(1).normal({3, 4}));
  for (const Tensor& y : {reshape(x, {12}), permute(x, {1, 0}), transpose(x), slice(x, 0, 1, 2), expand(x, {2, 3, 4}), split(x, {1, 3}, 1)[1]})
    CHECK(y.shares_storage(x));
  CHECK_FALSE(reshape(transpose(x), {12}).shares_storage(x));  // this one must copy
  CHECK(reshape(transpose(x), {12}).to_vector()[1] == x.at({1, 0}));
  CHECK(reshape(Tensor::zeros({0, 3}).transpose(0, 1), {0, 5}).numel() == 0);
  tape_stats() = {};
  backward(sum(reshape(transpose(reshape(x, {4, 3})), {12})));
  CHECK(tape_stats().adds == 0);
}

TEST_CASE("split: a part without gradient counts as zero, and nothing is zeroed twice") {
  const Tensor x = leaf(Random(2).normal({2, 6}));
  const std::vector<Tensor> y = split(x, {2, 3, 1}, 1);
  backward(sum(y[1] * 2));
  CHECK(grad_of(x).to_vector() == std::vector<double>{0, 0, 2, 2, 2, 0, 0, 0, 2, 2, 2, 0});
  backward(sum(split(x, {6}, 1)[0]));
  CHECK(grad_of(x).to_vector() == std::vector<double>{1, 1, 3, 3, 3, 1, 1, 1, 3, 3, 3, 1});
}

TEST_CASE("shapes: errors") {
  const Tensor x = Tensor::zeros({2, 3});
  CHECK_THROWS_WITH(reshape(x, {4}), Catch::Contains("reshape") && Catch::Contains("[2, 3]") && Catch::Contains("[4]"));
  CHECK_THROWS_WITH(permute(x, {0, 0}), Catch::Contains("permute"));
  CHECK_THROWS_WITH(transpose(x, 0, 2), Catch::Contains("transpose"));
  CHECK_THROWS_WITH(slice(x, 0, 1, 3), Catch::Contains("slice") && Catch::Contains("[2, 3]"));
  CHECK_THROWS_WITH(expand(x, {4, 3}), Catch::Contains("expand") && Catch::Contains("[4, 3]"));
  CHECK_THROWS_WITH(concat({}, 0), Catch::Contains("concat"));
  CHECK_THROWS_WITH(concat({x, Tensor::zeros({2, 4})}, 0), Catch::Contains("concat") && Catch::Contains("[2, 3]") && Catch::Contains("[2, 4]"));
  CHECK_THROWS_WITH(concat({x, Tensor::zeros({3})}, 0), Catch::Contains("concat"));
  CHECK_THROWS_WITH(concat({x, x.to(DType::f64)}, 0), Catch::Contains("concat") && Catch::Contains("f64"));
  CHECK_THROWS_WITH(split(x, {1, 1}, 1), Catch::Contains("split") && Catch::Contains("add to 2"));
  CHECK_THROWS_AS(reshape(Tensor{}, {1}), Error);
  CHECK(concat({Tensor::arange(2), Tensor::arange(1)}, 0).to_vector() == std::vector<double>{0, 1, 0});
}

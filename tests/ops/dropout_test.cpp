#include <catch2/catch.hpp>

#include "autograd/ops.h"
#include "tests/support/contract.h"

using namespace facet;
using namespace facet::test;

TEST_CASE("dropout: contract; the mask is jax.random.bernoulli's", "[contract]") { check_contracts("dropout"); }

TEST_CASE("dropout: how many stay, the mean, the extremes") {
  const Tensor ones = Tensor::full({1 << 18}, 1);
  for (double share : {0.05, 0.5, 0.9}) {
    const Tensor y = dropout(ones, share, key(1));
    CHECK(mean(y).item() == Approx(1).epsilon(0.01));
    CHECK(mean(greater(y, Tensor::zeros({1}))  .to(DType::f32)).item() == Approx(1 - share).epsilon(0.01));
  }
  CHECK(bitwise_equal(dropout(ones, 0, key(1)), ones));
  const Tensor nan = Tensor::full({64}, NAN);
  const std::vector<double> y = dropout(nan, 0.5, key(2)).to_vector();
  CHECK(std::count(y.begin(), y.end(), 0.0) > 10);  // what is dropped is zero whatever it was
}

TEST_CASE("dropout: another key, another mask; backward draws the mask of forward") {
  const Tensor x = leaf(Tensor::full({1000}, 2));
  CHECK_FALSE(bitwise_equal(dropout(x, 0.5, key(1)).detach(), dropout(x, 0.5, key(2)).detach()));
  const Tensor y = dropout(x, 0.5, key(1));
  backward(y, Tensor::full({1000}, 2));
  CHECK(bitwise_equal(grad_of(x), y.detach()));
}

TEST_CASE("dropout: errors") {
  CHECK_THROWS_WITH(dropout(Tensor::zeros({2}), 1, key(1)), Catch::Contains("dropout: p 1: expected 0 <= p < 1"));
  CHECK_THROWS_AS(dropout(Tensor::zeros({2}), -0.1, key(1)), Error);
  CHECK_THROWS_AS(dropout(Tensor::zeros({2}, DType::i32), 0.1, key(1)), Error);
  CHECK_THROWS_AS(dropout(Tensor::zeros({2}), 0.1, key(1, Counters::original)), Error);
}

#include <catch2/catch.hpp>

#include "autograd/ops.h"
#include "tests/support/contract.h"

using namespace facet;
using namespace facet::test;

namespace {

constexpr double p = 0.3;
Key mask_key() { return fold_in(key(7), 3); }

}  // namespace

TEST_CASE("dropout: contract; the mask is jax.random.bernoulli's") {
  Contract c;
  c.name = "dropout";
  c.samples = 19;
  c.inputs = [](Random& r, int sample) -> Tensors {
    const int64_t d = sample == 18 ? 4099 : awkward_size(sample), n = sample == 18 ? 3 : 1 + sample % 5;
    return {with_layout(r.normal({n, d}), all_layouts[static_cast<size_t>(sample) % 5])};
  };
  c.fused = [](const Tensors& x) { return dropout(x[0], p, mask_key()); };
  c.composite = [](const Tensors& x) {
    return where(bernoulli(mask_key(), x[0].shape(), 1 - p), mul(x[0], 1 / (1 - p)), Tensor::zeros({1}, x[0].dtype()));
  };
  check_contract(c);
}

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

#include <catch2/catch.hpp>
#include <cmath>

#include "autograd/ops.h"
#include "tests/support/contract.h"
#include "tests/support/goldens.h"

using namespace facet;
using namespace facet::test;

TEST_CASE("rms_norm: contract", "[contract]") { check_contracts("rms_norm"); }

TEST_CASE("rms_norm: goldens") {
  check_op_goldens("rms_norm", {"x", "w"}, [](const OpCase& c, const Tensors& x) {
    return Tensors{rms_norm(x[0], x[1], c.attribute("eps"))};
  });
}

TEST_CASE("rms_norm: known numbers, weights around zero") {
  const Tensor y = rms_norm(Tensor::from({1, 2, 3, 4}, {4}), Tensor::from({0, 0.5f, -0.5f, 1}, {4}), 1e-6);
  CHECK(close(y, Tensor::from({0.365148347f, 1.095445042f, 0.547722521f, 2.921186779f}, {4}), 1e-6));
}

TEST_CASE("rms_norm: 1 + w is formed in f32 under a bf16 weight, and w may be stored narrower than x") {
  // 1 + 2^-9 is not a bf16 number
  const Tensor w = Tensor::full({8}, 1.0 / 512, DType::bf16), x = Tensor::full({1, 8}, 1);
  CHECK(rms_norm(x, w, 0).at({0, 0}) == Approx(1 + 1.0 / 512).epsilon(1e-7));
  const Tensor wl = leaf(w), xl = leaf(x.to(DType::bf16));
  backward(rms_norm(xl, wl, 1e-6), Tensor::full({1, 8}, 1, DType::bf16));
  CHECK(grad_of(wl).dtype() == DType::f32);
  CHECK(close(grad_of(wl), Tensor::full({8}, 1), 1e-5));
}

TEST_CASE("rms_norm: extremes") {
  CHECK(close(rms_norm(Tensor::zeros({2, 5}), Tensor::zeros({5}), 1e-6), Tensor::zeros({2, 5}), 0, 0));
  const Tensor big = Tensor::full({1, 33}, 1e18);
  CHECK(close(rms_norm(big, Tensor::zeros({33}), 1e-6), Tensor::full({1, 33}, 1), 1e-6));
  CHECK(std::isnan(rms_norm(Tensor::full({1, 3}, NAN), Tensor::zeros({3}), 1e-6).at({0, 0})));
}

TEST_CASE("rms_norm: gradients only for those who want one, and dw adds into the f32 sink") {
  Random r(5);
  const Tensor x = r.normal({40, 24}, DType::f32), w = r.normal({24}, DType::f32);
  const Tensor wl = leaf(w);
  for (int pass = 0; pass < 2; ++pass) backward(rms_norm(x, wl, 1e-6), Tensor::full({40, 24}, 1));
  const Tensor once = leaf(w);
  backward(rms_norm(x, once, 1e-6), Tensor::full({40, 24}, 2));
  CHECK(close(grad_of(wl), grad_of(once), 1e-6, 1e-6));
  const Tensor frozen = rms_norm(x, w, 1e-6);
  CHECK_FALSE(frozen.slot());
}

TEST_CASE("rms_norm: errors name the op and both sides") {
  CHECK_THROWS_WITH(rms_norm(Tensor::zeros({2, 3}), Tensor::zeros({4}), 0), Catch::Contains("rms_norm: w [4] does not fit x [2, 3]"));
  CHECK_THROWS_WITH(rms_norm(Tensor::zeros({2, 3}), Tensor::zeros({3}, DType::f64), 0), Catch::Contains("f64"));
  CHECK_THROWS_AS(rms_norm(Tensor::arange(3), Tensor::zeros({3}), 0), Error);
}

#include <catch2/catch.hpp>
#include <cmath>

#include "autograd/ops.h"
#include "tests/support/contract.h"
#include "tests/support/goldens.h"

using namespace facet;
using namespace facet::test;

TEST_CASE("layer_norm: contract", "[contract]") { check_contracts("layer_norm"); }

TEST_CASE("layer_norm: goldens") {
  check_op_goldens("layer_norm", {"x", "w", "b"}, [](const OpCase& c, const Tensors& x) {
    return Tensors{layer_norm(x[0], x[1], x[2], c.attribute("eps"))};
  });
}

TEST_CASE("layer_norm: a large mean does not drown the variance") {
  Random r(3);
  const Tensor small = r.normal({4, 100}, DType::f32), w = Tensor::full({100}, 1), b = Tensor::zeros({100});
  CHECK(close(layer_norm(small + 4096.0, w, b, 1e-6), layer_norm(small, w, b, 1e-6), 0, 5e-3));
}

TEST_CASE("layer_norm: errors name the op and both sides") {
  const Tensor x = Tensor::zeros({2, 3}), d = Tensor::zeros({3});
  CHECK_THROWS_WITH(layer_norm(x, Tensor::zeros({4}), d, 0), Catch::Contains("layer_norm: w [4] does not fit x [2, 3]"));
  CHECK_THROWS_AS(layer_norm(x, d, Tensor::zeros({4}), 0), Error);
}

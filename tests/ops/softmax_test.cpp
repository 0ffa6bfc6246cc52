#include "tensor/kernels/softmax.h"

#include <catch2/catch.hpp>
#include <cmath>

#include "autograd/ops.h"
#include "tests/support/contract.h"
#include "tests/support/goldens.h"

using namespace facet;
using namespace facet::test;

TEST_CASE("softmax, log_softmax, logsumexp: contracts", "[contract]") { check_contracts("softmax"); }

TEST_CASE("softmax: extremes") {
  const float inf = INFINITY;
  for (DType d : {DType::f32, DType::f64, DType::bf16}) {
    const Tensor x = Tensor::from({1e4, -1e4, 0, -inf, -inf, -inf, -inf, 2, -inf}, {3, 3}).to(d);
    const std::vector<double> y = softmax(x).to_vector(), l = logsumexp(x).to_vector(), ls = log_softmax(x).to_vector();
    CHECK(y[0] == 1);
    CHECK(y[1] == 0);
    CHECK((std::isnan(y[3]) && std::isnan(y[5])));  // nothing to share: NaN, as JAX
    CHECK((y[6] == 0 && y[7] == 1 && y[8] == 0));
    CHECK(l[0] == x.at({0, 0}));
    CHECK(l[1] == -INFINITY);
    CHECK(l[2] == 2);
    CHECK((ls[6] == -INFINITY && ls[7] == 0));
    CHECK(std::isnan(ls[3]));
    CHECK(std::isnan(softmax(Tensor::from({1, NAN, 2}, {3}).to(d)).at({0})));
    CHECK(logsumexp(Tensor::from({1, inf}, {2}).to(d)).item() == INFINITY);
    CHECK(softmax(Tensor::zeros({0, 4}, d)).shape() == Shape{0, 4});
    CHECK(softmax(Tensor::zeros({4, 0}, d)).shape() == Shape{4, 0});
    const Tensor masked = leaf(x.slice(0, 2, 3));
    backward(logsumexp(masked));
    CHECK(grad_of(masked).to_vector() == std::vector<double>{0, 1, 0});
  }
  CHECK(logsumexp(Tensor::zeros({2, 0})).to_vector() == std::vector<double>(2, -INFINITY));
}

TEST_CASE("softmax: errors") {
  CHECK_THROWS_WITH(softmax(Tensor::arange(3)), Catch::Contains("softmax: x is i32"));
  CHECK_THROWS_WITH(log_softmax(Tensor::zeros({2}), 1), Catch::Contains("log_softmax: dimension 1"));
  CHECK_THROWS_WITH(logsumexp(Tensor{}), Catch::Contains("logsumexp: x is absent"));
}

TEST_CASE("softmax: goldens") {
  check_op_goldens("softmax", {"x"}, [](const OpCase&, const Tensors& x) -> Tensors { return {softmax(x[0])}; });
  check_op_goldens("log_softmax", {"x"}, [](const OpCase&, const Tensors& x) -> Tensors { return {log_softmax(x[0])}; });
  check_op_goldens("logsumexp", {"x"}, [](const OpCase&, const Tensors& x) -> Tensors { return {logsumexp(x[0])}; });
}

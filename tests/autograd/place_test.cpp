// Gradients of parts of a value: written straight into the gradient of the whole where that is safe, and right where it is not.
#include <catch2/catch.hpp>

#include "autograd/ops.h"
#include "tensor/kernels/copy.h"
#include "tests/support/compare.h"

using namespace facet;
using namespace facet::test;

namespace {

/// x, whose gradient is dy * factor; notes where it was written.
struct Writer {
  double factor;
  const void** at;
  void operator()(Grads dy, Sinks dx) {
    const Out to = dx[0].window();
    CHECK(to.dtype == dx[0].dtype());
    *at = to.data;
    copy(mul(dy[0], factor).view(), to);
  }
};

struct Written {
  const void* at = nullptr;
  Tensor operator()(const Tensor& x, double factor) {
    Tensor y = x.detach().clone();
    attach("writer", {&y}, {&x}, Writer{factor, &at});
    return y;
  }
};

}  // namespace

TEST_CASE("places: parts of a row write side by side into the row's gradient, reshaped or not, and nothing is copied") {
  const Tensor x = leaf(Tensor::zeros({2, 3, 10}));
  Written a, b, c;
  const auto part = split(x, {4, 4, 2}, -1);
  const Tensor y = add(sum(a(reshape(part[0], {2, 3, 2, 2}), 2)), add(sum(b(reshape(part[1], {2, 3, 4, 1}), 3)), sum(c(part[2], 4))));
  tape_stats() = {};
  backward(y);
  const Tensor dx = grad_of(x);
  CHECK(dx.to_vector() == concat({Tensor::full({2, 3, 4}, 2), Tensor::full({2, 3, 4}, 3), Tensor::full({2, 3, 2}, 4)}, -1).to_vector());
  const auto* first = dx.view().as<float>();
  CHECK(a.at == first);
  CHECK(b.at == first + 4);
  CHECK(c.at == first + 8);
  CHECK(tape_stats().copies == 0);
  CHECK(tape_stats().adds == 0);
}

TEST_CASE("places: a part without a gradient gets zeros, one that another way wrote is copied") {
  const Tensor x = leaf(Tensor::zeros({5, 6}));
  Written a;
  const auto part = split(x, {2, 1, 3}, -1);
  backward(add(sum(a(part[0], 2)), sum(mul(part[2], 7))));
  CHECK(grad_of(x).to_vector() == concat({Tensor::full({5, 2}, 2), Tensor::zeros({5, 1}), Tensor::full({5, 3}, 7)}, -1).to_vector());
}

TEST_CASE("places: who reads a part in several ways gets the sum, since a place is given once") {
  for (const int order : {0, 1, 2}) {
    const Tensor x = leaf(Tensor::zeros({3, 4}));
    Written a, b, c;
    const auto part = split(x, {2, 2}, -1);
    const Tensor direct = part[0], reshaped = reshape(part[0], {3, 1, 2}), again = reshape(part[0], {6});
    const Tensor ways[] = {a(order == 0 ? direct : reshaped, 2), b(order == 1 ? direct : again, 3), c(order == 2 ? direct : reshaped, 5)};
    backward(add(sum(ways[0]), add(sum(ways[1]), add(sum(ways[2]), sum(mul(part[1], 4))))));
    CHECK(grad_of(x).to_vector() == concat({Tensor::full({3, 2}, 10), Tensor::full({3, 2}, 4)}, -1).to_vector());
  }
}

TEST_CASE("places: a gradient that the whole has from elsewhere is added to, and so are a leaf's of several passes") {
  const Tensor x = leaf(Tensor::zeros({3, 4}));
  for (int pass = 1; pass <= 2; ++pass) {
    Written a, b;
    const Tensor h = mul(x, 1);
    const auto part = split(h, {1, 3}, 1);
    backward(add(add(sum(a(part[0], 2)), sum(b(part[1], 3))), sum(mul(h, 10))));
    CHECK(grad_of(x).to_vector() == mul(concat({Tensor::full({3, 1}, 12), Tensor::full({3, 3}, 13)}, -1), pass).to_vector());
  }
}

TEST_CASE("places: a bf16 part of a leaf, whose gradient is f32, is copied") {
  const Tensor x = leaf(Tensor::zeros({2, 4}, DType::bf16));
  Written a;
  backward(sum(cast(a(split(x, {1, 3}, 1)[1], 2), DType::f32)));
  CHECK(grad_of(x).to_vector() == std::vector<double>{0, 2, 2, 2, 0, 2, 2, 2});
}

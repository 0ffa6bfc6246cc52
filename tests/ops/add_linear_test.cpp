#include <catch2/catch.hpp>

#include "autograd/ops.h"
#include "tensor/profile.h"
#include "tests/support/contract.h"

using namespace facet;
using namespace facet::test;

namespace {

constexpr double scale = 1.75;

Contract contract() {
  Contract c;
  c.name = "add_linear";
  c.samples = 19;
  c.inputs = [](Random& r, int sample) -> Tensors {
    // Ranks as adapters have them, widths of awkward sizes; the last sample is a large one.
    const int64_t rank = sample == 18 ? 64 : 1 + sample % 9, n = 1 + sample % 5;
    const int64_t outputs = sample == 18 ? 257 : awkward_size(sample);
    const Layout layout = all_layouts[static_cast<size_t>(sample) % 5];
    if (sample % 4 == 1)  // three dimensions
      return {r.normal({2, n, outputs}), r.normal({2, n, rank}), with_layout(r.normal({outputs, rank}), layout)};
    return {with_layout(r.normal({n, outputs}), layout), with_layout(r.normal({n, rank}), all_layouts[static_cast<size_t>(sample + 2) % 5]),
            with_layout(r.normal({outputs, rank}), layout)};
  };
  c.composite = [](const Tensors& x) { return add(x[0], mul(linear(x[1], x[2]), scale)); };
  return c;
}

}  // namespace

TEST_CASE("add_linear: contract, into a copy") {
  Contract c = contract();
  c.fused = [](const Tensors& x) { return add_linear(x[0], x[1], x[2], scale); };
  check_contract(c);
}

TEST_CASE("add_linear: contract, into the memory of a fresh y") {
  Contract c = contract();
  c.fused = [](const Tensors& x) { return add_linear(mul(x[0], 3), x[1], x[2], scale); };
  c.composite = [](const Tensors& x) { return add(mul(x[0], 3), mul(linear(x[1], x[2]), scale)); };
  check_contract(c);
}

TEST_CASE("add_linear: memory is used again when nobody else holds it, and never otherwise") {
  Random random(1);
  const Tensor x = random.normal({3, 2}, DType::f32), w = random.normal({4, 2}, DType::f32);
  Tensor y = random.normal({3, 4}, DType::f32);
  const void* memory = y.view().data;
  const Tensor before = y.clone();
  Tensor kept = add_linear(y, x, w);  // y is still held here
  CHECK(kept.view().data != memory);
  CHECK(bitwise_equal(y, before));
  CHECK(add_linear(std::move(y), x, w).view().data == memory);

  // A gradient that reads y finds it as it was.
  const Tensor a = leaf(Tensor::full({3, 4}, 2));
  Tensor squares = exp(a);  // saves its result
  backward(sum(add_linear(std::move(squares), x, w)));
  CHECK(close(grad_of(a), exp(Tensor::full({3, 4}, 2)), 1e-6));
}

TEST_CASE("add_linear: bf16 w under f32, and no work for what needs no gradient") {
  Random random(2);
  const Tensor x = random.normal({5, 3}, DType::f32), w = random.normal({4, 3}, DType::f32).to(DType::bf16), y = random.normal({5, 4}, DType::f32);
  CHECK(close(add_linear(y, x, w, 0.5), add(y, mul(linear(x, w.to(DType::f32)), 0.5)), 1e-6, 1e-6));

  const Tensor trained = leaf(x);
  const Tensor out = sum(add_linear(y, trained, w, 0.5));
  count_products();
  backward(out);
  const Products p = counted_products();
  CHECK(p.count == 1);  // dx alone: neither dw nor anything for y
  CHECK(p.flops == 2 * 5 * 4 * 3);
}

TEST_CASE("add_linear: errors") {
  const Tensor y = Tensor::zeros({2, 4}), x = Tensor::zeros({2, 3}), w = Tensor::zeros({4, 3});
  CHECK_THROWS_WITH(add_linear(y, x, Tensor::zeros({3, 4})), Catch::Contains("add_linear: y [2, 4], x [2, 3] and w [3, 4]: expected y [.., O], x [.., I] and w [O, I]"));
  CHECK_THROWS_AS(add_linear(Tensor::zeros({3, 4}), x, w), Error);
  CHECK_THROWS_AS(add_linear(Tensor::zeros({2, 4}, DType::f64), x, w), Error);
  CHECK_THROWS_AS(add_linear(y, x, w.to(DType::f64)), Error);
  CHECK_THROWS_AS(add_linear(Tensor(), x, w), Error);
}

#include <catch2/catch.hpp>
#include <cmath>

#include "autograd/inference_ops.h"
#include "autograd/ops.h"
#include "tensor/gpu/emulator/emulator.h"
#include "tests/support/contract.h"
#include "tests/support/goldens.h"

using namespace facet;
using namespace facet::test;

TEST_CASE("geglu: contract", "[contract]") { check_contracts("geglu"); }

TEST_CASE("geglu: goldens") {
  check_op_goldens("geglu", {"gate", "up"}, [](const OpCase&, const Tensors& x) { return Tensors{geglu(x[0], x[1])}; });
}

TEST_CASE("geglu: the gate is the first argument; extremes") {
  const Tensor g = Tensor::from({-3, -1, 0.5f, 2, 1e4f, -1e4f, 0}, {7}), one = Tensor::full({7}, 1);
  CHECK(close(geglu(g, one), Tensor::from({-0.003637392f, -0.158808009f, 0.345714010f, 1.954597694f, 1e4f, 0, 0}, {7}), 1e-6, 1e-9));
  CHECK(geglu(Tensor::from({-1}, {1}), Tensor::from({2}, {1})).item() == Approx(2 * -0.158808009));
}

TEST_CASE("geglu: one input adds to a gradient that is there while the other starts afresh") {
  const Tensor g = leaf(Tensor::full({3}, 2)), u = leaf(Tensor::full({3}, 5));
  const Tensor first = geglu(g, u);  // recorded first, so that the other use's gradient arrives before its own
  backward(add(first, mul(u, 10)), Tensor::full({3}, 1));
  CHECK(grad_of(u).at({0}) == Approx(10 + 1.954597694));
  CHECK(grad_of(g).at({0}) == Approx(5 * 1.0860992));
  const Tensor h = leaf(Tensor::full({3}, 2)), v = leaf(Tensor::full({3}, 5));
  const Tensor second = geglu(h, v);
  backward(add(second, mul(h, 10)), Tensor::full({3}, 1));
  CHECK(grad_of(v).at({0}) == Approx(1.954597694));
  CHECK(grad_of(h).at({0}) == Approx(10 + 5 * 1.0860992));
}

TEST_CASE("linear_geglu: the bits of linear and geglu, on both devices") {
  struct Case {
    int64_t n, in, f;
  };
  gpu::emulate(true);
  Random r(12);
  // One row and as many as one kernel takes, narrow and wide; rows, widths and outputs that do not fit it; a tail in every direction.
  for (const Case c : {Case{1, 64, 24}, Case{16, 40, 8}, Case{3, 264, 129}, Case{17, 64, 24}, Case{2, 63, 16}, Case{1, 8, 4100}, Case{5, 1152, 30}, Case{1, 8, 3}}) {
    for (const DType t : {DType::f32, DType::bf16}) {
      for (const DType weights : {DType::f32, DType::bf16}) {
        if (t == DType::bf16 && weights == DType::f32) continue;
        const Tensor x = r.normal({c.n, c.in}, t), gate = r.normal({c.f, c.in}, weights, 0.2), up = r.normal({c.f, c.in}, weights, 0.2);
        for (const Device device : {Device::cpu, Device::gpu}) {
          const Tensor there = x.to(device), w[] = {gate.to(device), up.to(device)};
          const auto products = linear(there, w);
          INFO(name_of(t) << " [" << c.n << ", " << c.in << "] with " << name_of(weights) << " [" << c.f << "]" << (device == Device::gpu ? " gpu" : " cpu"));
          CHECK(bitwise_equal(linear_geglu(there, w[0], w[1]).to(Device::cpu), geglu(products[0], products[1]).to(Device::cpu)));
        }
      }
    }
  }
}

TEST_CASE("linear_geglu: errors, and no silent loss of gradients") {
  const Tensor x = Tensor::zeros({2, 3}), w = Tensor::zeros({4, 3});
  CHECK_THROWS_WITH(linear_geglu(x, w, Tensor::zeros({4, 2})), Catch::Contains("linear_geglu: x [2, 3] and w_up [4, 2]"));
  CHECK_THROWS_WITH(linear_geglu(x, w, Tensor::zeros({5, 3})), Catch::Contains("w_gate f32 [4, 3] and w_up f32 [5, 3]: expected the same"));
  CHECK_THROWS_WITH(linear_geglu(x.to(DType::bf16), w, w), Catch::Contains("x is bf16, w_gate is f32"));
  CHECK_THROWS_WITH(backward(sum(linear_geglu(leaf(x), w, w))), Catch::Contains("linear_geglu: has no gradient"));
}

TEST_CASE("geglu: errors") {
  CHECK_THROWS_WITH(geglu(Tensor::zeros({2, 3}), Tensor::zeros({2, 4})), Catch::Contains("geglu: gate f32 [2, 3] and up f32 [2, 4]"));
  CHECK_THROWS_AS(geglu(Tensor::zeros({2}), Tensor::zeros({2}, DType::bf16)), Error);
}

#include "tensor/kernels/adapter_gradients.h"

#include <catch2/catch.hpp>

#include "tests/support/contract.h"

using namespace facet;
using namespace facet::test;

TEST_CASE("adapter_gradients: contract", "[contract]") { check_contracts("adapter_gradients"); }

TEST_CASE("adapter_gradients: either result alone, bf16 b under f32, dB set or added to") {
  Random random(1);
  const Tensor dy = random.normal({5, 7}, DType::f32), b = random.normal({7, 3}, DType::bf16), t = random.normal({5, 3}, DType::f32);
  const Tensor dt = Tensor::full({5, 3}, 9), db = Tensor::full({7, 3}, 9), both[] = {Tensor::full({5, 3}, 9), Tensor::full({7, 3}, 9)};
  adapter_gradients(dy.view(), b.view(), t.view(), 0.5, both[0].out(), both[1].out());
  adapter_gradients(dy.view(), b.view(), {}, 0.5, dt.out(), {});
  adapter_gradients(dy.view(), {}, t.view(), 0.5, {}, db.out());
  CHECK(bitwise_equal(dt, both[0]));
  CHECK(bitwise_equal(db, both[1]));
  double sum = 0, product = 0;
  for (int64_t o = 0; o < 7; ++o) sum += 0.5 * dy.at({2, o}) * b.at({o, 1});
  for (int64_t n = 0; n < 5; ++n) product += dy.at({n, 4}) * t.at({n, 2});
  CHECK(dt.at({2, 1}) == Approx(sum).epsilon(1e-6));
  CHECK(db.at({4, 2}) == Approx(product).epsilon(1e-6));
  adapter_gradients(dy.view(), {}, t.view(), 0.5, {}, db.out(true));
  CHECK(db.at({4, 2}) == Approx(2 * product).epsilon(1e-6));
}

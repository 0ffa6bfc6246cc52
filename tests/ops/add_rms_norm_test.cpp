#include <catch2/catch.hpp>

#include "autograd/ops.h"
#include "tensor/cpu/tier.h"
#include "tests/support/contract.h"

using namespace facet;
using namespace facet::test;

TEST_CASE("add_rms_norm: contract", "[contract]") { check_contracts("add_rms_norm"); }

TEST_CASE("add_rms_norm: values and gradients are those of add and rms_norm, bit for bit") {
  MachineScope restore;
  Random r(3);
  for (int tier = 0; tier <= static_cast<int>(cpu::best_tier()); ++tier) {
    cpu::set_tier(static_cast<cpu::Tier>(tier));
    for (const DType t : {DType::f32, DType::bf16, DType::f64}) {
      for (const int64_t d : {1, 17, 640}) {
        const Tensor x0 = r.normal({40, d}, t), h0 = r.normal({40, d}, t), w0 = r.normal({d}, t, 0.3), dr = r.normal({40, d}, t), dy = r.normal({40, d}, t);
        // A residual block: the sum goes on beside the branch. Which of the two sees a gradient varies.
        for (const int uses : {1, 2, 3}) {
          std::vector<Tensor> results[2];
          for (const bool fused : {false, true}) {
            const Tensor x = leaf(x0), h = leaf(h0), w = leaf(w0);
            SumNorm s;
            if (fused) s = add_rms_norm(x, h, w, 1e-6);
            else s.sum = add(x, h), s.norm = rms_norm(s.sum, w, 1e-6);
            Tensor loss = Tensor::zeros({}, t);
            if (uses & 2) loss = add(loss, sum(mul(s.norm, dy)));
            if (uses & 1) loss = add(loss, sum(mul(s.sum, dr)));
            backward(loss);
            results[fused] = {s.sum.detach(), s.norm.detach(), grad_of(x), grad_of(h)};
            if (uses & 2) results[fused].push_back(grad_of(w));
          }
          for (size_t i = 0; i < results[0].size(); ++i) {
            INFO(name_of(t) << " d " << d << " uses " << uses << " result " << i);
            CHECK(bitwise_equal(results[0][i], results[1][i]));
          }
        }
      }
    }
  }
}

TEST_CASE("add_rms_norm: a gradient somebody else holds is not written to") {
  Random r(4);
  const Tensor x = leaf(r.normal({3, 8}, DType::f32)), h = leaf(r.normal({3, 8}, DType::f32));
  const SumNorm s = add_rms_norm(x, h, Tensor::zeros({8}), 1e-6);
  const Tensor dy = r.normal({3, 8}, DType::f32), before = dy.clone();
  backward(add(s.sum, s.norm), dy);
  CHECK(bitwise_equal(dy, before));
}

TEST_CASE("add_rms_norm: gradients only for those who want one") {
  Random r(5);
  const Tensor x = r.normal({3, 8}, DType::f32), h = r.normal({3, 8}, DType::f32), w = leaf(r.normal({8}, DType::f32)), twin = leaf(w.detach());
  backward(sum(add_rms_norm(x, h, w, 1e-6).norm));
  backward(sum(rms_norm(add(x, h), twin, 1e-6)));
  CHECK(bitwise_equal(grad_of(w), grad_of(twin)));
  CHECK_FALSE(add_rms_norm(x, h, w.detach(), 1e-6).norm.slot());
}

TEST_CASE("add_rms_norm: errors name the op and both sides") {
  const Tensor x = Tensor::zeros({2, 3});
  CHECK_THROWS_WITH(add_rms_norm(x, Tensor::zeros({3}), Tensor::zeros({3}), 0), Catch::Contains("add_rms_norm: x f32 [2, 3] and h f32 [3]"));
  CHECK_THROWS_WITH(add_rms_norm(x, Tensor::zeros({2, 3}, DType::bf16), Tensor::zeros({3}), 0), Catch::Contains("h bf16"));
  CHECK_THROWS_WITH(add_rms_norm(x, x, Tensor::zeros({4}), 0), Catch::Contains("w [4] does not fit x [2, 3]"));
}

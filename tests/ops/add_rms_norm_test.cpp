#include <catch2/catch.hpp>

#include "autograd/ops.h"
#include "tensor/cpu/tier.h"
#include "tensor/gpu/emulator/emulator.h"
#include "tests/support/contract.h"

using namespace facet;
using namespace facet::test;

TEST_CASE("add_rms_norm: contract", "[contract]") { check_contracts("add_rms_norm"); }

TEST_CASE("add_rms_norm: values and gradients are those of rms_norm, add and rms_norm, bit for bit, on both devices") {
  MachineScope restore;
  gpu::emulate(true);
  Random r(3);
  const int tiers = static_cast<int>(cpu::best_tier());
  for (int tier = 0; tier <= tiers + 1; ++tier) {
    const Device device = tier > tiers ? Device::gpu : Device::cpu;
    if (device == Device::cpu) cpu::set_tier(static_cast<cpu::Tier>(tier));
    for (const DType t : {DType::f32, DType::bf16, DType::f64}) {
      if (t == DType::f64 && device == Device::gpu) continue;
      for (const int64_t d : {1, 17, 640}) {
        const auto normal = [&](const Shape& shape, double scale = 1) { return r.normal(shape, t, scale).to(device); };
        const Tensor x0 = normal({40, d}), h0 = normal({40, d}), w0 = normal({d}, 0.3), v0 = normal({d}, 0.3), dr = normal({40, d}), dy = normal({40, d});
        // A residual block: the sum goes on beside the branch. Which of the two sees a gradient varies, and whether h is normed.
        for (const int uses : {1, 2, 3, 5, 6, 7}) {
          std::vector<Tensor> results[2];
          for (const bool fused : {false, true}) {
            const Tensor x = leaf(x0), h = leaf(h0), w = leaf(w0), w_h = leaf(v0);
            const bool norm_h = uses & 4;
            SumNorm s;
            if (fused) s = norm_h ? norm_add_norm(x, h, w_h, w, 1e-6) : add_rms_norm(x, h, w, 1e-6);
            else s.sum = add(x, norm_h ? rms_norm(h, w_h, 1e-6) : h), s.norm = rms_norm(s.sum, w, 1e-6);
            Tensor loss = Tensor::zeros({}, t).to(device);
            if (uses & 2) loss = add(loss, sum(mul(s.norm, dy)));
            if (uses & 1) loss = add(loss, sum(mul(s.sum, dr)));
            backward(loss);
            results[fused] = {s.sum.detach(), s.norm.detach(), grad_of(x), grad_of(h)};
            if (uses & 2) results[fused].push_back(grad_of(w));
            if (norm_h) results[fused].push_back(grad_of(w_h));
          }
          for (size_t i = 0; i < results[0].size(); ++i) {
            INFO(name_of(t) << " d " << d << " uses " << uses << " result " << i << " tier " << tier);
            CHECK(bitwise_equal(results[0][i].to(Device::cpu), results[1][i].to(Device::cpu)));
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

  const Tensor w_h = leaf(r.normal({8}, DType::f32)), twin_h = leaf(w_h.detach());  // the weight of the norm before alone
  backward(sum(norm_add_norm(x, h, w_h, w.detach(), 1e-6).norm));
  backward(sum(rms_norm(add(x, rms_norm(h, twin_h, 1e-6)), w.detach(), 1e-6)));
  CHECK(bitwise_equal(grad_of(w_h), grad_of(twin_h)));
  const Tensor x1 = leaf(x), x2 = leaf(x);  // x alone
  backward(sum(norm_add_norm(x1, h, w_h.detach(), w.detach(), 1e-6).norm));
  backward(sum(rms_norm(add(x2, rms_norm(h, w_h.detach(), 1e-6)), w.detach(), 1e-6)));
  CHECK(bitwise_equal(grad_of(x1), grad_of(x2)));
}

TEST_CASE("add_rms_norm: errors name the op and both sides") {
  const Tensor x = Tensor::zeros({2, 3});
  CHECK_THROWS_WITH(add_rms_norm(x, Tensor::zeros({3}), Tensor::zeros({3}), 0), Catch::Contains("add_rms_norm: x f32 [2, 3] and h f32 [3]"));
  CHECK_THROWS_WITH(add_rms_norm(x, Tensor::zeros({2, 3}, DType::bf16), Tensor::zeros({3}), 0), Catch::Contains("h bf16"));
  CHECK_THROWS_WITH(add_rms_norm(x, x, Tensor::zeros({4}), 0), Catch::Contains("w [4] does not fit x [2, 3]"));
  CHECK_THROWS_WITH(norm_add_norm(x, x, Tensor::zeros({2}), Tensor::zeros({3}), 0), Catch::Contains("norm_add_norm: w [2] does not fit x [2, 3]"));
}

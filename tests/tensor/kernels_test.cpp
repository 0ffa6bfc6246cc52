// Kernels without an operation of their own; the others are tested through theirs in tests/ops.
#include <catch2/catch.hpp>
#include <cmath>

#include "tensor/kernels/copy.h"
#include "tensor/kernels/logit_rows.h"
#include "tensor/kernels/ring_write.h"
#include "tests/support/compare.h"
#include "tests/support/contract.h"

using namespace facet;
using namespace facet::test;

TEST_CASE("ring_write: rows land at their position modulo the size, padding is not written") {
  const Tensor rows = Tensor::from({1, 2, 3, 4, 5, 6}, {1, 3, 2});
  const Tensor positions = Tensor::from(std::vector<int32_t>{4, -1, 5}, {1, 3});
  const Tensor ring = Tensor::full({1, 4, 2}, 9, DType::bf16), slots = Tensor::full({1, 4}, -1, DType::i32);
  ring_write(rows.view(), positions.view(), ring.out(), slots.out());
  CHECK(ring.to_vector() == std::vector<double>{1, 2, 5, 6, 9, 9, 9, 9});
  CHECK(slots.to_vector() == std::vector<double>{4, 5, -1, -1});
}

TEST_CASE("logit_rows: statistics and gradient against the formula, in every tier") {
  MachineScope restore;
  const int64_t C = 3, V = 37;
  const double cap = 5, scale = 0.5;
  const Tensor x = Random(4).normal({C, V}, DType::f64, 3);
  const Tensor labels = Tensor::from(std::vector<int32_t>{0, 36, 17}, {C});
  for (int tier = 0; tier <= static_cast<int>(cpu::best_tier()); ++tier)
    for (DType d : {DType::f64, DType::f32}) {
      cpu::set_tier(static_cast<cpu::Tier>(tier));
      const Tensor z = x.to(d).clone(), stats = Tensor::empty({C, 4}, d);
      logit_stats(z.out(), labels.view(), cap, scale, true, stats.out());
      std::vector<double> coef, expected;
      for (int64_t c = 0; c < C; ++c) {
        double sum = 0, mean = 0, top = -INFINITY;
        std::vector<double> row;
        for (int64_t v = 0; v < V; ++v) {
          row.push_back(cap * std::tanh(x.at({c, v}) / cap) * scale);
          top = std::max(top, row.back());
          mean += row.back() / V;
        }
        for (double e : row) sum += std::exp(e - top);
        const int64_t y = static_cast<int64_t>(labels.at({c}));
        const double tolerance = d == DType::f64 ? 1e-12 : 1e-5;
        CHECK(stats.at({c, 0}) == Approx(top).epsilon(tolerance));
        CHECK(stats.at({c, 1}) == Approx(sum).epsilon(tolerance));
        CHECK(stats.at({c, 2}) == Approx(row[y]).epsilon(tolerance));
        CHECK(stats.at({c, 3}) == Approx(mean).epsilon(tolerance).margin(tolerance));
        const double f_lse = 1.5, f_label = -2, f_mean = 0.25;
        for (double k : {top, f_lse / sum * scale, f_label * scale, f_mean / V * scale}) coef.push_back(k);
        for (int64_t v = 0; v < V; ++v) {
          const double dz = f_lse * std::exp(row[v] - top) / sum + (v == y ? f_label : 0) + f_mean / V;
          expected.push_back(dz * scale * (1 - std::pow(row[v] / (cap * scale), 2)));
        }
      }
      logit_grad(z.out(), labels.view(), Tensor::from(coef, {C, 4}).to(d).view(), cap * scale);
      CHECK(close(z, Tensor::from(expected, {C, V}), 0, d == DType::f64 ? 1e-13 : 1e-5));
    }
}

TEST_CASE("logit_rows: entropy beside the other stats, and draws along [0, 1), in every tier") {
  MachineScope restore;
  const int64_t C = 2;
  for (const int64_t V : {1, 16, 37, 700})
    for (int tier = 0; tier <= static_cast<int>(cpu::best_tier()); ++tier)
      for (DType d : {DType::f64, DType::f32}) {
        cpu::set_tier(static_cast<cpu::Tier>(tier));
        INFO(V << " words, tier " << tier);
        const Tensor x = Random(4).normal({C, V}, DType::f64, 3).to(d).clone(), y = x.clone(), labels = Tensor::zeros({C}, DType::i32);
        if (V > 20) {
          const Out o = x.out();  // tokens that are never drawn, the last among them
          for (const int64_t v : {int64_t{3}, V - 1}) d == DType::f64 ? void(o.as<double>()[v] = -INFINITY) : void(o.as<float>()[v] = -INFINITY);
          copy(x.view(), y.out());
        }
        const Tensor four = Tensor::empty({C, 4}, d), five = Tensor::empty({C, 5}, d);
        logit_stats(x.out(), labels.view(), 0, 1, false, four.out());
        logit_stats(y.out(), labels.view(), 0, 1, false, five.out());
        const double tolerance = d == DType::f64 ? 1e-11 : 2e-5;
        for (int64_t c = 0; c < C; ++c) {
          for (int64_t i = 0; i < 4; ++i) CHECK(four.at({c, i}) == five.at({c, i}));
          double sum = 0, entropy = 0;
          for (int64_t v = 0; v < V; ++v) sum += std::exp(x.at({c, v}) - five.at({c, 0}));
          for (int64_t v = 0; v < V; ++v)
            if (const double p = std::exp(x.at({c, v}) - five.at({c, 0})) / sum; p > 0) entropy -= p * std::log(p);
          CHECK(five.at({c, 4}) == Approx(entropy).margin(tolerance));
        }
        for (const float u : {0.0f, 0.1f, 0.5f, 0.77f, 0.99999994f}) {
          const Tensor numbers = Tensor::full({C}, u), ids = Tensor::full({C}, -1, DType::i32);
          logit_draw(x.view(), five.view(), numbers.view(), ids.out());
          for (int64_t c = 0; c < C; ++c) {
            const auto id = static_cast<int64_t>(ids.at({c}));
            REQUIRE((id >= 0 && id < V));
            CHECK(std::isfinite(x.at({c, id})));
            double below = 0;
            for (int64_t v = 0; v < id; ++v) below += std::exp(x.at({c, v}) - five.at({c, 0}));
            CHECK(below / five.at({c, 1}) <= u + tolerance);
            CHECK((below + std::exp(x.at({c, id}) - five.at({c, 0}))) / five.at({c, 1}) >= u - tolerance);
          }
        }
      }
}

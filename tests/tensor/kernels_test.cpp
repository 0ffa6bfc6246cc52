// Kernels without an operation of their own; the others are tested through theirs in tests/ops.
#include <catch2/catch.hpp>
#include <cmath>

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

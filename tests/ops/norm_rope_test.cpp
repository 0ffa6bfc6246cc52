#include <catch2/catch.hpp>
#include <cmath>
#include <map>
#include <thread>

#include "autograd/inference_ops.h"
#include "autograd/ops.h"
#include "tensor/gpu/emulator/emulator.h"
#include "tensor/kernels/ring_write.h"
#include "tests/support/contract.h"
#include "tests/support/goldens.h"

using namespace facet;
using namespace facet::test;

TEST_CASE("norm_rope: contract", "[contract]") { check_contracts("norm_rope"); }

TEST_CASE("norm_rope: goldens") {
  check_op_goldens("rope", {"x"}, [](const OpCase& c, const Tensors& x) {
    const RopeTable table(x[0].dim(3), c.attribute("base"), c.attribute("factor"));
    return Tensors{norm_rope(x[0], {}, 0, c.in("positions"), table)};
  });
}

TEST_CASE("norm_rope: known numbers, half-split pairs") {
  const Tensor x = Tensor::from({1, 2, 3, 4}, {1, 1, 1, 4}), p = Tensor::full({1, 1}, 3, DType::i32);
  CHECK(close(norm_rope(x, {}, 0, p, RopeTable(4, 1e4)),
              Tensor::from({-1.4133525f, 1.8791181f, -2.8288575f, 4.0581911f}, {1, 1, 1, 4}), 1e-6));
  CHECK(close(norm_rope(x, {}, 0, p, RopeTable(4, 1e6, 8)),
              Tensor::from({-0.1683100f, 1.9984999f, 3.1577954f, 4.0007497f}, {1, 1, 1, 4}), 1e-6));
}

TEST_CASE("rope table: any position up to its limit, pages built where asked, angles exact") {
  const RopeTable table(16, 1e4);
  const size_t before = pool_stats().live_bytes;
  const std::vector<int32_t> far{131071, 4194303, -5};
  const RopeRows rows = table.rows(far, DType::f64), narrow = table.rows(far, DType::f32);
  CHECK(pool_stats().live_bytes - before < 400'000);  // three pages of 512 rows per dtype, not 4 million rows
  for (int64_t p : {int64_t{131071}, int64_t{4194303}, int64_t{0}})
    for (int64_t i = 0; i < 8; ++i) {
      const double angle = double(p) / std::pow(1e4, double(i) / 8);
      CHECK(rows.row<double>(p)[i] == std::cos(angle));
      CHECK(rows.row<double>(p)[8 + i] == std::sin(angle));
      CHECK(narrow.row<float>(p)[i] == static_cast<float>(std::cos(angle)));
    }
  const std::vector<int32_t> beyond{3, 4194304};
  CHECK_THROWS_WITH(table.rows(beyond, DType::f32), Catch::Contains("position 4194304 is beyond"));
}

TEST_CASE("rope table: threads may extend one table while others read it") {
  const RopeTable table(8, 1e4);
  std::vector<std::thread> workers;
  std::vector<double> got(4);
  for (int k = 0; k < 4; ++k)
    workers.emplace_back([&, k] {
      for (int32_t p = 0; p < 20000; p += 400) {
        const int32_t position = p + k;
        got[k] += table.rows({&position, 1}, DType::f64).row<double>(position)[0] - std::cos(double(position));
      }
    });
  for (std::thread& w : workers) w.join();
  for (double g : got) CHECK(g == 0);
}

TEST_CASE("norm_rope: the norm sees one head, not all, and runs before the rotation") {
  Random r(3);
  const Tensor x = r.normal({1, 1, 2, 8}, DType::f32), w = r.normal({8}, DType::f32), p = Tensor::full({1, 1}, 5, DType::i32);
  const RopeTable table(8, 1e4);
  const Tensor together = norm_rope(x, w, 1e-6, p, table);
  for (int h = 0; h < 2; ++h)
    CHECK(bitwise_equal(together.slice(2, h, h + 1).dense(), norm_rope(x.slice(2, h, h + 1), w, 1e-6, p, table)));
  const Tensor normed = rms_norm(x, w, 1e-6);
  CHECK(close(together, norm_rope(normed, {}, 0, p, table), 1e-6, 1e-6));
}

TEST_CASE("norm_rope: errors") {
  const Tensor x = Tensor::zeros({1, 2, 3, 8}), p = Tensor::zeros({1, 2}, DType::i32);
  CHECK_THROWS_WITH(norm_rope(x, {}, 0, p, RopeTable(6, 1e4)), Catch::Contains("norm_rope: x [1, 2, 3, 8]"));
  CHECK_THROWS_WITH(norm_rope(x, {}, 0, Tensor::zeros({2}, DType::i32), RopeTable(8, 1e4)), Catch::Contains("positions"));
  CHECK_THROWS_WITH(norm_rope(x, Tensor::zeros({3}), 0, p, RopeTable(8, 1e4)), Catch::Contains("norm_rope: w [3]"));
  CHECK_THROWS_AS(RopeTable(7, 1e4), Error);
  CHECK_THROWS_AS(RopeTable(8, 0), Error);
}

TEST_CASE("norm_rope_write: the bits of norm_rope and ring_write, on both devices") {
  struct Case {
    int64_t b, t, h, k, d, ring;
  };
  gpu::emulate(true);
  Random r(8);
  int sample = 0;
  // Decoding at several widths; chunks; heads that fit packs, none, or too many lanes; rings that have gone round.
  for (const Case c : {Case{1, 1, 4, 1, 256, 40}, Case{5, 1, 4, 2, 64, 7}, Case{2, 3, 3, 3, 6, 4}, Case{1, 7, 8, 1, 128, 7}, Case{3, 2, 2, 1, 1024, 9},
                       Case{2, 1, 2, 2, 2, 3}, Case{1, 4, 3, 1, 80, 5}, Case{2, 5, 16, 4, 16, 11}}) {
    const RopeTable table(c.d, 1e4);
    table.reserve(400);
    for (const DType t : {DType::f32, DType::bf16}) {
      for (const bool norm : {true, false}) {
        ++sample;
        // q, k and v as windows of one projection, or each its own
        const Tensor all = r.normal({c.b, c.t, c.h + 2 * c.k, c.d}, t), w = r.normal({2, c.d}, sample % 3 ? DType::f32 : DType::bf16, 0.3);
        std::vector<int32_t> where;
        for (int64_t b = 0; b < c.b; ++b)
          for (int64_t i = 0; i < c.t; ++i) where.push_back(sample % 4 == 0 && b == 0 && i == 0 ? -1 : static_cast<int32_t>(90 * b + i + sample));
        const Tensor positions = Tensor::from(where, {c.b, c.t}), keys = r.normal({c.b + 1, c.ring, c.k, c.d}, t), values = r.normal({c.b + 1, c.ring, c.k, c.d}, t);
        for (const Device device : {Device::cpu, Device::gpu}) {
          const Tensor there = all.to(device), p = positions.to(device), none;
          const auto part = [&](int64_t begin, int64_t end) { return sample % 2 ? there.slice(2, begin, end) : there.slice(2, begin, end).dense(); };
          const Tensor q = part(0, c.h), k = part(c.h, c.h + c.k), v = part(c.h + c.k, c.h + 2 * c.k);
          const Tensor ws = w.to(device), w_q = norm ? ws.slice(0, 0, 1).reshape({c.d}) : none, w_k = norm ? ws.slice(0, 1, 2).reshape({c.d}) : none;
          std::vector<Tensor> results[2];
          for (const bool fused : {false, true}) {
            const Tensor all_keys = keys.to(device).clone(), all_values = values.to(device).clone(), all_slots = Tensor::full({c.b + 1, c.ring}, -1, DType::i32).to(device);
            const Rings rings{all_keys.slice(0, 1, c.b + 1), all_values.slice(0, 1, c.b + 1), all_slots.slice(0, 1, c.b + 1)};  // the last rows of a larger cache
            Tensor y;
            if (fused) {
              y = norm_rope_write({q, k, v, w_q, w_k}, 1e-6, p, table, rings);
            } else {
              y = norm_rope(q, w_q, 1e-6, p, table);
              ring_write(norm_rope(k, w_k, 1e-6, p, table).view(), p.view(), rings.keys.out(), rings.slots.out());
              ring_write(v.view(), p.view(), rings.values.out(), {});
            }
            for (const Tensor& result : {y, all_keys, all_values, all_slots}) results[fused].push_back(result.to(Device::cpu));
          }
          for (size_t i = 0; i < 4; ++i) {
            INFO(name_of(t) << " sample " << sample << (device == Device::gpu ? " gpu" : " cpu") << " result " << i);
            CHECK(bitwise_equal(results[1][i], results[0][i]));
          }
        }
      }
    }
  }
}

TEST_CASE("norm_rope_write: errors, and no silent loss of gradients") {
  const Tensor q = Tensor::zeros({1, 2, 4, 8}), k = Tensor::zeros({1, 2, 1, 8}), p = Tensor::zeros({1, 2}, DType::i32), none;
  const Tensor ring = Tensor::zeros({1, 3, 1, 8}), slots = Tensor::zeros({1, 3}, DType::i32), w = Tensor::zeros({8});
  const RopeTable table(8, 1e4);
  const auto call = [&](const QueryKeyValue& x, const Rings& rings) { return norm_rope_write(x, 0, p, table, rings); };
  const QueryKeyValue x{q, k, k, none, none};
  CHECK_THROWS_WITH(call({q, k, k, w, none}, {ring, ring, slots}), Catch::Contains("one of w_q and w_k is absent"));
  CHECK_THROWS_WITH(call({q, k, q, none, none}, {ring, ring, slots}), Catch::Contains("v as k"));
  CHECK_THROWS_WITH(call({q, Tensor::zeros({1, 3, 1, 8}), k, none, none}, {ring, ring, slots}), Catch::Contains("positions i32 [1, 2], expected i32 [1, 3] for k"));
  CHECK_THROWS_WITH(call(x, {Tensor::zeros({2, 3, 1, 8}), ring, slots}), Catch::Contains("keys f32 [2, 3, 1, 8], expected f32 [1, R, 1, 8]"));
  CHECK_THROWS_WITH(call(x, {ring, ring.to(DType::bf16), slots}), Catch::Contains("values bf16"));
  CHECK_THROWS_WITH(call(x, {ring, ring, Tensor::zeros({1, 4}, DType::i32)}), Catch::Contains("as many slots"));
  const Tensor y = call({leaf(q), k, k, none, none}, {ring, ring, slots});
  CHECK_THROWS_WITH(backward(sum(y)), Catch::Contains("norm_rope_write: has no gradient"));
}

#include <catch2/catch.hpp>
#include <cmath>
#include <map>
#include <thread>

#include "autograd/ops.h"
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

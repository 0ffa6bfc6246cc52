// The gradients of an adapter's second matrix in one pass over dy: against the CPU's two products in tiles of every kind, beside neighbours in one
// buffer, and who computes which shape.
#include "tensor/kernels/adapter_gradients.h"

#include <fmt/format.h>

#include "tensor/gpu/adapter_gradients.h"
#include "tensor/gpu/graph.h"
#include "tensor/profile.h"
#include "tests/gpu/device.h"
#include "tests/gpu/kernel_check.h"

using namespace facet;
using namespace facet::test;
using gpu::AdapterTile;

namespace {

constexpr double scale = 0.75;
constexpr Limits dt_limits{1e-5, 2e-2, 1e-2}, db_limits{1e-10, 1e-4, 1};  // a dt near the half of an ulp is rounded either way

struct Case {
  int64_t rows, columns, rank, beside;  // beside: elements of dy's rows that are not dy's
  AdapterTile tile;
};
constexpr Case cases[] = {
    {1, 24, 8, 0, {32, 64}},     {17, 24, 8, 8, {32, 64}},     {130, 24, 16, 0, {64, 64}},    {130, 1152, 8, 0, {64, 384}},
    {67, 136, 24, 0, {64, 192}}, {64, 128, 32, 8, {32, 64}},   {161, 264, 32, 0, {160, 256}}, {130, 1160, 8, 24, {96, 320}},
    {300, 72, 8, 0, {32, 64}},   {1100, 64, 8, 0, {32, 64}},   {130, 200, 16, 16, {32, 128}}, {96, 392, 24, 40, {32, 384}},
    {32, 2120, 8, 0, {32, 64}},  {256, 320, 16, 0, {256, 320}},
};

}  // namespace

TEST_CASE("adapter gradients: one pass is as two products") {
  Random r(5);
  int sample = 0;
  for (const Case& c : cases) {
    const int64_t N = c.rows, O = c.columns, rank = c.rank;
    const double small = 1 / std::sqrt(static_cast<double>(O));
    KernelCheck k{fmt::format("adapter_gradients: [{}, {}] of rank {}, tiles of {} x {}", N, O, rank, c.tile.rows, c.tile.columns), {}, {}};
    // b and t lie in other layouts by turns: b in any, t in rows of a wider tensor.
    Input b = r.normal({O, rank}, DType::bf16, small);
    if (sample % 3 == 1) b = Input(r.normal({rank, O}, DType::bf16, small), [](const Tensor& t) { return t.transpose(0, 1); });
    if (sample % 3 == 2) b = wide_rows(r, {O, rank}, DType::bf16, 3);
    k.in = {wide_rows(r, {N, O}, DType::bf16, c.beside), b, wide_rows(r, {N, rank}, DType::bf16, sample % 2 ? 16 : 0)};
    const bool add = sample % 2 == 0;
    k.out = {{{N, rank}, DType::bf16}, {{O, rank}}};
    k.out[0].limits = dt_limits, k.out[1].limits = db_limits;
    if (add) k.out[1].start = r.normal({O, rank}, DType::f32, 3), k.out[1].add = true;
    k.body = [&](const Views& in, const Outs& out) {
      if (in[0].device == Device::cpu) return adapter_gradients(in[0], in[1], in[2], scale, out[0], out[1]);
      REQUIRE(gpu::adapter_pass_takes(in[0], in[1], in[2], out[0], out[1]));
      gpu::adapter_pass(in[0], in[1], in[2], scale, out[0], out[1], c.tile);
    };
    check_kernel(k);
    ++sample;
  }
}

TEST_CASE("adapter gradients: dt lies behind the rows of dy, and nothing beside it changes") {
  gpu::emulate(true);
  Random r(6);
  constexpr int64_t N = 77, O = 200, before = 40, behind = 24, rank = 16;  // dy in the middle of a joined gradient, dt in spare columns
  constexpr int64_t width = before + O + behind + rank + 8;
  for (const AdapterTile tile : {AdapterTile{32, 64}, AdapterTile{96, 256}}) {
    const Tensor joined = r.normal({N, width}, DType::bf16), b = r.normal({O, rank}, DType::bf16), t = r.normal({N, rank}, DType::bf16);
    const auto run = [&](const Tensor& all, Device there) {
      const Tensor dy = all.slice(1, before, before + O), dt = all.slice(1, before + O + behind, before + O + behind + rank);
      const Tensor db = Tensor::empty({O, rank}, DType::f32, there), mine = b.to(there), rows = t.to(there);
      if (there == Device::gpu) gpu::adapter_pass(dy.view(), mine.view(), rows.view(), scale, dt.out(), db.out(), tile);
      else adapter_gradients(dy.view(), mine.view(), rows.view(), scale, dt.out(), db.out());
      return all;
    };
    const Tensor got = under_schedules([&] { return run(joined.clone().to(Device::gpu), Device::gpu); });
    const Tensor want = run(joined.clone(), Device::cpu);
    const int64_t first = before + O + behind;
    CHECK(bitwise_equal(got.slice(1, 0, first).clone(), joined.slice(1, 0, first).clone()));
    CHECK(bitwise_equal(got.slice(1, first + rank, width).clone(), joined.slice(1, first + rank, width).clone()));
    CHECK(nmse_within(got.slice(1, first, first + rank).clone(), want.slice(1, first, first + rank).clone(), 1e-5));
  }
}

TEST_CASE("adapter gradients: shapes of training are one pass, with a tile for every processor, others are two products") {
  struct Shape {
    int64_t rows, columns, rank;
    double parts;  // most bytes that parts of sums may move, in those of dy; 0: two products
  };
  for (const Shape& s : {Shape{2048, 1536, 8, 0.5}, Shape{2048, 13824, 8, 0.15}, Shape{2048, 13824, 16, 0.3}, Shape{16384, 1152, 8, 0.17},
                         Shape{16384, 1152, 16, 0.34}, Shape{16384, 1152, 32, 0.67}, Shape{16384, 13824, 8, 0.11}, Shape{8192, 6912, 8, 0.13},
                         Shape{16384, 256, 8, 0.4}, Shape{2048, 1536, 32, 0}, Shape{2048, 13824, 64, 0}, Shape{17, 24, 8, 0}, Shape{0, 64, 8, 0},
                         Shape{64, 0, 8, 0}}) {
    INFO(s.rows << " x " << s.columns << " of rank " << s.rank);
    const AdapterTile tile = gpu::adapter_tile(s.rows, s.columns, s.rank);
    REQUIRE((tile.rows > 0) == (s.parts > 0));
    if (s.parts == 0) continue;
    CHECK(tile.rows % gpu::adapter_rows == 0);
    CHECK(tile.columns % gpu::adapter_columns == 0);
    CHECK(tile.columns <= gpu::adapter_columns * gpu::adapter_most_warps);
    const int64_t strips = (s.columns + tile.columns - 1) / tile.columns, row_strips = (s.rows + tile.rows - 1) / tile.rows;
    const int64_t tiles = strips * row_strips, waves = (tiles + 131) / 132;
    CHECK(static_cast<double>(tiles) > 0.95 * 132 * static_cast<double>(waves));
    const double bytes = 8.0 * gpu::adapter_padded(s.rank) * static_cast<double>(strips * s.rows + row_strips * s.columns);
    CHECK(bytes <= s.parts * 2 * static_cast<double>(s.rows * s.columns));
  }
}

TEST_CASE("adapter gradients: the door takes the pass for what it is good for") {
  gpu::emulate(true);
  Random r(7);
  constexpr int64_t N = 256, O = 8192;
  REQUIRE(gpu::adapter_tile(N, O, 8).rows > 0);
  const Tensor b = r.normal({O, 8}, DType::bf16, 0.01), t = r.normal({N, 8}, DType::bf16), dy = r.normal({N, O}, DType::bf16);
  const Tensor want_t = Tensor::empty({N, 8}, DType::bf16), want_b = Tensor::full({O, 8}, 2);
  adapter_gradients(dy.view(), b.view(), t.view(), scale, want_t.out(), want_b.out(true));
  const Tensor d = dy.to(Device::gpu), bb = b.to(Device::gpu), tt = t.to(Device::gpu);
  const Tensor dt = Tensor::empty({N, 8}, DType::bf16, Device::gpu), db = Tensor::full({O, 8}, 2, DType::f32, Device::gpu);
  count_products();
  adapter_gradients(d.view(), bb.view(), tt.view(), scale, dt.out(), db.out(true));
  const Products p = counted_products();
  CHECK(p.count == 2);
  CHECK(p.flops == 4 * N * O * 8);
  CHECK(nmse_within(dt.to(Device::cpu), want_t, 1e-5));
  CHECK(nmse_within(db.to(Device::cpu), want_b, 1e-10));

  gpu::Graph graph;  // recorded it has the same bits, and "+=" is that of every replay
  const Tensor again = Tensor::empty({N, 8}, DType::bf16, Device::gpu), sum = Tensor::full({O, 8}, 2, DType::f32, Device::gpu);
  graph.record(std::make_shared<gpu::Arena>(), [&] { adapter_gradients(d.view(), bb.view(), tt.view(), scale, again.out(), sum.out(true)); });
  graph.replay();
  CHECK(bitwise_equal(again.to(Device::cpu), dt.to(Device::cpu)));
  CHECK(bitwise_equal(sum.to(Device::cpu), db.to(Device::cpu)));
  adapter_gradients(d.view(), bb.view(), tt.view(), scale, dt.out(), db.out(true));
  graph.replay();
  CHECK(bitwise_equal(sum.to(Device::cpu), db.to(Device::cpu)));

  const auto takes = [&](const Tensor& y, const Tensor& x, const Out& to_t, const Out& to_b) {
    return gpu::adapter_pass_takes(y.view(), bb.view(), x.view(), to_t, to_b);
  };
  CHECK(takes(d, tt, dt.out(), db.out()));
  CHECK_FALSE(takes(d, tt, {}, db.out()));  // one product reads dy once by itself
  CHECK_FALSE(takes(d, tt, dt.out(), {}));
  CHECK_FALSE(takes(d.slice(1, 4, O), tt, dt.out(), db.out()));            // not at a multiple of 16 bytes
  CHECK_FALSE(takes(d.slice(1, 0, O - 1), tt, dt.out(), db.out()));        // a row ends within one
  CHECK_FALSE(takes(d, tt.slice(1, 0, 4), dt.out(), db.out()));
  CHECK_FALSE(takes(d.slice(1, 0, O, 2), tt, dt.out(), db.out()));         // holes
  CHECK_FALSE(takes(d, Tensor::empty({N, 40}, DType::bf16, Device::gpu), dt.out(), db.out()));
  CHECK_FALSE(takes(d.to(DType::f32), tt, dt.out(), db.out()));
  CHECK_FALSE(takes(d, tt, dt.out(), dt.out()));
}

// The loss head's kernels against the CPU's: statistics, gradients, draws; long rows, odd alignments, what is not finite.
#include <cmath>

#include "tensor/kernels/copy.h"
#include "tensor/kernels/logit_rows.h"
#include "tests/gpu/device.h"

using namespace facet;
using namespace facet::test;

namespace {

struct Size {
  int64_t rows, words, stride;
};
const std::vector<Size> sizes = {{1, 1, 1}, {3, 37, 37}, {2, 256, 264}, {5, 2049, 2049}, {2, 16384, 16384}, {2, 16390, 16392}, {1, 40003, 40003}};

// Rows `stride` apart, on the CPU and on the GPU.
struct Logits {
  Tensor cpu, gpu;
  Logits(const Tensor& values, int64_t stride) {
    const int64_t n = values.dim(0), V = values.dim(1);
    const Tensor wide = Tensor::full({n, stride}, 5, values.dtype());
    cpu = wide.slice(1, 0, V);
    copy(values.view(), cpu.out());
    gpu = wide.to(Device::gpu).slice(1, 0, V);
  }
};

}  // namespace

TEST_CASE("gpu logit_rows: statistics and gradient as the CPU's; a row alone has the same bits", "[emulated]") {
  gpu::emulate(true);
  Random r(1);
  int k = 0;
  for (const Size& s : sizes)
    for (const DType d : {DType::f32, DType::bf16})
      for (const double cap : {0.0, 7.0}) {
        const double scale = k % 3 == 0 ? 1 : 0.7;
        const bool mean = k % 2 == 0, entropy = ++k % 3 != 0;
        INFO(s.rows << " x " << s.words << " " << name_of(d) << " cap " << cap << " scale " << scale << " entropy " << entropy);
        const Tensor values = r.normal({s.rows, s.words}, DType::f64, 4).to(d).clone(), labels = r.ids({s.rows}, s.words), glabels = labels.to(Device::gpu);
        Logits z(values, s.stride);
        const int64_t columns = entropy ? 5 : 4;
        const Tensor stats = Tensor::empty({s.rows, columns}), gstats = Tensor::empty({s.rows, columns}, DType::f32, Device::gpu);
        logit_stats(z.cpu.out(), labels.view(), cap, scale, mean, stats.out());
        const Tensor logits = under_schedules([&] {
          const Logits again(values, s.stride);
          logit_stats(again.gpu.out(), glabels.view(), cap, scale, mean, gstats.out());
          z.gpu = again.gpu;
          return again.gpu;
        });
        CHECK(nmse_within(logits, z.cpu, d == DType::f32 ? 1e-12 : 1e-5));
        CHECK(close(gstats.to(Device::cpu), stats, d == DType::f32 ? 2e-5 : 1e-2, 1e-5));
        const Logits one(values.slice(0, s.rows - 1, s.rows), s.stride);
        const Tensor alone = Tensor::empty({1, columns}, DType::f32, Device::gpu);
        logit_stats(one.gpu.out(), glabels.slice(0, s.rows - 1, s.rows).view(), cap, scale, mean, alone.out());
        CHECK(bitwise_equal(alone.to(Device::cpu), gstats.slice(0, s.rows - 1, s.rows).to(Device::cpu)));

        const Tensor coef = Tensor::empty({s.rows, 4});
        for (int64_t i = 0; i < s.rows; ++i) {
          float* c = coef.out().as<float>() + 4 * i;
          c[0] = static_cast<float>(stats.at({i, 0})), c[1] = static_cast<float>(0.8 / stats.at({i, 1}));
          c[2] = -0.6f, c[3] = static_cast<float>(-0.2 / static_cast<double>(s.words));
        }
        const Tensor same = z.cpu.clone(), gz = Logits(same, s.stride).gpu, gcoef = coef.to(Device::gpu);
        if (d == DType::f32) {  // into bf16, the logits stay
          const Tensor dz = Tensor::empty({s.rows, s.words}, DType::bf16), gdz = Tensor::empty({s.rows, s.words}, DType::bf16, Device::gpu);
          logit_grad(z.cpu.out(), labels.view(), coef.view(), cap * scale, dz.out());
          logit_grad(gz.out(), glabels.view(), gcoef.view(), cap * scale, gdz.out());
          CHECK(nmse_within(gdz.to(Device::cpu), dz, 1e-5));
          CHECK(bitwise_equal(gz.to(Device::cpu), same));
        }
        logit_grad(z.cpu.out(), labels.view(), coef.view(), cap * scale);
        logit_grad(gz.out(), glabels.view(), gcoef.view(), cap * scale);
        CHECK(nmse_within(gz.to(Device::cpu), z.cpu, d == DType::f32 ? 1e-10 : 5e-5));
      }
}

TEST_CASE("gpu logit_rows: NaN, infinities, labels out of range", "[emulated]") {
  gpu::emulate(true);
  const float inf = INFINITY;
  const int64_t V = 17000;
  const Tensor z = Random(2).normal({5, V}, DType::f32).clone(), labels = Tensor::from(std::vector<int32_t>{0, 1, 2, -1, 17000}, {5});
  float* p = z.out().as<float>();
  p[3] = NAN;                                                         // row 0
  for (int64_t i = 0; i < V; ++i) p[V + i] = -inf;                    // row 1: nothing left
  for (int64_t i = 0; i < 16500; ++i) p[2 * V + i] = -inf;            // row 2: a whole segment of nothing
  p[3 * V + 9] = inf;
  const Tensor g = z.to(Device::gpu), stats = Tensor::empty({5, 5}), gstats = Tensor::empty({5, 5}, DType::f32, Device::gpu);
  logit_stats(z.out(), Tensor::from(std::vector<int32_t>{0, 1, 2, 0, 0}, {5}).view(), 0, 1, true, stats.out());
  logit_stats(g.out(), labels.to(Device::gpu).view(), 0, 1, true, gstats.out());
  const Tensor back = gstats.to(Device::cpu);
  for (const int64_t row : {0, 1, 3}) CHECK(std::isnan(back.at({row, 1})));
  for (int64_t c = 0; c < 5; ++c)
    if (c != 3) CHECK((back.at({2, c}) == stats.at({2, c}) || back.at({2, c}) == Approx(stats.at({2, c})).epsilon(1e-5)));
  for (const int64_t row : {3, 4}) CHECK(std::isnan(back.at({row, 2})));
  CHECK(back.at({4, 1}) == Approx(stats.at({4, 1})));
}

TEST_CASE("gpu logit_draw: the same words as the CPU", "[emulated]") {
  gpu::emulate(true);
  Random r(3);
  for (const Size& s : sizes)
    for (const DType d : {DType::f32, DType::bf16}) {
      INFO(s.rows << " x " << s.words << " " << name_of(d));
      const Tensor values = r.normal({s.rows, s.words}, DType::f64, 3).to(d).clone();
      if (d == DType::f32 && s.words > 20) values.out().as<float>()[s.words - 1] = -INFINITY;
      const Logits z(values, s.stride);
      const Tensor zero = Tensor::zeros({s.rows}, DType::i32), stats = Tensor::empty({s.rows, 5});
      logit_stats(z.cpu.out(), zero.view(), 0, 1, false, stats.out());
      const Tensor gstats = stats.to(Device::gpu);
      for (const float u : {0.0f, 0.1234f, 0.5f, 0.77f, 0.99999994f}) {
        const Tensor us = Tensor::full({s.rows}, u), ids = Tensor::empty({s.rows}, DType::i32);
        logit_draw(z.cpu.view(), stats.view(), us.view(), ids.out());
        const Tensor gids = under_schedules([&] {
          const Tensor t = Tensor::empty({s.rows}, DType::i32, Device::gpu);
          logit_draw(z.gpu.view(), gstats.view(), us.to(Device::gpu).view(), t.out());
          return t;
        });
        for (int64_t i = 0; i < s.rows; ++i) {
          const auto id = static_cast<int64_t>(gids.at({i}));
          if (id == static_cast<int64_t>(ids.at({i}))) continue;
          double below = 0;  // a neighbour, within rounding
          for (int64_t v = 0; v < id; ++v) below += std::exp(values.at({i, v}) - stats.at({i, 0}));
          const double target = static_cast<double>(u) * stats.at({i, 1});
          CHECK(below <= target * (1 + 1e-5));
          CHECK(below + std::exp(values.at({i, id}) - stats.at({i, 0})) >= target * (1 - 1e-5));
        }
      }
    }
}

TEST_CASE("gpu logit_draw: when rounding leaves nobody above the number, the last word of positive weight", "[emulated]") {
  gpu::emulate(true);
  const int64_t V = 13000;
  const Tensor z = Random(4).normal({2, V}, DType::f32).clone();
  for (int64_t v = 5000; v < V; ++v) z.out().as<float>()[v] = -INFINITY;      // row 0 ends in the second stretch
  for (int64_t v = 4096; v < V; ++v) z.out().as<float>()[V + v] = -INFINITY;  // row 1 with the first
  const Tensor stats = Tensor::empty({2, 5}), u = Tensor::full({2}, 0.99999994), ids = Tensor::empty({2}, DType::i32), gids = Tensor::empty({2}, DType::i32, Device::gpu);
  logit_stats(z.out(), Tensor::zeros({2}, DType::i32).view(), 0, 1, false, stats.out());
  for (int64_t r = 0; r < 2; ++r) stats.out().as<float>()[5 * r + 1] *= 1.001f;
  logit_draw(z.view(), stats.view(), u.view(), ids.out());
  logit_draw(z.to(Device::gpu).view(), stats.to(Device::gpu).view(), u.to(Device::gpu).view(), gids.out());
  CHECK(gids.to_vector() == std::vector<double>{4999, 4095});
  CHECK(ids.to_vector() == std::vector<double>{4999, 4095});
}

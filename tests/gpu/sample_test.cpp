// Drawing on the GPU: the same tokens as on the CPU, under every filter.
#include <cmath>

#include "tensor/kernels/logit_rows.h"
#include "tensor/kernels/row_losses.h"
#include "tensor/kernels/sample.h"
#include "tests/gpu/device.h"

using namespace facet;
using namespace facet::test;

namespace {

const std::vector<RankFilters> filters = {{1, 1, 0}, {5, 1, 0},    {0, 0.5, 0},     {0, 0.95, 0},   {0, 1, 0.1},      {40, 0.9, 0.02}, {100000, 1, 0},
                                          {0, 0, 0}, {0, 1, 1e-9}, {300, 0.999, 0}, {3, 0.3, 0.99}, {2500, 0.9999, 0}};

// Draws from n rows of V scores under every `step`-th filter, on both devices.
void compare_draws(Random& r, int64_t n, int64_t V, double spread, size_t step, bool schedules) {
  const Tensor z = r.normal({n, V}, DType::f64, spread).to(DType::f32).clone();
  float* p = z.out().as<float>();
  if (spread == 2.0)  // ties in the middle
    for (int64_t i = 0; i < z.numel(); ++i) p[i] = std::round(p[i]);
  if (V > 30)
    for (int64_t i = 0; i < n; ++i) p[i * V + 7 * i] = -INFINITY;
  const Tensor stats = Tensor::empty({n, 5}), ids = Tensor::empty({n}, DType::i32);
  logit_stats(z.out(), Tensor::zeros({n}, DType::i32).view(), 0, 1, false, stats.out());
  const Tensor gz = z.to(Device::gpu), gstats = stats.to(Device::gpu);
  for (size_t i = 0; i < filters.size(); i += step) {
    const RankFilters& f = filters[i];
    const Tensor u = r.uniform({n}, 0, 1, DType::f32), gu = u.to(Device::gpu);
    draw_ranked(z.view(), stats.view(), u.view(), f, ids.out());
    const auto make = [&] {
      const Tensor t = Tensor::empty({n}, DType::i32, Device::gpu);
      draw_ranked(gz.view(), gstats.view(), gu.view(), f, t.out());
      return t;
    };
    const Tensor gids = schedules ? under_schedules(make) : make().to(Device::cpu);
    INFO(V << " words, spread " << spread << ", top_k " << f.top_k << " top_p " << f.top_p << " min_p " << f.min_p);
    CHECK(bitwise_equal(gids, ids));
  }
  const Tensor gfirst = Tensor::empty({n}, DType::i32, Device::gpu);
  first_largest(z.view(), stats.view(), ids.out());
  first_largest(gz.view(), gstats.view(), gfirst.out());
  CHECK(bitwise_equal(gfirst.to(Device::cpu), ids));
}

}  // namespace

// Spread 0: all tie; 40: the second token is a world away.
TEST_CASE("gpu sample: ranked draws are the CPU's, whatever the filters and however flat the scores", "[emulated]") {
  gpu::emulate(true);
  Random r(1);
  for (const double spread : {0.0, 0.05, 2.0, 9.0, 40.0}) {
    compare_draws(r, 2, 1, spread, 3, true);
    compare_draws(r, 2, 37, spread, 1, spread == 2.0);
  }
  compare_draws(r, 1, 700, 9, 2, false);
}

TEST_CASE("gpu sample: ranked draws of more tokens than fit into shared memory", "[emulated][full]") {
  gpu::emulate(true);
  Random r(2);
  for (const double spread : {0.0, 0.05, 2.0, 9.0, 40.0}) {
    compare_draws(r, 3, 700, spread, 1, true);
    compare_draws(r, 1, 5000, spread, 1, false);
  }
}

TEST_CASE("gpu sample: of equal scores the first is the largest, also where a thread has seen several", "[emulated]") {
  gpu::emulate(true);
  Tensor z = Tensor::full({1, 1300}, 0.5);
  for (int64_t i = 0; i < 3; ++i) z.out().as<float>()[i] = 0;
  const Tensor stats = Tensor::empty({1, 5}), ids = Tensor::empty({1}, DType::i32, Device::gpu);
  logit_stats(z.out(), Tensor::zeros({1}, DType::i32).view(), 0, 1, false, stats.out());
  const Tensor gz = z.to(Device::gpu), gstats = stats.to(Device::gpu);
  first_largest(gz.view(), gstats.view(), ids.out());
  CHECK(ids.to(Device::cpu).view().as<int32_t>()[0] == 3);
}

TEST_CASE("gpu sample: penalties, forbidden tokens, what is told", "[emulated]") {
  gpu::emulate(true);
  Random r(2);
  const int64_t n = 4, V = 50;
  const Tensor z = r.normal({n, V}, DType::f32, 3).clone(), gz = z.to(Device::gpu);
  const Tensor rows = Tensor::from(std::vector<int32_t>{0, 0, 2, 3, 3}, {5}), ids = Tensor::from(std::vector<int32_t>{1, 49, 3, 50, -1}, {5});
  penalize(z.out(), rows.view(), ids.view(), 1.7);
  penalize(gz.out(), rows.to(Device::gpu).view(), ids.to(Device::gpu).view(), 1.7);
  CHECK(bitwise_equal(gz.to(Device::cpu), z));
  forbid(z.out(), ids.view());
  forbid(gz.out(), ids.to(Device::gpu).view());
  CHECK(bitwise_equal(gz.to(Device::cpu), z));
  z.out().as<float>()[2 * V] = NAN;  // row 2 has lost its way
  const Tensor stats = Tensor::empty({n, 5}), drawn = Tensor::from(std::vector<int32_t>{3, 49, 5, 51}, {n});
  logit_stats(z.out(), Tensor::zeros({n}, DType::i32).view(), 0, 1, false, stats.out());
  const Tensor told = Tensor::empty({n, 4}, DType::f64), gtold = Tensor::empty({n, 4}, DType::f64, Device::gpu), gstats = stats.to(Device::gpu);
  tell_draws(z.view(), stats.view(), stats.view(), drawn.view(), told.out());
  tell_draws(z.to(Device::gpu).view(), gstats.view(), gstats.view(), drawn.to(Device::gpu).view(), gtold.out());
  CHECK(close(gtold.to(Device::cpu), told, 1e-7));
  CHECK(told.at({2, 3}) == 0);
  CHECK(told.at({0, 3}) == 1);
}

TEST_CASE("gpu row_losses: coefficients and values as the CPU's", "[emulated]") {
  gpu::emulate(true);
  Random r(3);
  const int64_t C = 300, N = 500, V = 100;
  const Tensor stats = r.uniform({C, 5}, 0.5, 4, DType::f32), numbers = Tensor::empty({C}, DType::i32);
  for (int32_t i = 0; i < C; ++i) numbers.out().as<int32_t>()[i] = (i * 7) % static_cast<int32_t>(N);
  const Tensor weights = r.uniform({C}, 0, 2), dy = r.normal({N}, DType::f32), one = Tensor::scalar(0.3);
  const auto on_both = [&](auto run, const Tensor& beside) {
    const Tensor a = stats.clone(), x = beside.clone(), b = stats.to(Device::gpu), y = beside.to(Device::gpu);
    run(a.out(), x.out(), Device::cpu);
    run(b.out(), y.out(), Device::gpu);
    CHECK(close(b.to(Device::cpu), a, 1e-6));
    CHECK(close(y.to(Device::cpu), x, 1e-6, 1e-12));
    CHECK(nmse(a, stats) > 1e-3);  // coefficients were written
  };
  const CrossEntropyForm form{0.1, 0.01, V};
  const Tensor losses = Tensor::zeros({C}, DType::f64);
  on_both([&](Out s, Out to, Device d) { cross_entropy_rows(s, weights.to(d).view(), one.to(d).view(), form, 0.7, to); }, losses);
  on_both([&](Out s, Out to, Device) { cross_entropy_rows(s, {}, {}, form, 1, to); }, losses);
  on_both([&](Out s, Out to, Device d) { log_prob_rows(s, numbers.to(d).view(), dy.to(d).view(), 0.7, to); }, Tensor::zeros({N}));
  const Tensor tokens = r.uniform({C, 6}, -1.5, 0.5);
  tokens.out().as<double>()[3] = NAN;
  for (const PolicyForm& f : {PolicyForm{}, PolicyForm{true, 0.2, 2, 1, 0}, PolicyForm{false, 0.1, 0.3, 1.5, 0.05}})
    on_both([&](Out s, Out to, Device) { policy_rows(s, to, f, 1.25); }, tokens);
}

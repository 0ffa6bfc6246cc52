// The product against a plain f64 triple loop: sizes, layouts, dtypes, tiers; bits over threads and rows.
#include "tensor/kernels/gemm.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <random>

#include "tensor/cpu/tier.h"
#include "tensor/parallel.h"
#include "tensor/tensor.h"

using namespace facet;

namespace {

Tensor random(const Shape& shape, DType dtype, int seed) {
  std::mt19937 g(seed);
  std::normal_distribution<float> normal;
  std::vector<float> v(shape.numel());
  for (float& x : v) x = normal(g);
  return Tensor::from(v, shape).to(dtype);
}

// [rows, columns] in one of several layouts: dense, transposed, every second column of a wider one, columns and rows apart.
Tensor laid_out(int64_t rows, int64_t columns, int layout, DType dtype, int seed) {
  if (layout == 1) return random({columns, rows}, dtype, seed).transpose(0, 1);
  if (layout == 2) return random({rows, 2 * columns + 1}, dtype, seed).slice(1, 1, 2 * columns + 1, 2);
  if (layout == 3) return random({columns + 3, rows + 5}, dtype, seed).slice(0, 2, columns + 2).slice(1, 1, rows + 1).transpose(0, 1);
  return random({rows, columns}, dtype, seed);
}

std::vector<double> reference(const Tensor& a, const Tensor& b, double alpha, const Tensor& before) {
  const int64_t m = a.dim(0), p = a.dim(1), n = b.dim(1);
  const auto x = a.to_vector(), y = b.to_vector();
  std::vector<double> z = before ? before.to_vector() : std::vector<double>(m * n);
  for (int64_t i = 0; i < m; ++i)
    for (int64_t k = 0; k < p; ++k)
      for (int64_t j = 0; j < n; ++j) z[i * n + j] += alpha * x[i * p + k] * y[k * n + j];
  return z;
}

double nmse(const std::vector<double>& got, const std::vector<double>& want) {
  double error = 0, norm = 1e-30;
  for (size_t i = 0; i < want.size(); ++i) {
    error += (got[i] - want[i]) * (got[i] - want[i]);
    norm += want[i] * want[i];
  }
  return error / norm;
}

bool same_bits(const Tensor& a, const Tensor& b) {
  const Tensor x = a.dense(), y = b.dense();
  return x.shape() == y.shape() && !std::memcmp(x.view().data, y.view().data, x.numel() * size_of(x.dtype()));
}

template <class F>
void each_tier(F f) {
  const cpu::Tier before = cpu::current_tier();
  for (cpu::Tier t : {cpu::Tier::portable, cpu::Tier::avx2, cpu::Tier::avx512}) {
    if (t > cpu::best_tier()) continue;
    cpu::set_tier(t);
    INFO("tier " << cpu::name_of(t));
    f();
  }
  cpu::set_tier(before);
}

}  // namespace

TEST_CASE("gemm: sizes, layouts, accumulate and alpha agree with f64 in every tier") {
  const int64_t sizes[][3] = {{1, 1, 1},    {1, 640, 257}, {3, 31, 31},   {31, 3, 1},   {14, 16, 32}, {15, 17, 33},
                              {29, 300, 48}, {257, 31, 3}, {40, 257, 48}, {2, 513, 24}, {7, 1, 65},   {33, 640, 31}, {9, 2100, 17}};
  each_tier([&] {
    int seed = 0;
    for (auto [m, p, n] : sizes) {
      for (int layout = 0; layout < 16; ++layout) {
        const bool accumulate = (layout + m) % 2;
        const double alpha = layout % 3 ? 1 : -0.75;
        const Tensor a = laid_out(m, p, layout % 4, DType::f32, ++seed), b = laid_out(p, n, layout / 4, DType::f32, ++seed);
        const Tensor c = laid_out(m, n, (layout + n) % 4, DType::f32, ++seed);
        const auto want = reference(a, b, alpha, accumulate ? c : Tensor{});
        gemm(a.view(), b.view(), c.out(accumulate), alpha);
        INFO(m << " x " << p << " x " << n << " layout " << layout);
        REQUIRE(nmse(c.to_vector(), want) < 1e-12);
      }
    }
  });
}

TEST_CASE("gemm: f64 by Eigen") {
  int seed = 0;
  for (auto [m, p, n] : {std::array<int64_t, 3>{1, 1, 1}, {3, 31, 257}, {140, 33, 200}, {2, 700, 5}}) {
    for (int layout = 0; layout < 16; ++layout) {
      const Tensor a = laid_out(m, p, layout % 4, DType::f64, ++seed), b = laid_out(p, n, layout / 4, DType::f64, ++seed);
      const Tensor c = laid_out(m, n, (layout + n) % 4, DType::f64, ++seed);
      const auto want = reference(a, b, 0.5, layout % 2 ? c : Tensor{});
      gemm(a.view(), b.view(), c.out(layout % 2), 0.5);
      REQUIRE(nmse(c.to_vector(), want) < 1e-28);
    }
  }
}

TEST_CASE("gemm: nothing outside c is written") {
  each_tier([] {
    for (int64_t n : {1, 5, 16, 24, 31, 33, 70}) {
      for (int64_t m : {1, 6, 15, 31}) {
        const Tensor field = Tensor::full({m + 2, n + 40}, 7);
        gemm(random({m, 19}, DType::f32, 1).view(), random({n, 19}, DType::f32, 2).transpose(0, 1).view(),
             field.slice(0, 1, m + 1).slice(1, 20, n + 20).out());
        int64_t kept = 0;
        for (double v : field.to_vector()) kept += v == 7;
        REQUIRE(kept == (m + 2) * (n + 40) - m * n);
      }
    }
  });
}

TEST_CASE("gemm: bf16 operands are widened, a bf16 result is rounded once") {
  each_tier([] {
    int seed = 50;
    for (auto [m, p, n] : {std::array<int64_t, 3>{1, 640, 33}, {17, 31, 33}, {20, 270, 65}, {5, 64, 24}}) {
      for (int layout = 0; layout < 16; ++layout) {
        const Tensor a = laid_out(m, p, layout % 4, layout % 3 ? DType::f32 : DType::bf16, ++seed);
        const Tensor b = laid_out(p, n, layout / 4, DType::bf16, ++seed);
        const Tensor c = laid_out(m, n, 0, DType::f32, ++seed), d = random({m, n}, DType::bf16, ++seed);
        gemm(a.view(), b.view(), c.out());
        REQUIRE(nmse(c.to_vector(), reference(a, b, 1, {})) < 1e-12);
        const Tensor wide = Tensor::empty({m, n});
        gemm(a.to(DType::f32).view(), b.to(DType::f32).view(), wide.out());
        REQUIRE(same_bits(c, wide));
        gemm(a.view(), b.view(), d.out());
        REQUIRE(same_bits(d, wide.to(DType::bf16)));
      }
    }
  });
}

TEST_CASE("gemm: the bits do not depend on threads, nor a row's on its batch") {
  each_tier([] {
    for (auto [m, p, n] : {std::array<int64_t, 3>{67, 600, 200}, {300, 96, 24}, {96, 3000, 96}, {9, 640, 515}}) {
      for (int form = 0; form < 4; ++form) {  // y = x w^T with w [n, p], or x w with w [p, n]; f32 or bf16
        const bool weight = form % 2;
        const DType dtype = form / 2 ? DType::bf16 : DType::f32;
        const Tensor x = random({m, p}, DType::f32, 3);
        const Tensor w = weight ? random({n, p}, dtype, 4).transpose(0, 1) : random({p, n}, dtype, 4);
        const Tensor y = Tensor::empty({m, n});
        set_threads(1);
        gemm(x.view(), w.view(), y.out());
        for (int count : {2, 4, 8}) {
          set_threads(count);
          const Tensor again = Tensor::full({m, n}, 1);
          gemm(x.view(), w.view(), again.out());
          REQUIRE(same_bits(y, again));
        }
        for (int64_t rows = 1; rows <= 8; ++rows) {
          const Tensor part = Tensor::empty({rows, n});
          gemm(x.slice(0, 1, 1 + rows).view(), w.view(), part.out());
          REQUIRE(same_bits(part, y.slice(0, 1, 1 + rows)));
        }
        const Tensor few = Tensor::empty({m, 3});
        gemm(x.view(), w.slice(1, n - 3, n).view(), few.out());
        REQUIRE(same_bits(few, y.slice(1, n - 3, n)));
        set_threads(0);
      }
    }
  });
}

TEST_CASE("gemm: a b larger than the caches goes by in steps of k") {
  const int64_t k = 34000, n = 130;  // more than 4 Mi elements; n leaves a narrow last panel
  const Tensor a = random({9, k}, DType::f32, 1), b = random({k, n}, DType::f32, 2), before = random({9, n}, DType::f32, 3);
  const std::vector<double> want = reference(a, b, 0.5, before);
  const Tensor c = before.clone(), row = before.slice(0, 4, 5).clone();
  gemm(a.view(), b.view(), c.out(true), 0.5);
  CHECK(nmse(c.to_vector(), want) < 1e-10);
  gemm(a.slice(0, 4, 5).view(), b.view(), row.out(true), 0.5);
  CHECK(same_bits(row, c.slice(0, 4, 5)));
  const int threads_before = threads();
  for (int count : {1, 2, 4}) {
    set_threads(count);
    const Tensor again = before.clone();
    gemm(a.view(), b.view(), again.out(true), 0.5);
    CHECK(same_bits(again, c));
  }
  set_threads(threads_before);
}

TEST_CASE("gemm: empty dimensions and wrong shapes") {
  const Tensor c = Tensor::full({2, 3}, 5);
  gemm(Tensor::empty({2, 0}).view(), Tensor::empty({0, 3}).view(), c.out(true));
  CHECK(c.to_vector() == std::vector<double>(6, 5));
  gemm(Tensor::empty({2, 0}).view(), Tensor::empty({0, 3}).view(), c.out());
  CHECK(c.to_vector() == std::vector<double>(6, 0));
  gemm(Tensor::empty({0, 4}).view(), Tensor::empty({4, 3}).view(), Tensor::empty({0, 3}).out());
  CHECK_THROWS_AS(gemm(Tensor::zeros({2, 4}).view(), Tensor::zeros({5, 3}).view(), c.out()), Error);
  CHECK_THROWS_AS(gemm(Tensor::zeros({2, 4}, DType::f64).view(), Tensor::zeros({4, 3}).view(), c.out()), Error);
}

TEST_CASE("gemm_batched: leading dimensions broadcast") {
  auto run = [](const Shape& sa, const Shape& sb, const Shape& sc) {
    const Tensor a = random(sa, DType::f32, 1), b = random(sb, DType::f32, 2), c = Tensor::empty(sc);
    gemm_batched(a.view(), b.view(), c.out());
    Shape la = sc, lb = sc;
    la[-1] = sa[-1], lb[-2] = sb[-2];
    const int64_t m = sc[-2], n = sc[-1], p = sa[-1], batch = sc.numel() / (m * n);
    const Tensor xa = a.expand(la).dense().reshape({batch, m, p}), xb = b.expand(lb).dense().reshape({batch, p, n});
    const Tensor xc = c.reshape({batch, m, n});
    for (int64_t i = 0; i < batch; ++i) {
      const Tensor z = Tensor::empty({m, n});
      gemm(xa.slice(0, i, i + 1).reshape({m, p}).view(), xb.slice(0, i, i + 1).reshape({p, n}).view(), z.out());
      REQUIRE(same_bits(z, xc.slice(0, i, i + 1).reshape({m, n})));
    }
  };
  run({2, 3, 5}, {5, 4}, {2, 3, 4});
  run({2, 1, 3, 5}, {4, 5, 2}, {2, 4, 3, 2});
  run({6, 40, 33}, {6, 33, 20}, {6, 40, 20});
  run({3, 5}, {7, 5, 2}, {7, 3, 2});
  run({2, 3, 1, 8}, {1, 3, 8, 31}, {2, 3, 1, 31});
  CHECK_THROWS_AS(run({2, 3, 5}, {3, 5, 4}, {2, 3, 4}), Error);
}

TEST_CASE("linear: several weights against one x give the bits of several products") {
  each_tier([] {
    for (int64_t rows : {1, 5, 200}) {
      const Tensor x = random({rows, 96}, DType::f32, 1);
      const Tensor w[] = {random({96, 96}, DType::f32, 2), random({24, 96}, DType::bf16, 3), random({40, 96}, DType::f32, 4)};
      const Tensor y[] = {Tensor::full({rows, 96}, 1), Tensor::full({rows, 24}, 1), Tensor::empty({rows, 40}, DType::bf16)};
      const View views[] = {w[0].view(), w[1].view(), w[2].view()};
      const Out outs[] = {y[0].out(true), y[1].out(), y[2].out()};
      linear(x.view(), views, outs);
      for (int i = 0; i < 3; ++i) {
        const Tensor z = i == 0 ? Tensor::full({rows, 96}, 1) : Tensor::empty(y[i].shape(), y[i].dtype());
        gemm(x.view(), transposed(w[i].view()), z.out(i == 0));
        REQUIRE(same_bits(z, y[i]));
      }
      const Tensor dx = Tensor::full({rows, 96}, 2), want = Tensor::full({rows, 96}, 2);
      const Tensor dy[] = {random({rows, 96}, DType::f32, 5), {}, random({rows, 40}, DType::f32, 6)};
      const View dys[] = {dy[0].view(), dy[1].view(), dy[2].view()};
      linear_dx(dys, views, dx.out(true));
      gemm(dy[0].view(), w[0].view(), want.out(true));
      gemm(dy[2].view(), w[2].view(), want.out(true));
      REQUIRE(same_bits(dx, want));
      const Tensor dw = Tensor::empty({24, 96});
      const Tensor dk = random({rows, 24}, DType::f32, 7);
      linear_dw(dk.view(), x.view(), dw.out());
      REQUIRE(nmse(dw.to_vector(), reference(dk.transpose(0, 1), x, 1, {})) < 1e-12);
    }
  });
}

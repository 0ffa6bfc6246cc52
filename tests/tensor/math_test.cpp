// tensor/math.h and tensor/cpu/simd.h against the C library in double, in every tier this machine runs.
#include <catch2/catch.hpp>
#include <cmath>
#include <complex>
#include <functional>
#include <limits>
#include <vector>

#include "tensor/cpu/bf16.h"
#include "tensor/math.h"
#include "tensor/tensor.h"
#include "tests/tensor/math_bodies.h"

using namespace facet;
using cpu::MathFunction;
using cpu::Tier;

namespace {

const float inf = std::numeric_limits<float>::infinity();
const float nan_value = std::numeric_limits<float>::quiet_NaN();

template <class F>
void each_tier(F f) {
  const Tier before = cpu::current_tier();
  for (Tier t : {Tier::portable, Tier::avx2, Tier::avx512}) {
    if (t > cpu::best_tier()) continue;
    cpu::set_tier(t);
    INFO("tier " << cpu::name_of(t));
    f();
  }
  cpu::set_tier(before);
}

std::vector<float> map(MathFunction f, const std::vector<float>& x) {
  const Tensor in = Tensor::from(x, {static_cast<int64_t>(x.size())}), out = Tensor::empty(in.shape());
  cpu::map_function(f, in.view(), out.out());
  const auto y = out.data<float>();
  return {y.begin(), y.end()};
}

/// Distance in units of the last place of the float nearest to `want` (denormals included).
double ulps(float got, double want) {
  const float nearest = static_cast<float>(want);
  if (std::isnan(want)) return std::isnan(got) ? 0 : 1e9;
  if (std::isinf(nearest) || std::isinf(got)) return got == nearest ? 0 : 1e9;
  const int e = nearest == 0 ? -126 : std::max(-126, std::ilogb(nearest));
  return std::abs(got - want) / std::ldexp(1.0, e - 23);
}

/// Floats of both signs with every exponent, mantissas spread.
std::vector<float> all_magnitudes(int per_exponent) {
  std::vector<float> x;
  uint32_t state = 1;
  for (uint32_t e = 0; e < 255; ++e)
    for (int k = 0; k < per_exponent; ++k) {
      state = state * 1664525u + 1013904223u;
      x.push_back(__builtin_bit_cast(float, (e << 23) | (state >> 9)));
      x.push_back(-x.back());
    }
  return x;
}
std::vector<float> evenly(double a, double b, int n) {
  std::vector<float> x;
  for (int i = 0; i < n; ++i) x.push_back(static_cast<float>(a + (b - a) * i / (n - 1)));
  return x;
}

template <class F>
double worst(MathFunction f, const std::vector<float>& x, F reference) {
  const auto y = map(f, x);
  double top = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double u = ulps(y[i], reference(static_cast<double>(x[i])));
    if (u > top) {
      top = u;
      if (u > 4) UNSCOPED_INFO("x = " << x[i] << " got " << y[i] << " expected " << reference(double(x[i])));
    }
  }
  return top;
}

}  // namespace

TEST_CASE("vector math stays within its error bounds in every tier") {
  const auto wide = all_magnitudes(40);
  each_tier([&] {
    CHECK(worst(MathFunction::exp, wide, [](double x) { return std::exp(x); }) <= 2);
    CHECK(worst(MathFunction::exp, evenly(-104.5, 89, 60000), [](double x) { return std::exp(x); }) <= 1.1);
    CHECK(worst(MathFunction::log, wide, [](double x) { return std::log(x); }) <= 1);
    CHECK(worst(MathFunction::log, evenly(0.5, 2, 60000), [](double x) { return std::log(x); }) <= 1);
    CHECK(worst(MathFunction::log1p_unit, evenly(0, 1, 60000), [](double x) { return std::log1p(x); }) <= 2);
    CHECK(worst(MathFunction::tanh, wide, [](double x) { return std::tanh(x); }) <= 4);
    CHECK(worst(MathFunction::tanh, evenly(-10, 10, 60000), [](double x) { return std::tanh(x); }) <= 4);
    CHECK(worst(MathFunction::erf, wide, [](double x) { return std::erf(x); }) <= 4);
    CHECK(worst(MathFunction::erf, evenly(-5, 5, 60000), [](double x) { return std::erf(x); }) <= 4);
    CHECK(worst(MathFunction::sqrt, wide, [](double x) { return std::sqrt(x); }) <= 0.5);
  });
}

TEST_CASE("vector math follows Annex F on special values") {
  each_tier([&] {
    const std::vector<float> x{inf, -inf, nan_value, 0.0f, -0.0f, 1e-45f, -1.0f, 1000.0f, -1000.0f, 88.7228f, -103.9f};
    const auto e = map(MathFunction::exp, x), l = map(MathFunction::log, x), t = map(MathFunction::tanh, x),
               r = map(MathFunction::erf, x), s = map(MathFunction::sigmoid, x), p = map(MathFunction::softplus, x);
    CHECK(e[0] == inf);
    CHECK(e[1] == 0);
    CHECK(std::isnan(e[2]));
    CHECK(e[3] == 1);
    CHECK(e[4] == 1);
    CHECK(e[7] == inf);
    CHECK(e[8] == 0);
    CHECK(std::isfinite(e[9]));
    CHECK(e[10] == 1e-45f);
    CHECK(l[0] == inf);
    CHECK(std::isnan(l[1]));
    CHECK(std::isnan(l[2]));
    CHECK(l[3] == -inf);
    CHECK(l[4] == -inf);
    CHECK(l[5] == Approx(std::log(1e-45f)).epsilon(1e-6));
    CHECK(std::isnan(l[6]));
    CHECK(t[0] == 1);
    CHECK(t[1] == -1);
    CHECK(std::isnan(t[2]));
    CHECK((t[4] == 0 && std::signbit(t[4])));
    CHECK(r[0] == 1);
    CHECK(r[1] == -1);
    CHECK(std::isnan(r[2]));
    CHECK(s[0] == 1);
    CHECK(s[1] == 0);
    CHECK(std::isnan(s[2]));
    CHECK(p[0] == inf);
    CHECK(p[1] == 0);
    CHECK(std::isnan(p[2]));
    CHECK(p[7] == 1000);
    CHECK(p[8] == 0);
  });
}

TEST_CASE("activations agree with their formulas in double") {
  const double r2 = std::sqrt(0.5), root = std::sqrt(2 / M_PI);
  auto gelu = [&](double x) { return 0.5 * x * (1 + std::tanh(root * (x + 0.044715 * x * x * x))); };
  auto gelu_slope = [&](double x) {
    const double t = std::tanh(root * (x + 0.044715 * x * x * x));
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * root * (1 + 3 * 0.044715 * x * x);
  };
  auto sigmoid = [](double x) { return 1 / (1 + std::exp(-x)); };
  struct Row {
    MathFunction f;
    std::function<double(double)> want;
    double tolerance;  ///< absolute, on values of order |x|
  };
  const Row rows[] = {
      {MathFunction::sigmoid, sigmoid, 2e-7},
      {MathFunction::sigmoid_slope, [&](double x) { return sigmoid(x) * sigmoid(-x); }, 2e-7},
      {MathFunction::softplus, [](double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x))); }, 2e-7},
      {MathFunction::log_sigmoid, [](double x) { return std::min(x, 0.0) - std::log1p(std::exp(-std::abs(x))); }, 2e-7},
      {MathFunction::silu, [&](double x) { return x * sigmoid(x); }, 2e-7},
      {MathFunction::silu_slope, [&](double x) { return sigmoid(x) * (1 + x * (1 - sigmoid(x))); }, 4e-7},
      {MathFunction::gelu_tanh, gelu, 3e-7},
      {MathFunction::gelu_tanh_slope, gelu_slope, 1e-6},
      {MathFunction::gelu_erf, [&](double x) { return 0.5 * x * (1 + std::erf(x * r2)); }, 3e-7},
      {MathFunction::gelu_erf_slope,
       [&](double x) { return 0.5 * (1 + std::erf(x * r2)) + x * std::exp(-0.5 * x * x) * 0.3989422804014327; }, 1e-6},
      {MathFunction::softcap, [](double x) { return 30 * std::tanh(x / 30); }, 4e-7},
      {MathFunction::softcap_slope, [](double x) { return 1 - std::pow(std::tanh(x / 30), 2); }, 4e-7},
  };
  const auto x = evenly(-60, 60, 12001);
  each_tier([&] {
    for (const Row& row : rows) {
      const auto y = map(row.f, x);
      const Tensor in = Tensor::from(x, {int64_t(x.size())}).to(DType::f64), out = Tensor::empty(in.shape(), DType::f64);
      cpu::map_function(row.f, in.view(), out.out());
      double top = 0, top64 = 0;
      for (size_t i = 0; i < x.size(); ++i) {
        const double scale = std::max(1.0, std::abs(row.want(x[i])));
        top = std::max(top, std::abs(y[i] - row.want(x[i])) / scale);
        top64 = std::max(top64, std::abs(out.data<double>()[i] - row.want(x[i])) / scale);
      }
      INFO("function " << int(row.f));
      CHECK(top <= row.tolerance);
      CHECK(top64 <= 1e-14);
    }
  });
}

TEST_CASE("slopes are the derivatives: complex step in double") {
  using C = std::complex<double>;
  const double h = 1e-30;
  for (double x : {-7.0, -2.5, -1.0, -0.1, 0.0, 0.3, 1.0, 2.2, 6.5}) {
    INFO("x = " << x);
    auto step = [&](auto f) { return f(C(x, h)).imag() / h; };
    CHECK(step([](C z) { return math::sigmoid(z); }) == Approx(math::sigmoid_slope(x)).epsilon(1e-13));
    CHECK(step([](C z) { return math::softplus(z); }) == Approx(math::sigmoid(x)).epsilon(1e-13));
    CHECK(step([](C z) { return math::log_sigmoid(z); }) == Approx(math::sigmoid(-x)).epsilon(1e-13));
    CHECK(step([](C z) { return math::silu(z); }) == Approx(math::silu_slope(x)).epsilon(1e-13));
    CHECK(step([](C z) { return math::gelu_tanh(z); }) == Approx(math::gelu_tanh_slope(x)).epsilon(1e-12).margin(1e-18));
    CHECK(step([](C z) { return math::softcap(z, C(5)); }) == Approx(math::softcap_slope(x, 5.0)).epsilon(1e-13));
    const double d = 1e-5;
    CHECK((math::gelu_erf(x + d) - math::gelu_erf(x - d)) / (2 * d) == Approx(math::gelu_erf_slope(x)).margin(1e-9));
  }
}

TEST_CASE("partial vectors read and write exactly their elements") {
  each_tier([&] {
    for (DType dtype : {DType::f32, DType::bf16, DType::f64})
      for (int64_t n = 1; n <= 40; ++n)
        for (bool accumulate : {false, true}) {
          INFO("n = " << n << " " << name_of(dtype) << (accumulate ? " +=" : " ="));
          const Tensor all = Tensor::full({n + 2}, -7, dtype);  // sentinels on both sides
          const Tensor y = all.slice(0, 1, n + 1), x = Tensor::arange(n).to(dtype);
          cpu::map_function(MathFunction::identity, x.view(), y.out(accumulate));
          const auto got = all.to_vector();
          CHECK(got.front() == -7);
          CHECK(got.back() == -7);
          for (int64_t i = 0; i < n; ++i) REQUIRE(got[i + 1] == (accumulate ? i - 7 : i));
          const Tensor r = Tensor::empty({2}, DType::f64);
          cpu::reduce_row(x.view(), r.out());
          CHECK(r.at({0}) == n * (n - 1) / 2);
          CHECK(r.at({1}) == n - 1);
        }
  });
}

TEST_CASE("bf16 stores round to nearest even and keep NaN, as the scalar conversion does") {
  auto x = all_magnitudes(4);
  for (uint32_t low : {0u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu})
    for (uint32_t high : {0x0000u, 0x3f80u, 0x3f81u, 0x7f7fu, 0x7f80u, 0x7fffu, 0xff80u})
      x.push_back(__builtin_bit_cast(float, high << 16 | low));
  each_tier([&] {
    // bf16 rows pass through f32 lanes; feeding f32 bits goes by way of exact sums of two bf16 numbers
    const int64_t n = int64_t(x.size());
    std::vector<bf16> head(x.size()), rest(x.size());
    std::vector<bf16> want(x.size());
    for (int64_t i = 0; i < n; ++i) {
      head[i] = bf16{static_cast<uint16_t>(__builtin_bit_cast(uint32_t, x[i]) >> 16)};
      const float residue = std::isfinite(x[i]) ? x[i] - cpu::widen(head[i]) : 0;
      rest[i] = bf16{static_cast<uint16_t>(__builtin_bit_cast(uint32_t, residue) >> 16)};
      want[i] = cpu::narrow(cpu::widen(head[i]) + cpu::widen(rest[i]));
    }
    const Tensor a = Tensor::from(head, {n}), y = Tensor::from(rest, {n});
    cpu::map_function(MathFunction::identity, a.view(), y.out(true));
    const auto got = y.data<bf16>();
    for (int64_t i = 0; i < n; ++i) {
      if (std::isnan(cpu::widen(want[i]))) CHECK(std::isnan(cpu::widen(got[i])));
      else REQUIRE(got[i].bits == want[i].bits);
    }
  });
}

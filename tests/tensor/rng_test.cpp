// Random numbers against jax.random.
#include <catch2/catch.hpp>
#include <cmath>
#include <fstream>

#include "tensor/io/json.h"
#include "tensor/io/safetensors.h"
#include "tensor/parallel.h"
#include "tensor/rng.h"

using namespace facet;

namespace {

const std::string goldens = FACET_GOLDENS;

Key key_of(const Json& words, Counters c) { return {words[0].get<uint32_t>(), words[1].get<uint32_t>(), c}; }

// Largest |a - b| in units in the last place of max(|b|, 1).
double ulps(const Tensor& a, const std::vector<double>& b) {
  const std::vector<double> x = a.to_vector();
  REQUIRE(x.size() == b.size());
  double worst = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double unit = std::exp2(std::floor(std::log2(std::max(1.0, std::abs(b[i])))) - 23);
    worst = std::max(worst, std::abs(x[i] - b[i]) / unit);
    if (!std::isfinite(x[i])) worst = INFINITY;
  }
  return worst;
}

}  // namespace

TEST_CASE("random: keys and single draws as in JAX", "[rng]") {
  const Json golden = read_json(goldens + "/random.json");
  for (const Json& b : golden["threefry2x32_20_blocks"]) {
    const Words w = threefry2x32(key_of(b["key"], {}), {b["counter"][0].get<uint32_t>(), b["counter"][1].get<uint32_t>()});
    CHECK(w.a == b["output"][0].get<uint32_t>());
    CHECK(w.b == b["output"][1].get<uint32_t>());
  }
  for (const auto& [label, rows] : golden["modes"].items()) {
    const Counters c = label == "original" ? Counters::original : Counters::partitionable;
    for (const Json& row : rows) {
      INFO(label << " seed " << row["seed"]);
      const Key k = key(static_cast<uint32_t>(row["seed"].get<int64_t>()), c);
      REQUIRE(k == key_of(row["key"], c));
      for (const auto& [n, keys] : row["split"].items()) {
        const std::vector<Key> s = split(k, std::stoi(n));
        REQUIRE(s.size() == keys.size());
        for (size_t i = 0; i < s.size(); ++i) CHECK(s[i] == key_of(keys[i], c));
      }
      for (const auto& [data, folded] : row["fold_in"].items())
        CHECK(fold_in(k, static_cast<uint32_t>(std::stoull(data))) == key_of(folded, c));
      CHECK(static_cast<uint32_t>(bits(k, {}).item()) == static_cast<uint32_t>(static_cast<int32_t>(row["bits_one"].get<uint32_t>())));
      CHECK(uniform(k, {}).item() == row["uniform_one"].get<double>());
      CHECK(ulps(normal(k, {}), {row["normal_one"].get<double>()}) <= 4);
      if (!row.contains("chain")) continue;
      Key at = k;
      for (const Json& step : row["chain"]) {
        const std::vector<Key> s = split(at);
        at = s[0];
        CHECK(at == key_of(step["key"], c));
        CHECK(s[1] == key_of(step["sub"], c));
        CHECK(ulps(normal(s[1], {}), {step["normal_of_sub"].get<double>()}) <= 4);
      }
    }
  }
}

TEST_CASE("random: arrays as in JAX", "[rng]") {
  const Safetensors golden(goldens + "/random.safetensors");
  double worst = 0;
  int seen = 0;
  for (const auto& [name, info] : golden.tensors()) {
    INFO(name);
    const size_t a = name.find('/'), b = name.find('/', a + 1);
    const Counters c = name.starts_with("original") ? Counters::original : Counters::partitionable;
    const Key k = key(std::stoull(name.substr(a + 5, b - a - 5)), c);
    const std::string rest = name.substr(b + 1);
    ++seen;
    if (rest.starts_with("permutation_")) {
      const int64_t n = std::stoll(rest.substr(12));
      CHECK(permutation(k, n).to_vector() == golden.load(name).to_vector());
      continue;
    }
    if (rest.starts_with("categorical_")) {
      if (!rest.ends_with("/ids")) continue;
      const Tensor logits = golden.load(name.substr(0, name.size() - 3) + "logits");
      CHECK(categorical(k, logits).to_vector() == golden.load(name).to_vector());
      continue;
    }
    const std::string what = rest.substr(rest.find('/') + 1);
    const Shape& s = info.shape;
    if (what == "bits") {
      const std::vector<uint8_t> raw = golden.bytes(name);
      const Tensor t = bits(k, s);
      for (size_t i = 0; i < raw.size() / 8; ++i) CHECK(std::memcmp(&raw[8 * i], &t.data<int32_t>()[i], 4) == 0);
      continue;
    }
    const std::vector<double> expected = golden.load(name).to_vector();
    const auto exact = [&](const Tensor& t) { CHECK(t.to_vector() == expected); };
    const auto near = [&](const Tensor& t) {
      const double u = ulps(t, expected);
      worst = std::max(worst, u);
      CHECK(u <= 4);
    };
    if (what == "uniform") exact(uniform(k, s));
    else if (what == "uniform_-2_3") exact(uniform(k, s, -2, 3));
    else if (what == "uniform_bf16_as_f32") exact(uniform(k, s, 0, 1, DType::bf16));
    else if (what == "normal_bf16_as_f32") exact(normal(k, s, DType::bf16));
    else if (what == "bernoulli_0.3") exact(bernoulli(k, s, 0.3));
    else if (what == "randint_0_10") exact(randint(k, s, 0, 10));
    else if (what == "randint_-5_1000003") exact(randint(k, s, -5, 1000003));
    else if (what == "randint_0_16") exact(randint(k, s, 0, 16));
    else if (what == "normal") near(normal(k, s));
    else if (what == "truncated_normal_-2_2") near(truncated_normal(k, s));
    else if (what == "gumbel") near(gumbel(k, s));
    else if (what == "exponential") near(exponential(k, s));
    else FAIL("no test for " << what);
  }
  CHECK(seen == 516);
  CHECK(worst < 4);
}

TEST_CASE("random: the same numbers on any number of threads", "[rng]") {
  const Shape s{3, 10'007};
  for (Counters c : {Counters::partitionable, Counters::original}) {
    const Key k = key(7, c);
    set_threads(1);
    const auto x = normal(k, s).to_vector(), u = uniform(k, s, 0, 1, DType::bf16).to_vector();
    set_threads(4);
    CHECK(normal(k, s).to_vector() == x);
    CHECK(uniform(k, s, 0, 1, DType::bf16).to_vector() == u);
    set_threads(0);
  }
}

TEST_CASE("random: logarithm and inverse error function against libm in double", "[rng]") {
  const int64_t n = 1 << 20;
  const Key k = key(12);
  const double eps = 0x1p-23;
  const auto u = uniform(k, {n}).to_vector(), e = exponential(k, {n}).to_vector(), g = gumbel(k, {n}).to_vector();
  const auto v = uniform(k, {n}, -1 + 0x1p-24, 1).to_vector(), z = normal(k, {n}).to_vector();
  double log_error = 0, normal_error = 0;
  for (size_t i = 0; i < u.size(); ++i) {
    const double t = -std::log1p(-u[i]);
    log_error = std::max(log_error, t > 0 ? std::abs(e[i] - t) / t : std::abs(e[i]));
    const double inner = static_cast<float>(-std::log(std::max(u[i], 0x1p-126))), outer = -std::log(inner);
    // The inner logarithm is rounded, here and there perhaps differently: one step of it is one relative step of its value.
    if (std::abs(g[i] - outer) > 2 * eps * std::max(1.0, std::abs(outer))) FAIL_CHECK("gumbel of " << u[i]);
    // x^2 is rounded before 1 - x^2, which shows in the tails; through the density of the normal that is an error of z.
    const double density = std::exp(-z[i] * z[i] / 2) * 0.7978845608;  // of |z|
    const double error = std::abs(std::erf(z[i] / std::sqrt(2.0)) - v[i]) / density;
    normal_error = std::max(normal_error, error / (4 * eps * std::max(1.0, std::abs(z[i])) + eps / (1 - v[i] * v[i])));
  }
  CHECK(log_error < 1.0 * eps);
  CHECK(normal_error < 1);
}

TEST_CASE("random: moments, tails and ends", "[rng]") {
  const int64_t n = 1 << 20;
  const auto moments = [](const Tensor& t) {
    double m = 0, v = 0;
    for (double x : t.to_vector()) m += x, v += x * x;
    m /= static_cast<double>(t.numel());
    return std::pair(m, v / static_cast<double>(t.numel()) - m * m);
  };
  const auto near = [](std::pair<double, double> m, double mean, double variance) {
    CHECK(std::abs(m.first - mean) < 0.006);
    CHECK(std::abs(m.second - variance) < 0.012);
  };
  near(moments(normal(key(3), {n})), 0, 1);
  near(moments(exponential(key(4), {n})), 1, 1);
  near(moments(gumbel(key(5), {n})), 0.5772157, 1.6449341);
  near(moments(truncated_normal(key(6), {n})), 0, 0.7737413);
  near(moments(uniform(key(8), {n}, -1, 1)), 0, 1.0 / 3);
  near(moments(bernoulli(key(9), {n}, 0.25)), 0.25, 0.1875);
  for (double x : truncated_normal(key(6), {n}, -0.5, 0.25).to_vector()) REQUIRE((x > -0.5 && x < 0.25));
  for (double x : normal(key(11), {n}).to_vector()) REQUIRE(std::abs(x) < 5.5);
  CHECK(permutation(key(1), 0).numel() == 0);
  std::vector<double> p = permutation(key(1), 5000).to_vector();  // two rounds
  std::sort(p.begin(), p.end());
  for (size_t i = 0; i < p.size(); ++i) REQUIRE(p[i] == static_cast<double>(i));
  CHECK(randint(key(1), {4}, 3, 3).to_vector() == std::vector<double>{3, 3, 3, 3});
  CHECK_THROWS_AS(randint(key(1), {4}, 0, int64_t{1} << 33), Error);
  CHECK_THROWS_AS(normal(key(1), {4}, DType::f64), Error);
  const Tensor far = randint(key(1), {1000}, INT32_MIN, int64_t{INT32_MAX} + 1);
  CHECK(far.dtype() == DType::i32);
}

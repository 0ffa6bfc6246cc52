#include "infer/sampler.h"

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <numeric>

#include "tensor/error.h"
#include "tensor/gpu/emulator/emulator.h"
#include "tensor/gpu/runtime.h"
#include "tensor/pool_vector.h"
#include "tests/support/random.h"

using namespace facet;
using Json = nlohmann::json;

namespace {

// "repetition_1.2_temperature_0.8_top_k_6_top_p_0.8_min_p_0.1"
SamplingOptions options_of(const std::string& name) {
  SamplingOptions o;
  for (const auto& [key, field] : {std::pair<std::string, double*>{"repetition_", &o.repetition_penalty}, {"temperature_", &o.temperature},
                                   {"top_p_", &o.top_p}, {"min_p_", &o.min_p}})
    if (const size_t at = name.find(key); at != std::string::npos) *field = std::stod(name.substr(at + key.size()));
  if (const size_t at = name.find("top_k_"); at != std::string::npos) o.top_k = std::stoll(name.substr(at + 6));
  return o;
}

}  // namespace

TEST_CASE("sampler: probabilities equal Hugging Face's processors") {
  std::ifstream in(std::string(FACET_GOLDENS) + "/sampling.json");
  const Json golden = Json::parse(in);
  for (const auto& [name, expected] : golden.at("cases").items()) {
    const SamplingOptions o = options_of(name);
    for (size_t row = 0; row < golden.at("logits_f32").size(); ++row) {
      INFO(name << " row " << row);
      const auto logits = golden["logits_f32"][row].get<std::vector<float>>();
      const auto history = golden["history_for_repetition"][row].get<std::vector<int32_t>>();
      const auto want = expected["probabilities"][row].get<std::vector<double>>();
      std::vector<double> got(logits.size(), 0.0);
      for (const Candidate& c : candidates(logits, o, history)) got[static_cast<size_t>(c.id)] = c.probability;
      // Tokens of equal score at the edge of top-p: which of them stays is the sort's affair there; compare as multisets.
      std::vector<double> a = got, b = want;
      std::sort(a.begin(), a.end());
      std::sort(b.begin(), b.end());
      for (size_t i = 0; i < a.size(); ++i) CHECK(a[i] == Approx(b[i]).margin(1e-6));
      for (size_t i = 0; i < got.size(); ++i) {
        const bool tied = std::count(logits.begin(), logits.end(), logits[i]) > 1;
        if (!tied) CHECK(got[i] == Approx(want[i]).margin(1e-6));
      }
    }
  }
}

TEST_CASE("sampler: draws follow the distribution and the key alone") {
  const std::vector<float> logits = {0, 1, 2, -1};
  const SamplingOptions o;
  std::vector<int> count(4);
  for (uint32_t i = 0; i < 4000; ++i) ++count[static_cast<size_t>(draw(logits, o, fold_in(key(7), i)).id)];
  const auto list = candidates(logits, o);
  for (const Candidate& c : list) CHECK(count[static_cast<size_t>(c.id)] / 4000.0 == Approx(c.probability).margin(0.03));
  CHECK(draw(logits, o, key(3)).id == draw(logits, o, key(3)).id);
  const Draw d = draw(logits, o, key(1));
  double total = 0;
  for (float x : logits) total += std::exp(x);
  CHECK(d.log_prob == Approx(logits[static_cast<size_t>(d.id)] - std::log(total)));
}

TEST_CASE("sampler: 100,000 draws are as frequent as the distribution says, and nothing it leaves out is drawn") {
  const std::vector<float> logits = {1.5f, -2, 0.3f, 2.2f, 2.2f, -0.7f, 0.9f, 1.1f, -30, 0, 1.4f, -1};
  constexpr int64_t n = 100'000;
  const SamplingOptions cases[] = {{}, {.temperature = 0.6}, {.temperature = 2.5}, {.top_k = 5}, {.top_p = 0.8}, {.min_p = 0.2},
                                   {.temperature = 0.8, .top_k = 8, .top_p = 0.9, .min_p = 0.05}, {.repetition_penalty = 1.7, .forbidden = {3, 7}}};
  const std::vector<int32_t> history = {0, 4};
  uint32_t seed = 20;
  for (const SamplingOptions& o : cases) {
    INFO("case of key " << seed);
    std::vector<float> rows;
    for (int64_t i = 0; i < n; ++i) rows.insert(rows.end(), logits.begin(), logits.end());
    std::vector<DrawRow> how;
    for (uint32_t i = 0; i < n; ++i) how.push_back({fold_in(key(seed), i), history});
    std::vector<Draw> draws(n);
    draw(Tensor::from(rows, {n, std::ssize(logits)}), 0, o, how, draws);
    std::vector<double> seen(logits.size());
    for (const Draw& d : draws) ++seen[static_cast<size_t>(d.id)];
    double chi_square = 0, left = static_cast<double>(n), degrees = -1, rare_seen = 0, rare = 0;
    for (const Candidate& c : candidates(logits, o, history)) {
      const double expected = c.probability * static_cast<double>(n), got = seen[static_cast<size_t>(c.id)];
      left -= got;
      if (expected < 5) {  // too few for a normal approximation: put together
        rare += expected, rare_seen += got;
        continue;
      }
      chi_square += (got - expected) * (got - expected) / expected;
      ++degrees;
    }
    CHECK(left == 0);
    CHECK(rare_seen <= rare + 5 * std::sqrt(rare) + 5);
    // Wilson and Hilferty (1931): the cube root of chi-square over its degrees is nearly normal. 4 deviations: one run in 30,000.
    const double spread = 2 / (9 * degrees);
    CHECK(std::cbrt(chi_square / degrees) < 1 - spread + 4 * std::sqrt(spread));
    ++seed;
  }
  std::vector<float> alone = logits;
  alone[4] = 2;  // no tie: the likeliest token is one, and greedy
  for (uint32_t i = 0; i < 50; ++i)
    for (const SamplingOptions& o : {SamplingOptions{.temperature = 0}, SamplingOptions{.temperature = 1e-3}, SamplingOptions{.top_k = 1}})
      CHECK(draw(alone, o, key(i)).id == 3);
}

TEST_CASE("sampler: a draw tells what the filters cut, and is the same draw") {
  std::vector<float> logits(3000);
  const Tensor noise = normal(key(4), {3000});
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = 4 * noise.data<float>()[i];
  const std::vector<int32_t> history = {1, 2, 3, 2};
  for (SamplingOptions o : {SamplingOptions{.top_k = 40}, SamplingOptions{.temperature = 0.7, .top_p = 0.9}, SamplingOptions{.min_p = 0.02},
                            SamplingOptions{.temperature = 2, .top_k = 300, .top_p = 0.5, .min_p = 0.01, .repetition_penalty = 1.5, .forbidden = {3, 8}},
                            SamplingOptions{.top_k = 5000}}) {
    const auto left = candidates(logits, o, history);
    SamplingOptions all = o;
    all.top_k = 0, all.top_p = 1, all.min_p = 0;
    double mass = 0;
    const auto before = candidates(logits, all, history);
    for (size_t i = 0; i < left.size(); ++i) mass += before[i].probability;
    const Draw plain = draw(logits, o, key(6), history);
    CHECK(plain.kept == 0);
    o.tell_cut = true;
    const Draw told = draw(logits, o, key(6), history);
    CHECK(told.id == plain.id);
    CHECK(told.log_prob == plain.log_prob);
    CHECK(told.kept == std::ssize(left));
    CHECK(told.mass == Approx(mass).margin(1e-6));
  }
  CHECK(draw(logits, {.temperature = 0.5, .tell_cut = true}, key(1)).kept == 0);  // nothing ranks
}

TEST_CASE("sampler: greedy, forbidden tokens, refused options") {
  SamplingOptions o{.temperature = 0};
  CHECK(draw(std::vector<float>{1, 5, 5, 2}, o, key(0)).id == 1);
  o.forbidden = {1, 2, 99};
  CHECK(draw(std::vector<float>{1, 5, 5, 2}, o, key(0)).id == 3);
  CHECK_THROWS_AS(draw(std::vector<float>{NAN, NAN}, {}, key(0)), Error);
  CHECK_THROWS_WITH((SamplingOptions{.temperature = -1}.check()), Catch::Contains("--temp"));
  CHECK_THROWS_WITH((SamplingOptions{.top_p = 1.5}.check()), Catch::Contains("--top-p"));
}

TEST_CASE("sampler: a draw is the token under the number: by id, or by rank when filters rank") {
  std::vector<float> flat(5000), peaked(5000);
  const Tensor noise = normal(key(4), {5000});
  for (size_t i = 0; i < flat.size(); ++i) {
    flat[i] = 0.3f * noise.data<float>()[i];  // thousands of tokens matter
    peaked[i] = 9 * noise.data<float>()[i];   // a handful does
  }
  for (const auto& logits : {flat, peaked}) {
    for (const SamplingOptions& o : {SamplingOptions{}, SamplingOptions{.temperature = 0.5, .top_p = 0.95}, SamplingOptions{.top_k = 700, .min_p = 0.01},
                                     SamplingOptions{.temperature = 3, .top_k = 70, .top_p = 0.7, .repetition_penalty = 1.5, .forbidden = {3, 8}},
                                     SamplingOptions{.temperature = 1e-6}, SamplingOptions{.repetition_penalty = 1.5, .forbidden = {4999, 8, 0}}}) {
      const std::vector<int32_t> history = {1, 2, 3, 2};
      auto list = candidates(logits, o, history);
      double total = 0;
      for (const Candidate& c : list) total += c.probability;
      CHECK(std::is_sorted(list.begin(), list.end(), [](const Candidate& a, const Candidate& b) { return a.probability > b.probability; }));
      CHECK(total == Approx(1).margin(1e-6));
      if (o.top_k == 0 && o.top_p == 1 && o.min_p == 0) std::sort(list.begin(), list.end(), [](const Candidate& a, const Candidate& b) { return a.id < b.id; });
      for (uint32_t i = 0; i < 50; ++i) {
        double u = uniform(fold_in(key(9), i), {}).item();
        size_t pick = 0;
        while (pick + 1 < list.size() && u >= list[pick].probability) u -= list[pick++].probability;
        CHECK(draw(logits, o, fold_in(key(9), i), history).id == list[pick].id);
      }
    }
  }
}

TEST_CASE("sampler: logits that are no numbers are an error, not a token") {
  for (const double t : {0.0, 1.0}) {
    const SamplingOptions o{.temperature = t};
    CHECK_THROWS_WITH(draw(std::vector<float>{1, NAN, 2}, o, key(0)), Catch::Contains("diverged"));
    CHECK_THROWS_WITH(draw(std::vector<float>{1, INFINITY, 2}, o, key(0)), Catch::Contains("diverged"));
    CHECK_THROWS_AS(draw(std::vector<float>{-INFINITY, -INFINITY}, o, key(0)), Error);
    CHECK(draw(std::vector<float>{-INFINITY, 2}, o, key(0)).id == 1);
    SamplingOptions none = o;
    none.forbidden = {0, 1};
    CHECK_THROWS_AS(draw(std::vector<float>{1, 2}, none, key(0)), Error);
  }
}

TEST_CASE("sampling on the GPU: the tokens, log-probabilities and entropies of the CPU, and one wait") {
  gpu::emulate(true);
  test::Random r(5);
  const int64_t n = 5, V = 300;
  const Tensor products = r.normal({n, V}, DType::f32, 3).clone();
  const std::vector<int32_t> history = {4, 4, 9, 250, 400};
  std::vector<SamplingOptions> cases(6);
  cases[0].temperature = 0;
  cases[1].temperature = 0.7;
  cases[2].top_k = 20, cases[2].top_p = 0.9;
  cases[3].min_p = 0.05, cases[3].repetition_penalty = 1.3;
  cases[4].repetition_penalty = 1.5, cases[4].forbidden = {0, 7, 299, 1000};
  cases[5].top_p = 0.5, cases[5].forbidden = {1}, cases[5].temperature = 2;
  for (size_t c = 0; c < cases.size(); ++c)
    for (const double cap : {0.0, 5.0}) {
      INFO("case " << c << " cap " << cap);
      pool_vector<DrawRow> rows;
      for (uint32_t i = 0; i < n; ++i) rows.push_back({fold_in(key(3), i + 10 * static_cast<uint32_t>(c)), history});
      std::vector<Draw> here(n), there(n);
      draw(products.clone(), cap, cases[c], rows, here);
      const Tensor moved = products.to(Device::gpu);
      const int64_t before = gpu::syncs();
      draw(moved, cap, cases[c], rows, there);
      CHECK(gpu::syncs() == before + 1);
      for (size_t i = 0; i < here.size(); ++i) {
        CHECK(there[i].id == here[i].id);
        CHECK(there[i].log_prob == Approx(here[i].log_prob).margin(1e-5));
        CHECK(there[i].entropy == Approx(here[i].entropy).margin(1e-5));
      }
    }
  const SamplingOptions told{.temperature = 0.8, .top_k = 20, .top_p = 0.9, .forbidden = {2}, .tell_cut = true};
  const std::vector<DrawRow> rows(n, DrawRow{key(8)});
  std::vector<Draw> here(n), there(n);
  draw(products.clone(), 5, told, rows, here);
  draw(products.to(Device::gpu), 5, told, rows, there);
  for (size_t i = 0; i < here.size(); ++i) {
    CHECK(there[i].kept == here[i].kept);
    CHECK(there[i].mass == Approx(here[i].mass).margin(1e-5));
  }
  std::vector<Draw> draws(1);
  const DrawRow row{key(1)};
  CHECK_THROWS_WITH(draw(Tensor::from({1, NAN, 2}, {1, 3}).to(Device::gpu), 0, {}, {&row, 1}, draws), Catch::Contains("diverged"));
}

// The policy losses against TRL's GRPOTrainer: values, gradients with respect to every log-probability, clip shares, KL.
#include "train/grpo_loss.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <map>

#include "tensor/io/json.h"
#include "tests/support/compare.h"
#include "tests/support/goldens.h"

using namespace facet;
using namespace facet::test;

namespace {

const double excluded = std::nan("");

const std::map<std::string, PolicyLoss> losses = {{"grpo", PolicyLoss::grpo}, {"bnpo", PolicyLoss::bnpo}, {"dr_grpo", PolicyLoss::dr_grpo},
                                                  {"dapo", PolicyLoss::dapo}, {"cispo", PolicyLoss::cispo}};

struct Toy {
  std::vector<std::vector<double>> now, old, reference;  // [sequence][token], padding left out
  std::vector<double> advantages;
  int64_t tokens = 0, width = 0;

  explicit Toy(const Golden& g) {
    const Tensor mask = g["grpo/in/completion_mask"];
    width = mask.dim(1);
    for (int64_t b = 0; b < mask.dim(0); ++b) {
      advantages.push_back(g["grpo/in/advantages"].at({b}));
      for (auto* list : {&now, &old, &reference}) list->emplace_back();
      for (int64_t t = 0; t < width && mask.at({b, t}) != 0; ++t, ++tokens) {
        now.back().push_back(g["grpo/in/per_token_logps"].at({b, t}));
        old.back().push_back(g["grpo/in/old_per_token_logps"].at({b, t}));
        reference.back().push_back(g["grpo/in/ref_per_token_logps"].at({b, t}));
      }
    }
  }
};

struct Sums {
  double loss = 0, kl = 0, low = 0, high = 0, high_most = 0, low_least = 1;
  std::vector<double> gradient;  // [sequence, width]
};

Sums run(const Toy& toy, const PolicyOptions& o, bool on_policy, int64_t longest) {
  Sums s;
  s.gradient.assign(toy.now.size() * static_cast<size_t>(toy.width), 0);
  for (size_t b = 0; b < toy.now.size(); ++b) {
    const size_t n = toy.now[b].size();
    double mean = 0, low = 0, high = 0;
    for (size_t t = 0; t < n; ++t) mean += (toy.now[b][t] - toy.old[b][t]) / static_cast<double>(n);
    const double weight = token_weight(o.loss, static_cast<int64_t>(n), static_cast<int64_t>(toy.now.size()), toy.tokens, longest);
    for (size_t t = 0; t < n; ++t) {
      const double log_ratio = on_policy ? 0 : o.sequence_ratio ? mean : toy.now[b][t] - toy.old[b][t];
      const PolicyTerm term = policy_term(o, toy.advantages[b], toy.now[b][t], log_ratio, toy.reference[b][t]);
      s.loss += weight * term.loss;
      s.gradient[b * static_cast<size_t>(toy.width) + t] = weight * term.d_log_prob;
      s.kl += term.kl / static_cast<double>(toy.tokens);
      low += term.low;
      high += term.high;
    }
    // TRL counts a sequence's one ratio once.
    const double per = o.sequence_ratio ? static_cast<double>(n) * static_cast<double>(toy.now.size()) : static_cast<double>(toy.tokens);
    s.low += low / per;
    s.high += high / per;
    s.low_least = std::min(s.low_least, low / static_cast<double>(n));
    s.high_most = std::max(s.high_most, high / static_cast<double>(n));
  }
  return s;
}

}  // namespace

TEST_CASE("grpo: losses, gradients and clip shares are TRL's") {
  const Json json = read_json(golden_path("posttrain.json"));
  const Golden g("posttrain.safetensors");
  const Toy toy(g);
  int cases = 0, clipped = 0;
  for (const Json& c : json.at("grpo")) {
    const std::string name = c.at("name");
    INFO(name);
    PolicyOptions o;
    o.loss = losses.at(c.at("loss_type"));
    o.clip_low = c.at("epsilon_low");
    o.clip_high = c.at("epsilon_high");
    o.kl = c.at("beta");
    o.sequence_ratio = c.at("importance_sampling_level") == "sequence";
    if (!c.at("delta").is_null()) o.delta = c.at("delta");
    const Sums s = run(toy, o, !c.at("old_logps").get<bool>(), c.at("max_completion_length"));
    CHECK(s.loss == Approx(c.at("loss").get<double>()).epsilon(1e-12));
    const Tensor expected = g["grpo/grad/" + name];
    CHECK(close(Tensor::from(s.gradient, expected.shape()), expected, 1e-12, 1e-15));
    const Json& m = c.at("metrics");
    if (m.contains("kl")) CHECK(s.kl == Approx(m.at("kl").get<double>()).epsilon(1e-12));
    if (m.contains("clip_ratio/low_mean")) {
      CHECK(s.low == Approx(m.at("clip_ratio/low_mean").get<double>()));
      CHECK(s.high == Approx(m.at("clip_ratio/high_mean").get<double>()));
      CHECK(s.low_least == Approx(m.at("clip_ratio/low_min").get<double>()));
      CHECK(s.high_most == Approx(m.at("clip_ratio/high_max").get<double>()).epsilon(1e-6));
      clipped += s.low + s.high > 0;
    }
    if (m.contains("cispo_clip_ratio")) CHECK(s.high == Approx(m.at("cispo_clip_ratio").get<double>()));
    ++cases;
  }
  CHECK(cases == 25);
  CHECK(clipped > 0);
}

TEST_CASE("grpo: the derivative is that of the loss") {
  for (const auto& [name, loss] : losses)
    for (const double advantage : {-1.3, 0.8})
      for (const double log_ratio : {-0.9, -0.1, 0.0, 0.15, 0.7})
        for (const double kl : {0.0, 0.3}) {
          PolicyOptions o;
          o.loss = loss;
          o.kl = kl;
          o.clip_high = loss == PolicyLoss::cispo ? 1.5 : 0.28;
          const double log_prob = -1.1, reference = -0.7, e = 1e-6;
          // cispo holds its weight constant: only log p moves there.
          const double moves = loss == PolicyLoss::cispo ? 0 : 1;
          const auto value = [&](double d) { return policy_term(o, advantage, log_prob + d, log_ratio + moves * d, reference).loss; };
          INFO(name << ", advantage " << advantage << ", log ratio " << log_ratio << ", kl " << kl);
          CHECK(policy_term(o, advantage, log_prob, log_ratio, reference).d_log_prob ==
                Approx((value(e) - value(-e)) / (2 * e)).margin(1e-8));
        }
}

TEST_CASE("grpo: the KL estimate is k3") {
  PolicyOptions o;
  o.kl = 1;
  CHECK(policy_term(o, 0, -1, 0, -0.5).kl == Approx(0.148721271));
  CHECK(policy_term(o, 0, -1, 0, -1).kl == 0);
  CHECK(policy_term(o, 0, -1, 0, -1).d_log_prob == 0);
}

TEST_CASE("grpo: advantages are TRL's") {
  const Json json = read_json(golden_path("posttrain.json")).at("grpo_advantages");
  const std::vector<double> rewards = json.at("rewards");
  const std::map<std::string, RewardScale> scales = {{"group", RewardScale::group}, {"batch", RewardScale::batch}, {"none", RewardScale::none}};
  for (const auto& [name, scale] : scales) {
    INFO(name);
    const Advantages a = advantages(rewards, json.at("group_size"), scale);
    const std::vector<double> expected = json.at("advantages").at(name);
    // TRL's n / (n - 1) is an f32 number.
    for (size_t i = 0; i < expected.size(); ++i) CHECK(a.of[i] == Approx(expected[i]).epsilon(scale == RewardScale::none ? 1e-14 : 3e-8));
    CHECK((a.flat == std::vector<uint8_t>{0, 1, 0, 0}));
    CHECK(a.counted == 16);
  }
  // A group that differs by rounding only would otherwise get advantages thousands of times its rewards' difference.
  const Advantages near = advantages(std::vector<double>{0.3, 0.1 + 0.2, 0.3, 0.3}, 4, RewardScale::group);
  CHECK(near.flat.at(0) == 1);
  CHECK(near.of == std::vector<double>(4, 0.0));
}

TEST_CASE("grpo: an excluded row counts in no mean and no deviation") {
  const Advantages a = advantages(std::vector<double>{1, 0, 0, 1, excluded, 5, 5, 5, excluded, excluded, 2, excluded}, 4, RewardScale::group);
  const Advantages with = advantages(std::vector<double>{excluded, 1, 0, 0, 1, excluded}, 6, RewardScale::group);
  for (size_t i = 0; i < 4; ++i) CHECK(with.of[i + 1] == a.of[i]);
  CHECK(with.of[0] == 0);
  CHECK(with.of[5] == 0);
  CHECK((a.flat == std::vector<uint8_t>{0, 1, 1}));  // one reward left: nothing to compare it with
  CHECK(a.counted == 8);
  CHECK(a.mean == Approx(19.0 / 8));
  const Advantages batch = advantages(std::vector<double>{1, 0, excluded, 1, 0, excluded}, 3, RewardScale::batch);
  CHECK(batch.std == Approx(std::sqrt(1.0 / 3)));
  CHECK(batch.of[0] == Approx(0.5 / (std::sqrt(1.0 / 3) + 1e-4)));
  CHECK(advantages(std::vector<double>(2, excluded), 2, RewardScale::batch).counted == 0);
}

TEST_CASE("grpo: what a token weighs") {
  CHECK(token_weight(PolicyLoss::grpo, 4, 8, 100, 64) == 1.0 / 32);
  CHECK(token_weight(PolicyLoss::dapo, 4, 8, 100, 64) == 1.0 / 100);
  CHECK(token_weight(PolicyLoss::dr_grpo, 4, 8, 100, 64) == 1.0 / 512);
  CHECK(std::isfinite(token_weight(PolicyLoss::grpo, 0, 8, 0, 64)));
  CHECK(std::isfinite(token_weight(PolicyLoss::dapo, 0, 8, 0, 64)));
}

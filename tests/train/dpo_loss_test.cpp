// The pure losses against TRL's own numbers, against hand computation where TRL differs from the papers, and at the extremes.
#include "train/dpo_loss.h"

#include <catch2/catch.hpp>

#include <cmath>
#include <set>
#include <vector>

#include "tensor/error.h"
#include "tensor/io/json.h"
#include "tests/support/goldens.h"

using namespace facet;
using namespace facet::test;

namespace {

double loss_of(double d, const DpoLossOptions& o) { return dpo_loss({d, 0, 1}, {0, 0, 1}, o).loss; }

}  // namespace

TEST_CASE("dpo loss: value, gradient to every token and metrics are TRL's") {
  const Json json = read_json(golden_path("posttrain.json"));
  const Golden g("posttrain.safetensors");
  const Tensor mask = g["dpo/in/completion_mask"], policy = g["dpo/in/per_token_logps"], reference = g["dpo/in/ref_per_token_logps"];
  const int64_t pairs = policy.dim(0) / 2, T = policy.dim(1);  // rows: all chosen, then all rejected
  const auto completion = [&](int64_t row) {
    CompletionLogProbs c;
    for (int64_t t = 0; t < T; ++t) {
      if (mask.at({row, t + 1}) == 0) continue;
      c.policy += policy.at({row, t});
      c.reference += reference.at({row, t});
      ++c.tokens;
    }
    return c;
  };
  std::set<std::string> seen;
  for (const Json& entry : json.at("dpo")) {
    const std::string form = entry.at("loss_type"), name = entry.at("name");
    if (entry.at("f_divergence") != "reverse_kl" || (form != "sigmoid" && form != "robust" && form != "hinge" && form != "ipo")) continue;
    INFO(name);
    seen.insert(form);
    DpoLossOptions o{.form = preference_loss_named(form), .beta = entry.at("beta"), .label_smoothing = entry.at("label_smoothing")};
    if (form == "sigmoid") o.label_smoothing = 0;  // TRL's sigmoid does not look at it
    o.check();
    const Tensor gradient = g["dpo/grad/" + name];  // of the mean over pairs
    double loss = 0, chosen = 0, rejected = 0, right = 0;
    for (int64_t p = 0; p < pairs; ++p) {
      const DpoLoss r = dpo_loss(completion(p), completion(pairs + p), o);
      loss += r.loss / static_cast<double>(pairs);
      chosen += r.chosen_reward / static_cast<double>(pairs);
      rejected += r.rejected_reward / static_cast<double>(pairs);
      right += static_cast<double>(r.right()) / static_cast<double>(pairs);
      // TRL sums cells that its model has already set to 0 where the mask is 0, so its gradient there means nothing.
      for (int64_t t = 0; t < T; ++t) {
        if (mask.at({p, t + 1}) != 0) CHECK(r.chosen_slope / static_cast<double>(pairs) == Approx(gradient.at({p, t})).epsilon(1e-12));
        if (mask.at({pairs + p, t + 1}) != 0)
          CHECK(r.rejected_slope / static_cast<double>(pairs) == Approx(gradient.at({pairs + p, t})).epsilon(1e-12));
      }
    }
    const Json& m = entry.at("metrics");
    CHECK(loss == Approx(entry.at("loss").get<double>()).epsilon(1e-13));
    CHECK(chosen == Approx(m.at("rewards/chosen").get<double>()).epsilon(1e-13));
    CHECK(rejected == Approx(m.at("rewards/rejected").get<double>()).epsilon(1e-13));
    CHECK(chosen - rejected == Approx(m.at("rewards/margins").get<double>()).epsilon(1e-13));
    CHECK(right == Approx(m.at("rewards/accuracies").get<double>()).epsilon(1e-7));  // f32 there
  }
  CHECK(seen == std::set<std::string>{"sigmoid", "robust", "hinge", "ipo"});
}

TEST_CASE("dpo loss: ln 2 when the policy is the reference") {
  const DpoLoss r = dpo_loss({-7, -7, 3}, {-11, -11, 5}, {});
  CHECK(r.loss == Approx(std::log(2.0)).epsilon(1e-15));
  CHECK(r.chosen_slope == Approx(-0.05).epsilon(1e-15));
  CHECK(r.rejected_slope == Approx(0.05).epsilon(1e-15));
  CHECK(r.margin() == 0);
  CHECK_FALSE(r.right());
}

TEST_CASE("dpo loss: sigmoid with label smoothing is the conservative loss, computed by hand") {
  // d = (-2 + 3) - (-5 + 4.5) = 1.5, x = 0.4 * 1.5 = 0.6, e = 0.25:
  // s(0.6) = 0.6456563062257954, log s(0.6) = -0.4374879504858856, log s(-0.6) = -1.0374879504858856
  const DpoLoss r = dpo_loss({-2, -3, 2}, {-5, -4.5, 4}, {.beta = 0.4, .label_smoothing = 0.25});
  CHECK(r.loss == Approx(0.75 * 0.4374879504858856 + 0.25 * 1.0374879504858856).epsilon(1e-15));
  const double slope = 0.4 * (0.25 * 0.6456563062257954 - 0.75 * (1 - 0.6456563062257954));
  CHECK(r.chosen_slope == Approx(slope).epsilon(1e-14));
  CHECK(r.rejected_slope == Approx(-slope).epsilon(1e-14));
  CHECK(r.chosen_reward == Approx(0.4));
  CHECK(r.rejected_reward == Approx(-0.2));
  // Its minimum is at x = log((1-e) / e), where the certainty equals that of the labels; the plain loss has none.
  const double best = std::log(3.0) / 0.4;
  CHECK(dpo_loss({best, 0, 1}, {0, 0, 1}, {.beta = 0.4, .label_smoothing = 0.25}).chosen_slope == Approx(0).margin(1e-15));
}

TEST_CASE("dpo loss: the paper's ipo takes sums, TRL's means") {
  const CompletionLogProbs chosen{-2, -3, 2}, rejected{-5, -4.5, 4};  // d: sums 1 + 0.5, means 1/2 + 0.5/4
  DpoLossOptions o{.form = PreferenceLoss::ipo, .beta = 0.25};        // 1 / (2 beta) = 2
  const DpoLoss means = dpo_loss(chosen, rejected, o);
  CHECK(means.loss == Approx((0.625 - 2) * (0.625 - 2)).epsilon(1e-15));
  CHECK(means.chosen_slope == Approx(2 * (0.625 - 2) / 2).epsilon(1e-15));
  CHECK(means.rejected_slope == Approx(-2 * (0.625 - 2) / 4).epsilon(1e-15));
  o.ipo_sum = true;
  const DpoLoss sums = dpo_loss(chosen, rejected, o);
  CHECK(sums.loss == Approx(0.25).epsilon(1e-15));
  CHECK(sums.chosen_slope == Approx(-1).epsilon(1e-15));
  CHECK(sums.rejected_slope == Approx(1).epsilon(1e-15));
  CHECK(sums.margin() == means.margin());
}

TEST_CASE("dpo loss: slopes are the derivatives") {
  const std::vector<DpoLossOptions> forms = {{.beta = 0.3},
                                             {.beta = 0.3, .label_smoothing = 0.2},
                                             {.form = PreferenceLoss::robust, .beta = 0.3, .label_smoothing = 0.2},
                                             {.form = PreferenceLoss::hinge, .beta = 0.3},
                                             {.form = PreferenceLoss::ipo, .beta = 0.3},
                                             {.form = PreferenceLoss::ipo, .beta = 0.3, .ipo_sum = true}};
  for (const DpoLossOptions& o : forms)
    for (const double shift : {-40.0, -3.0, 0.0, 0.7, 2.0, 40.0}) {
      INFO("form " << static_cast<int>(o.form) << ", smoothing " << o.label_smoothing << ", shift " << shift);
      CompletionLogProbs chosen{-9 + shift, -8, 3}, rejected{-6, -7, 5};
      const DpoLoss r = dpo_loss(chosen, rejected, o);
      const double h = 1e-4;
      const auto moved = [&](double by, double rejected_by) {
        CompletionLogProbs c = chosen, x = rejected;
        c.policy += by, x.policy += rejected_by;
        return dpo_loss(c, x, o).loss;
      };
      CHECK(r.chosen_slope == Approx((moved(h, 0) - moved(-h, 0)) / (2 * h)).epsilon(1e-7).margin(1e-8));
      CHECK(r.rejected_slope == Approx((moved(0, h) - moved(0, -h)) / (2 * h)).epsilon(1e-7).margin(1e-8));
    }
}

TEST_CASE("dpo loss: finite and exact far out") {
  const DpoLossOptions sigmoid{.beta = 1};
  CHECK(loss_of(-1e6, sigmoid) == 1e6);
  CHECK(loss_of(1e6, sigmoid) == 0);
  CHECK(loss_of(40, sigmoid) == Approx(std::exp(-40.0)).epsilon(1e-12));  // 1 + exp(-40) is 1
  CHECK(dpo_loss({-1e6, 0, 1}, {0, 0, 1}, sigmoid).chosen_slope == -1);
  CHECK(loss_of(1e6, {.form = PreferenceLoss::hinge, .beta = 1}) == 0);
}

TEST_CASE("dpo loss: numbers that make no loss are refused") {
  CHECK_THROWS_WITH((DpoLossOptions{.beta = 0}.check()), Catch::Contains("beta 0"));
  CHECK_THROWS_WITH((DpoLossOptions{.beta = NAN}.check()), Catch::Contains("beta nan"));
  CHECK_THROWS_WITH((DpoLossOptions{.label_smoothing = 0.5}.check()), Catch::Contains("below 0.5"));
  CHECK_THROWS_WITH((DpoLossOptions{.form = PreferenceLoss::hinge, .label_smoothing = 0.1}.check()), Catch::Contains("sigmoid and robust"));
  CHECK_THROWS_WITH((DpoLossOptions{.ipo_sum = true}.check()), Catch::Contains("ipo"));
  CHECK_THROWS_WITH(preference_loss_named("logistic"), Catch::Contains("sigmoid, robust, hinge or ipo"));
}

#include "train/dpo_loss.h"

#include <algorithm>
#include <string>

#include "tensor/error.h"
#include "tensor/math.h"

namespace facet {

PreferenceLoss preference_loss_named(std::string_view name) {
  if (name == "sigmoid") return PreferenceLoss::sigmoid;
  if (name == "robust") return PreferenceLoss::robust;
  if (name == "hinge") return PreferenceLoss::hinge;
  if (name == "ipo") return PreferenceLoss::ipo;
  fail(Kind::usage, "preference loss \"{}\" is unknown; expected sigmoid, robust, hinge or ipo", std::string(name));
}

void DpoLossOptions::check() const {
  if (!(beta > 0)) fail(Kind::usage, "beta {}: must be greater than 0; it scales how far the policy may leave the reference", beta);
  if (!(label_smoothing >= 0 && label_smoothing < 0.5))
    fail(Kind::usage, "label smoothing {}: must be at least 0 and below 0.5; at one half the labels say nothing", label_smoothing);
  if (label_smoothing > 0 && form != PreferenceLoss::sigmoid && form != PreferenceLoss::robust)
    fail(Kind::usage, "label smoothing is for the losses sigmoid and robust");
  if (ipo_sum && form != PreferenceLoss::ipo) fail(Kind::usage, "sums instead of means (ipo-sum) are a matter of the loss ipo; the others take sums anyway");
}

DpoLoss dpo_loss(const CompletionLogProbs& chosen, const CompletionLogProbs& rejected, const DpoLossOptions& o) {
  const bool means = o.form == PreferenceLoss::ipo && !o.ipo_sum;
  const double of_chosen = means ? 1.0 / static_cast<double>(chosen.tokens) : 1.0;
  const double of_rejected = means ? 1.0 / static_cast<double>(rejected.tokens) : 1.0;
  const double d = (chosen.policy - chosen.reference) * of_chosen - (rejected.policy - rejected.reference) * of_rejected;
  const double x = o.beta * d, e = o.label_smoothing;

  DpoLoss r;
  double slope = 0;  // d loss / d d
  switch (o.form) {
    case PreferenceLoss::sigmoid:
      r.loss = -(1 - e) * math::log_sigmoid(x) - e * math::log_sigmoid(-x);
      slope = o.beta * (e * math::sigmoid(x) - (1 - e) * math::sigmoid(-x));
      break;
    case PreferenceLoss::robust:
      r.loss = (-(1 - e) * math::log_sigmoid(x) + e * math::log_sigmoid(-x)) / (1 - 2 * e);
      slope = -o.beta * ((1 - e) * math::sigmoid(-x) + e * math::sigmoid(x)) / (1 - 2 * e);
      break;
    case PreferenceLoss::hinge:
      r.loss = std::max(0.0, 1 - x);
      slope = x < 1 ? -o.beta : 0;
      break;
    case PreferenceLoss::ipo: {
      const double off = d - 1 / (2 * o.beta);
      r.loss = off * off;
      slope = 2 * off;
      break;
    }
  }
  r.chosen_slope = slope * of_chosen;
  r.rejected_slope = -slope * of_rejected;
  r.chosen_reward = o.beta * (chosen.policy - chosen.reference);
  r.rejected_reward = o.beta * (rejected.policy - rejected.reference);
  return r;
}

}  // namespace facet

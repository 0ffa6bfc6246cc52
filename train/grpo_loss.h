// The arithmetic of GRPO apart from any model, in f64: rewards -> advantages, and one sampled token -> its loss and derivative (a formula
// of tensor/kernels/row_losses.h, where the kernels of all devices find it).
//
//   advantage  A_i = (r_i - mean of its group) / (s + 1e-4), s the standard deviation (n - 1) of the group, of the whole batch, or
//              absent (Liu et al. 2025, "Dr. GRPO": division by s favours questions that are too easy or too hard)
//   ratio      w_t = exp(log p(t) - log p_old(t)), p_old the policy that sampled; or, per sequence, the exponential of the mean log
//              ratio (Zheng et al. 2025, GSPO)
//   surrogate  L_t = -min(w A, clip(w, 1 - low, 1 + high) A)                        (PPO; low < high is DAPO's "clip higher")
//              cispo: L_t = -min(w, high) A log p(t), the weight held constant        (MiniMax-M1)
//   KL         + kl * (exp(d) - d - 1), d = log p_ref(t) - log p(t)                  (Schulman's k3)
//
// A step's loss is the sum over its tokens of token_weight * L_t, so that micro-batches add up however a step is cut:
//   grpo      1 / (sequences * own length)       the mean over sequences of the mean over tokens: long answers weigh less per token
//   dapo      1 / tokens of the step             every token weighs the same
//   bnpo      the same as dapo here: TRL divides by the tokens of a micro-batch, and ours must not depend on the cut
//   dr_grpo   1 / (sequences * longest allowed)  a constant: no bias from length at all
//   cispo     as dapo
// Names, constants and the golden numbers are those of TRL's GRPOTrainer.
#pragma once
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "tensor/kernels/row_losses.h"

namespace facet {

enum class RewardScale : uint8_t { group, batch, none };

struct Advantages {
  std::vector<double> of;     ///< one per reward; 0 for excluded rows and in flat groups
  std::vector<uint8_t> flat;  ///< one per group: its rewards do not differ (standard deviation below 1e-6), nothing to learn
  double mean = 0, std = 0;   ///< of all rewards that count
  int64_t counted = 0;        ///< rewards that count
};
/// rewards: group after group, `group` each. NaN marks an excluded row: it counts in no mean and no deviation.
Advantages advantages(std::span<const double> rewards, int64_t group, RewardScale);

enum class PolicyLoss : uint8_t { grpo, bnpo, dr_grpo, dapo, cispo };

struct PolicyOptions {
  PolicyLoss loss = PolicyLoss::dapo;
  double clip_low = 0.2, clip_high = 0.2;  ///< the ratio may leave [1 - low, 1 + high] only where that costs; cispo: w <= high
  double delta = std::numeric_limits<double>::infinity();  ///< the unclipped ratio's bound (two-sided clip of INTELLECT-2)
  double kl = 0;                ///< weight of the KL to the reference; 0: the reference is not looked at
  bool sequence_ratio = false;  ///< one ratio per completion
};

/// What the formula of tensor/kernels/row_losses.h looks at.
PolicyForm form_of(const PolicyOptions&);
/// `log_ratio` is log_prob - old, or its mean over the sequence: every token of a sequence weighs the same, so the derivative with
/// respect to each token's log-probability reads the same in both cases.
inline PolicyTerm policy_term(const PolicyOptions& o, double advantage, double log_prob, double log_ratio, double reference) {
  return policy_term(form_of(o), advantage, log_prob, log_ratio, reference);
}

/// `length` of the token's own completion (masked tokens not counted), `sequences` and `tokens` of the whole step, `max_length`
/// a completion may have.
double token_weight(PolicyLoss, int64_t length, int64_t sequences, int64_t tokens, int64_t max_length);

}  // namespace facet

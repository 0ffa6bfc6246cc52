// Direct preference optimisation: the loss of one pair of completions to the same prompt, chosen and rejected, from the
// log-probabilities that the policy and the reference give them. Plain f64; knows neither model nor tape.
//
//   pi, ref     log-probability of a completion: the SUM over its learned tokens
//   d           = (pi_chosen - ref_chosen) - (pi_rejected - ref_rejected)
//   reward      = beta (pi - ref);  margin = beta d;  a pair is right when the chosen reward is the greater
//
//   sigmoid     -(1-e) log s(beta d) - e log s(-beta d)                  Rafailov et al. 2023, eq. 7; with e > 0 "conservative DPO"
//   robust      [-(1-e) log s(beta d) + e log s(-beta d)] / (1 - 2e)     Chowdhury et al. 2024: unbiased when a share e is mislabelled
//   hinge       max(0, 1 - beta d)                                       Zhao et al. 2023 (SLiC)
//   ipo         (d - 1 / (2 beta))^2                                     Azar et al. 2023, eq. 17
//
// Where papers and TRL 1.x differ:
//   - TRL's sigmoid ignores label_smoothing; here it is the conservative loss of the paper's authors (at e = 0 the same number).
//   - TRL's ipo takes the MEAN log-probability of a completion's tokens in d; the paper the sum. `ipo` is TRL's, `ipo_sum` the
//     paper's. Rewards, and with them margin and accuracy, are of the sums in both, as in TRL.
#pragma once
#include <cstdint>
#include <string_view>

namespace facet {

enum class PreferenceLoss : uint8_t { sigmoid, robust, hinge, ipo };

/// The loss of that name; throws Error(Kind::usage) listing the names.
PreferenceLoss preference_loss_named(std::string_view name);

struct DpoLossOptions {
  PreferenceLoss form = PreferenceLoss::sigmoid;
  double beta = 0.1;
  double label_smoothing = 0;  ///< e, the share of pairs taken to be mislabelled; sigmoid and robust, in [0, 0.5)
  bool ipo_sum = false;

  /// Throws Error(Kind::usage) when the numbers make no loss.
  void check() const;
};

/// One completion: the sums of its tokens' log-probabilities, and how many tokens they are of.
struct CompletionLogProbs {
  double policy = 0, reference = 0;
  int64_t tokens = 0;
};

struct DpoLoss {
  double loss = 0;
  /// d loss / d (log-probability of one token): the same for all tokens of a completion, 0 for the reference.
  double chosen_slope = 0, rejected_slope = 0;
  double chosen_reward = 0, rejected_reward = 0;
  double margin() const { return chosen_reward - rejected_reward; }
  bool right() const { return chosen_reward > rejected_reward; }
};

DpoLoss dpo_loss(const CompletionLogProbs& chosen, const CompletionLogProbs& rejected, const DpoLossOptions&);

}  // namespace facet

#include "train/grpo_guard.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace facet {
namespace {

constexpr double least_entropy = 0.01, most_kl = 10, fall = 0.2;  // nats per token, nats per completion, share of the best reward
constexpr int64_t certain_for = 50, far_for = 5;                  // steps in a row: one batch may be odd
// Without differences there is no gradient that could undo a fall; a task that is merely hard has never been much better.
constexpr double most_silent = 0.9, deep_fall = 0.5;  // share of groups, share of the best reward
constexpr int64_t silent_for = 20;
constexpr double memory = 0.9;                                    // of the running mean: about the last ten steps

}  // namespace

std::string GrpoGuard::check(double step_reward, double entropy, double kl, std::optional<double> zero_std) {
  reward = steps == 0 ? step_reward : memory * reward + (1 - memory) * step_reward;
  best = steps == 0 ? reward : std::max(best, reward);
  ++steps;
  certain = entropy < least_entropy ? certain + 1 : 0;
  far = kl > most_kl ? far + 1 : 0;
  if (zero_std) silent = *zero_std >= most_silent ? silent + 1 : 0;
  if (far >= far_for)
    return fmt::format("{:.3g} nats of KL per completion, above {} for {} steps: the policy has left its reference; lower --lr, or raise --kl", kl,
                       most_kl, far);
  if (certain >= certain_for && reward < best - fall * std::abs(best))
    return fmt::format("{:.2g} nats of entropy per token, below {} for {} steps, and the mean reward fell from {:.3g} to {:.3g}: the policy "
                       "collapsed; lower --lr, raise --clip-high or --temp, or go back to an earlier checkpoint",
                       entropy, least_entropy, certain, best, reward);
  if (zero_std && silent >= silent_for && reward < best - deep_fall * std::abs(best))
    return fmt::format("the mean reward fell from {:.3g} to {:.3g}, and for {} rollouts nearly all answers to a question were worth the same: the policy "
                       "collapsed and has nothing to learn from; lower --lr or --clip-high, or go back to an earlier checkpoint",
                       best, reward, silent);
  return {};
}

}  // namespace facet

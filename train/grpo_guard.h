// When reinforcement learning is lost. A policy that is certain of everything has stopped exploring; whether that is a collapse or a solved
// task, the reward tells. A policy far from where it started has usually found a hole in the reward. And one whose answers are all worth the
// same, and less than they were, has nothing left to learn from.
#pragma once
#include <cstdint>
#include <optional>
#include <string>

namespace facet {

struct GrpoGuard {
  // What a resumed run goes on with.
  double reward = 0, best = 0;  ///< running mean of the reward, and its largest value so far
  int64_t steps = 0;            ///< seen
  int64_t certain = 0, far = 0; ///< steps in a row with hardly any entropy, with too much KL
  int64_t silent = 0;           ///< rollouts in a row in which hardly any group's rewards differed

  /// Looks at a step: mean reward, nats of entropy per token, nats of KL per completion and, at a rollout's first step, the share of groups
  /// whose rewards are all the same. Why the run should stop, or "".
  std::string check(double reward, double entropy, double kl, std::optional<double> zero_std = {});
};

}  // namespace facet

#include "train/grpo_loss.h"

#include <algorithm>
#include <cmath>

namespace facet {
namespace {

constexpr double flat_below = 1e-6, std_floor = 1e-4;

struct Moments {
  int64_t n = 0;
  double mean = 0, std = 0;  // std: n - 1; 0 for fewer than two
};

Moments moments(std::span<const double> x) {
  Moments m;
  for (const double v : x)
    if (!std::isnan(v)) m.mean += v, ++m.n;
  if (m.n > 0) m.mean /= static_cast<double>(m.n);
  double squares = 0;
  for (const double v : x)
    if (!std::isnan(v)) squares += (v - m.mean) * (v - m.mean);
  if (m.n > 1) m.std = std::sqrt(squares / static_cast<double>(m.n - 1));
  return m;
}

}  // namespace

Advantages advantages(std::span<const double> rewards, int64_t group, RewardScale scale) {
  const Moments all = moments(rewards);
  Advantages a{std::vector<double>(rewards.size(), 0.0), {}, all.mean, all.std, all.n};
  const auto G = static_cast<size_t>(group);
  for (size_t begin = 0; begin < rewards.size(); begin += G) {
    const Moments own = moments(rewards.subspan(begin, G));
    a.flat.push_back(own.std < flat_below);
    if (a.flat.back()) continue;
    const double divisor = scale == RewardScale::none ? 1 : (scale == RewardScale::group ? own.std : all.std) + std_floor;
    for (size_t i = begin; i < begin + G; ++i)
      if (!std::isnan(rewards[i])) a.of[i] = (rewards[i] - own.mean) / divisor;
  }
  return a;
}

PolicyForm form_of(const PolicyOptions& o) { return {o.loss == PolicyLoss::cispo, o.clip_low, o.clip_high, o.delta, o.kl}; }

double token_weight(PolicyLoss loss, int64_t length, int64_t sequences, int64_t tokens, int64_t max_length) {
  switch (loss) {
    case PolicyLoss::grpo: return 1 / (static_cast<double>(sequences) * static_cast<double>(std::max<int64_t>(1, length)));
    case PolicyLoss::dr_grpo: return 1 / (static_cast<double>(sequences) * static_cast<double>(max_length));
    default: return 1 / static_cast<double>(std::max<int64_t>(1, tokens));
  }
}

}  // namespace facet

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

PolicyTerm policy_term(const PolicyOptions& o, double advantage, double log_prob, double log_ratio, double reference) {
  PolicyTerm t;
  t.ratio = std::exp(log_ratio);
  if (o.loss == PolicyLoss::cispo) {
    t.high = t.ratio > o.clip_high && advantage > 0;
    const double weight = std::min(t.ratio, o.clip_high);
    t.loss = -weight * advantage * log_prob;
    t.d_log_prob = -weight * advantage;
  } else {
    const double clipped = std::clamp(t.ratio, 1 - o.clip_low, 1 + o.clip_high), bounded = std::min(t.ratio, o.delta);
    const double gain = std::min(bounded * advantage, clipped * advantage);
    const bool moves = gain == t.ratio * advantage;  // the branch that was taken follows the ratio
    t.low = t.ratio < 1 - o.clip_low && advantage < 0;
    t.high = t.ratio > 1 + o.clip_high && advantage > 0;
    t.loss = -gain;
    t.d_log_prob = moves ? -t.ratio * advantage : 0;
  }
  if (o.kl > 0) {
    const double d = reference - log_prob;
    t.kl = std::exp(d) - d - 1;
    t.loss += o.kl * t.kl;
    t.d_log_prob += o.kl * (1 - std::exp(d));
  }
  return t;
}

double token_weight(PolicyLoss loss, int64_t length, int64_t sequences, int64_t tokens, int64_t max_length) {
  switch (loss) {
    case PolicyLoss::grpo: return 1 / (static_cast<double>(sequences) * static_cast<double>(std::max<int64_t>(1, length)));
    case PolicyLoss::dr_grpo: return 1 / (static_cast<double>(sequences) * static_cast<double>(max_length));
    default: return 1 / static_cast<double>(std::max<int64_t>(1, tokens));
  }
}

}  // namespace facet

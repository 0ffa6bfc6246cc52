// row_losses: losses of single rows of logits, from the statistics of kernels/logit_rows.h to the coefficients of the rows' gradients, in
// place. What a loss needs to know of a row, and what it answers, lies in windows beside the statistics, row by row.
//
//   cross_entropy_rows   L = w ((1 - e) (lse - z_y) + e (lse - mean) + z lse^2), e label smoothing, z the weight of the squared lse
//   log_prob_rows        log p = z_y - lse; its gradient from that of the log-probabilities
//   policy_rows          one sampled token of a policy gradient, by policy_term()
//
// stats [C, 4 or more] of f32 (f64 on the CPU too), rows dense; what lies beside them is dense, f64 unless a line says otherwise. The arithmetic of
// a row is f64 and written once here. `scale`: that of logit_stats. Results are written, not added.
#pragma once
#include <limits>

#include "tensor/kernels/door.h"
#include "tensor/math.h"
#include "tensor/view.h"

namespace facet {

/// What a loss sees of a row.
struct LogitRow {
  double lse;    ///< log sum_v exp(z_v)
  double label;  ///< z of the label; label - lse is the log-probability
  double mean;   ///< of z over the vocabulary; 0 unless asked for
};
/// Its derivatives.
struct RowGrad {
  double lse = 0, label = 0, mean = 0;
};

template <class A>
FACET_INLINE LogitRow row_of_stats(const A* s) {
  return {static_cast<double>(s[0]) + math::log(static_cast<double>(s[1])), static_cast<double>(s[2]), static_cast<double>(s[3])};
}
/// stats become the coefficients of logit_grad; the maximum stays.
template <class A>
FACET_INLINE void write_coefficients(const RowGrad& g, double scale, int64_t words, A* s) {
  s[1] = static_cast<A>(scale * g.lse / static_cast<double>(s[1]));
  s[2] = static_cast<A>(scale * g.label);
  s[3] = static_cast<A>(scale * g.mean / static_cast<double>(words));
}

struct CrossEntropyForm {
  double label_smoothing = 0, z_loss = 0;
  int64_t words = 1;  ///< V
};
FACET_INLINE RowGrad cross_entropy_row(const CrossEntropyForm& f, const LogitRow& z, double weight, double dy, double& loss) {
  const double e = f.label_smoothing;
  loss = weight * ((1 - e) * (z.lse - z.label) + e * (z.lse - z.mean) + f.z_loss * z.lse * z.lse);
  return {dy * weight * (1 + 2 * f.z_loss * z.lse), -dy * weight * (1 - e), -dy * weight * e};
}

/// train/grpo_loss.h tells what these mean.
struct PolicyForm {
  bool cispo = false;
  double clip_low = 0.2, clip_high = 0.2, delta = std::numeric_limits<double>::infinity(), kl = 0;
};
struct PolicyTerm {
  double loss = 0;
  double d_log_prob = 0;           ///< dL_t / d log p(t)
  double ratio = 1, kl = 0;        ///< kl: the k3 estimate itself, without its weight
  bool low = false, high = false;  ///< the clip took the gradient away, below or above
};
FACET_INLINE PolicyTerm policy_term(const PolicyForm& o, double advantage, double log_prob, double log_ratio, double reference) {
  const auto least = [](double a, double b) { return b < a ? b : a; };
  PolicyTerm t;
  t.ratio = math::exp(log_ratio);
  if (o.cispo) {
    t.high = t.ratio > o.clip_high && advantage > 0;
    const double weight = least(t.ratio, o.clip_high);
    t.loss = -weight * advantage * log_prob;
    t.d_log_prob = -weight * advantage;
  } else {
    const double low = 1 - o.clip_low, high = 1 + o.clip_high;
    const double clipped = t.ratio < low ? low : t.ratio > high ? high : t.ratio, bounded = least(t.ratio, o.delta);
    const double gain = least(bounded * advantage, clipped * advantage);
    const bool moves = gain == t.ratio * advantage;  // the branch that was taken follows the ratio
    t.low = t.ratio < low && advantage < 0;
    t.high = t.ratio > high && advantage > 0;
    t.loss = -gain;
    t.d_log_prob = moves ? -t.ratio * advantage : 0;
  }
  if (o.kl > 0) {
    const double d = reference - log_prob;
    t.kl = math::exp(d) - d - 1;
    t.loss += o.kl * t.kl;
    t.d_log_prob += o.kl * (1 - math::exp(d));
  }
  return t;
}

/// What is known of a token before the pass, and what the pass puts in its place: the columns of policy_rows' `tokens`.
struct PolicyToken {
  double advantage, weight;  ///< weight: of the token in the step's loss
  double old;                ///< log-probability when it was sampled
  double log_ratio;          ///< of its whole sequence; NaN: the token's own
  double reference;          ///< log-probability under the reference
  double unused = 0;
};
struct PolicyResult {
  double loss;       ///< weighted
  double ratio, kl;
  double own;        ///< its own log ratio, of f32 numbers on both sides, so that equal ones give exactly 0
  double low, high;  ///< 0 or 1
};
static_assert(sizeof(PolicyToken) == 6 * sizeof(double) && sizeof(PolicyResult) == sizeof(PolicyToken));
FACET_INLINE RowGrad policy_row(const PolicyForm& f, const LogitRow& z, double* token) {
  PolicyToken t;
  __builtin_memcpy(static_cast<void*>(&t), token, sizeof t);
  const double log_prob = z.label - z.lse, own = static_cast<double>(static_cast<float>(log_prob)) - t.old;
  const PolicyTerm p = policy_term(f, t.advantage, log_prob, t.log_ratio == t.log_ratio ? t.log_ratio : own, t.reference);
  const PolicyResult r{t.weight * p.loss, p.ratio, p.kl, own, p.low ? 1.0 : 0.0, p.high ? 1.0 : 0.0};
  __builtin_memcpy(token, &r, sizeof r);
  const double d = t.weight * p.d_log_prob;
  return {-d, d, 0};
}

namespace cpu {
/// weights [C], absent: 1. dy one number, f32 or f64, absent: 1. losses [C], may be the window of the weights.
void cross_entropy_rows(Out stats, View weights, View dy, const CrossEntropyForm&, double scale, Out losses);
/// Row r of the statistics is row rows[r] (i32 [C], absent: r) of dy [N], f32 or f64, absent: no coefficients, and of log_probs [N], f32 or f64,
/// absent: not told. rows[r] = -1: dy is 0, and nothing is told.
void log_prob_rows(Out stats, View rows, View dy, double scale, Out log_probs);
/// tokens [C, 6]: PolicyToken, replaced by PolicyResult.
void policy_rows(Out stats, Out tokens, const PolicyForm&, double scale);
}  // namespace cpu
namespace gpu {
void cross_entropy_rows(Out stats, View weights, View dy, const CrossEntropyForm&, double scale, Out losses);
void log_prob_rows(Out stats, View rows, View dy, double scale, Out log_probs);
void policy_rows(Out stats, Out tokens, const PolicyForm&, double scale);
}  // namespace gpu
FACET_INLINE void cross_entropy_rows(Out stats, View weights, View dy, const CrossEntropyForm& form, double scale, Out losses) {
  on_gpu_any_dtype("cross_entropy_rows", stats, weights, dy, losses) ? gpu::cross_entropy_rows(stats, weights, dy, form, scale, losses)
                                                                     : cpu::cross_entropy_rows(stats, weights, dy, form, scale, losses);
}
FACET_INLINE void log_prob_rows(Out stats, View rows, View dy, double scale, Out log_probs) {
  on_gpu_any_dtype("log_prob_rows", stats, rows, dy, log_probs) ? gpu::log_prob_rows(stats, rows, dy, scale, log_probs)
                                                                : cpu::log_prob_rows(stats, rows, dy, scale, log_probs);
}
FACET_INLINE void policy_rows(Out stats, Out tokens, const PolicyForm& form, double scale) {
  on_gpu_any_dtype("policy_rows", stats, tokens) ? gpu::policy_rows(stats, tokens, form, scale) : cpu::policy_rows(stats, tokens, form, scale);
}
}  // namespace facet

// ---
// jupyter:
//   jupytext:
//     text_representation:
//       extension: .cpp
//       format_name: percent
//   kernelspec:
//     display_name: C++20
//     language: C++20
//     name: xcpp20
// ---

// %% [markdown]
// # 12 · GRPO
//
// A demonstration says what to do. A *verifier* says only how well it went, after the fact: the sum is right, the
// program passes its tests. To learn from that, a model has to try, and make likelier what went well. GRPO (Shao et
// al. 2024) is the plainest method that works on language models: ask each question several times, compare the
// answers with each other, and follow the policy gradient, with a seat belt.
//
// We build it from the ground: one choice among five, where every expectation can be computed by adding up all that
// can happen, and nothing has to be believed. Then a small model learns to put letters in order from nothing but
// "right" and "wrong"; and we break it. Each claim is checked when the lesson runs.

// %%
#include <algorithm>
#include <cmath>
#include <functional>
#include <iostream>
#include <memory>
#include <numeric>

#include "autograd/ops.h"
#include "data/loader.h"
#include "data/make_tokenizer.h"
#include "notebooks-cpp/nb.hpp"
#include "notebooks-cpp/small_gemma.h"
#include "optim/adamw.h"
#include "optim/clip.h"
#include "tensor/parallel.h"
#include "train/grpo.h"

using namespace facet;

// %% [markdown]
// A distribution over five answers is `softmax` of five logits. What follows is the arithmetic of such distributions;
// an `Estimate` is what one knows of a random vector: its mean, and its variance (summed over the components).

// %%
using Numbers = std::vector<double>;

Numbers softmax_of(const Numbers& logits) { return softmax(Tensor::from(logits, {std::ssize(logits)})).to_vector(); }
double mean_of(const Numbers& p, const Numbers& f) { return std::inner_product(p.begin(), p.end(), f.begin(), 0.0); }
double largest_difference(const Numbers& a, const Numbers& b) {
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(a[i] - b[i]));
  return worst;
}
double entropy_of(const Numbers& p) {
  double sum = 0;
  for (double x : p) sum -= x > 0 ? x * std::log(x) : 0;
  return sum;
}
size_t drawn(const Numbers& p, double u) {  // the answer under u, with answers along [0, 1)
  size_t i = 0;
  for (double below = p[0]; i + 1 < p.size() && u >= below; below += p[++i]) {}
  return i;
}

struct Estimate {
  Numbers mean;
  double variance = 0;
};
// Of an estimator that sees `draws` independent answers, by adding up every way that they can come out.
Estimate enumerate(const Numbers& p, int draws, const std::function<Numbers(const std::vector<size_t>&)>& estimator) {
  Estimate e{Numbers(p.size(), 0), 0};
  double squares = 0;
  std::vector<size_t> answers(draws, 0);
  for (bool more = true; more;) {
    double probability = 1;
    for (size_t a : answers) probability *= p[a];
    const Numbers g = estimator(answers);
    for (size_t i = 0; i < g.size(); ++i) e.mean[i] += probability * g[i], squares += probability * g[i] * g[i];
    more = false;
    for (size_t& a : answers) {  // count up in base K
      if (++a < p.size()) {
        more = true;
        break;
      }
      a = 0;
    }
  }
  e.variance = squares - mean_of(e.mean, e.mean);
  return e;
}

// %% [markdown]
// The model, for later: a Gemma of two layers.

// %%
std::unique_ptr<Gemma> new_model(int64_t vocab, uint64_t seed) {
  auto model = std::make_unique<Gemma>(nb::small_gemma(vocab));
  model->init(key(seed));
  model->to(nb::device());
  return model;
}

// %% active="cpp"
int main(int argc, char** argv) {
nb::start(argc, argv);

// %% [markdown]
// ## The gradient of an expectation
//
// Five answers with rewards `r`, a policy `p = softmax(θ)`. What we want to climb is the mean reward `J = Σ p_i r_i`.
// Its gradient, when we know all rewards, is a sum over all answers; the tape agrees:
//
// ```text
// dJ/dθ_i = p_i (r_i - J)
// ```

// %%
NB_CELL
set_threads(1);  // everything here is small
const Numbers r{0.1, 0.2, 0.9, 0.4, 0.6}, theta{0.8, 0.5, -0.5, 0.3, 0.0};
const size_t K = r.size();
const Numbers p = softmax_of(theta);
const double J = mean_of(p, r);
Numbers gradient(K);
for (size_t i = 0; i < K; ++i) gradient[i] = p[i] * (r[i] - J);

const Tensor logits = leaf(Tensor::from(theta, {5}));
backward(sum(softmax(logits) * Tensor::from(r, {5})));
fmt::print("J = {:.4f}   gradient {:.4f}\n", J, fmt::join(gradient, "  "));
nb::check(largest_difference(grad_of(logits).to_vector(), gradient) < 1e-15, "the tape finds p (r - J)");

// %% [markdown]
// A language model has more answers than atoms to write them on, and a verifier is no function one could
// differentiate. But the gradient of a probability is the probability times the gradient of its logarithm, and so the
// sum over all answers becomes a mean over answers *drawn from the policy itself*:
//
// ```text
// dJ = Σ dp_i r_i = Σ p_i (d log p_i) r_i = E[ r_a · d log p_a ]
// ```
//
// This is REINFORCE (Williams 1992): draw an answer, multiply the gradient of its log-probability by its reward. For
// a softmax `d log p_a / dθ = e_a - p`. One draw is a poor estimate, but its mean is exact: add up all five cases.

// %%
NB_CELL
const auto score = [&](size_t a) {  // d log p_a / dθ
  Numbers s(K);
  for (size_t i = 0; i < K; ++i) s[i] = (i == a) - p[i];
  return s;
};
const auto reinforce = [&](const Numbers& rewards, double baseline) {
  return [&, rewards, baseline](const std::vector<size_t>& answers) {
    Numbers g = score(answers[0]);
    for (double& x : g) x *= rewards[answers[0]] - baseline;
    return g;
  };
};
const Estimate plain = enumerate(p, 1, reinforce(r, 0));

Numbers sampled_mean(K, 0);
const int draws = 20000;
double sampled_squares = 0;
for (uint32_t n = 0; n < draws; ++n) {
  const Numbers g = reinforce(r, 0)({drawn(p, uniform(fold_in(key(1), n)))});
  for (size_t i = 0; i < K; ++i) sampled_mean[i] += g[i] / draws;
  sampled_squares += mean_of(g, g) / draws;
}
const double sampled_variance = sampled_squares - mean_of(sampled_mean, sampled_mean);
fmt::print("variance of one draw {:.4f} by enumeration, {:.4f} measured on {} draws; |gradient|² is {:.4f}\n",
           plain.variance, sampled_variance, draws, mean_of(gradient, gradient));
nb::check(largest_difference(plain.mean, gradient) < 1e-15, "the mean of the estimate is the gradient, exactly");
nb::check(std::abs(sampled_variance / plain.variance - 1) < 0.1, "drawing agrees with adding up");
nb::check(plain.variance > 4 * mean_of(gradient, gradient), "the noise of one draw is far larger than the gradient");

// %% [markdown]
// ## A baseline
//
// The mean of `e_a - p` is zero, so any constant may be taken off the reward without changing the mean of the
// estimate. The *variance* it changes a lot: it is a parabola in the baseline `b`. Without a baseline, an answer is
// pushed up for being rewarded at all; with one, for being better than usual. Add 10 to every reward, which changes
// nothing in the problem, and see what happens to who has no baseline.

// %%
NB_CELL
nb::Curve variance_of{"variance of one draw", {}, {}};
double bias = 0;
for (double b = -1; b <= 2; b += 0.05) {
  const Estimate e = enumerate(p, 1, reinforce(r, b));
  variance_of.x.push_back(b);
  variance_of.y.push_back(e.variance);
  bias = std::max(bias, largest_difference(e.mean, gradient));
}
nb::plot({variance_of, {"mean reward", {J}, {enumerate(p, 1, reinforce(r, J)).variance}, true}},
         {"Variance and baseline", "baseline b", ""});

Numbers raised = r;
for (double& x : raised) x += 10;
const double with_mean = enumerate(p, 1, reinforce(r, J)).variance,
             raised_plain = enumerate(p, 1, reinforce(raised, 0)).variance,
             raised_mean = enumerate(p, 1, reinforce(raised, J + 10)).variance;
nb::table({"variance of one draw", "no baseline", "baseline: mean reward"},
          {{"r", fmt::format("{:.4f}", plain.variance), fmt::format("{:.4f}", with_mean)},
           {"r + 10", fmt::format("{:.4f}", raised_plain), fmt::format("{:.4f}", raised_mean)}});
nb::check(bias < 1e-15, "no baseline changes the mean of the estimate");
nb::check(with_mean < 0.6 * plain.variance, "the mean reward as baseline takes half of the variance away");
nb::check(raised_plain > 100 * plain.variance && std::abs(raised_mean - with_mean) < 1e-9,
          "10 more for everybody: ruin without a baseline, nothing with one");

// %% [markdown]
// ## The group as its own baseline
//
// Where does a baseline come from, for a question never seen before? PPO trains a second network to guess it. GRPO asks
// the same question `G` times and takes the mean of the group:
//
// ```text
// A_i = r_i - mean(r_1 ... r_G)
// ```
//
// The mean contains `r_i` itself, so one worries about bias. By enumeration of all `5^G` groups: the estimate is
// exactly `1 - 1/G` times the gradient. It points in the right direction, a little short. (Leaving `r_i` out of its
// own baseline gives the same numbers times `G / (G-1)`.)

// %%
NB_CELL
const auto grouped = [&](bool baseline) {
  return [&, baseline](const std::vector<size_t>& answers) {
    Numbers rewards, g(K, 0);
    for (size_t a : answers) rewards.push_back(r[a]);
    const auto G = static_cast<int64_t>(rewards.size());
    if (baseline) rewards = advantages(rewards, G, RewardScale::none).of;  // the library's
    for (size_t n = 0; n < answers.size(); ++n) {
      const Numbers s = score(answers[n]);
      for (size_t i = 0; i < K; ++i) g[i] += rewards[n] * s[i] / static_cast<double>(G);
    }
    return g;
  };
};
std::vector<std::vector<std::string>> group_rows;
double shrink_error = 0, gain_of_4 = 0;
for (int G : {2, 3, 4, 5}) {
  const Estimate without = enumerate(p, G, grouped(false)), with = enumerate(p, G, grouped(true));
  const double shrink = 1 - 1.0 / G, corrected = with.variance / (shrink * shrink);
  for (size_t i = 0; i < K; ++i) shrink_error = std::max(shrink_error, std::abs(with.mean[i] - shrink * gradient[i]));
  if (G == 4) gain_of_4 = corrected / without.variance;
  group_rows.push_back({fmt::to_string(G), fmt::format("{:.4f}", without.variance), fmt::format("{:.4f}", corrected),
                        fmt::format("{:.2f}", shrink)});
}
nb::table({"G", "variance without baseline", "with the group's mean, to scale", "length of the mean"}, group_rows);
nb::check(shrink_error < 1e-15, "the group's mean shortens the gradient by 1 - 1/G and does not turn it");
nb::check(gain_of_4 < 0.8, "and lowers the variance, at equal length");

// %% [markdown]
// ## Learning rate and locking in
//
// Now follow the estimate. What is drawn and rewarded becomes likelier, is drawn more often, becomes likelier still.
// With small steps, better answers win this race. With large ones it is won by whoever is drawn first: the policy
// becomes *certain* of a mediocre answer, all draws are equal, all advantages are zero, and no gradient will ever
// lead out again. Many runs for each rate, groups of four, with the group's mean as baseline and without any.

// %%
NB_CELL
struct Ending {
  Numbers policy;
  std::string guard;  // the first thing that the library's guard said, if anything
  Numbers alarmed;    // the policy of that moment
};
const auto climb = [&](double rate, bool baseline, uint32_t seed) {
  Numbers logit = theta;
  Ending end;
  GrpoGuard guard;
  for (uint32_t step = 0; step < 300; ++step) {
    const Numbers policy = softmax_of(logit);
    std::vector<size_t> answers;
    Numbers a;
    for (uint32_t g = 0; g < 4; ++g) {
      answers.push_back(drawn(policy, uniform(fold_in(fold_in(key(seed), step), g))));
      a.push_back(r[answers.back()]);
    }
    if (baseline) a = advantages(a, 4, RewardScale::none).of;
    for (size_t n = 0; n < 4; ++n)
      for (size_t i = 0; i < K; ++i) logit[i] += rate * a[n] * ((i == answers[n]) - policy[i]) / 4;
    const std::string said = guard.check(mean_of(policy, r), entropy_of(policy), 0);
    if (end.guard.empty() && !said.empty()) end.guard = said, end.alarmed = policy;
  }
  end.policy = softmax_of(logit);
  return end;
};
const uint32_t runs = nb::quick() ? 50 : 200;
nb::Curve with_group{"with the group's mean", {}, {}}, without_group{"without a baseline", {}, {}};
std::vector<Ending> wild;  // the runs without a baseline at the largest rate
for (double rate : {1.0, 3.0, 10.0, 30.0, 100.0})
  for (bool baseline : {true, false}) {
    double best = 0;
    for (uint32_t n = 0; n < runs; ++n) {
      const Ending e = climb(rate, baseline, 1000 + n);
      best += (e.policy[2] > 0.5) / static_cast<double>(runs);
      if (rate == 100 && !baseline) wild.push_back(e);
    }
    nb::Curve& c = baseline ? with_group : without_group;
    c.x.push_back(rate), c.y.push_back(best);
  }
nb::plot({with_group, without_group},
         {"Share of runs that end at the best answer, after 300 steps", "learning rate", "", true});
fmt::print("best answer found, rate 1 to 100:  {:.2f} with the group's mean,  {:.2f} without\n",
           fmt::join(with_group.y, " "), fmt::join(without_group.y, " "));
nb::check(with_group.y[1] > 0.8, "with a small rate nearly every run finds the best answer");
nb::check(with_group.y[4] < with_group.y[1] - 0.15 && without_group.y[4] < 0.5, "with a large one it is luck");
nb::check(without_group.y[4] < with_group.y[4], "without a baseline even more so");

// %% [markdown]
// The library watches for this (`train/grpo_guard.h`): hardly any entropy for fifty steps **and** a reward that fell
// by a fifth from its best. Certainty alone is no alarm, since a solved task ends in certainty, too.

// %%
NB_CELL
int worse = 0, worse_said = 0, solved = 0, false_alarms = 0;
std::string message;
for (const Ending& e : wild) {
  solved += e.policy[2] > 0.999;
  false_alarms += !e.guard.empty() && e.alarmed[2] > 0.5;
  if (e.policy[0] > 0.999 || e.policy[1] > 0.999) {
    ++worse, worse_said += !e.guard.empty();
    if (message.empty()) message = e.guard;
  }
}
fmt::print(
    "certain of one of the two worst answers: {} runs, the guard spoke in {}\ncertain of the best answer: {} runs; "
    "false alarms: {}\n{}\n",
    worse, worse_said, solved, false_alarms, message);
nb::check(worse > 0 && worse_said == worse,
          "the guard speaks in every run that locked in on one of the two worst answers");
nb::check(solved > 0 && false_alarms == 0, "and never at a policy that has found the best");

// %% [markdown]
// ## Old samples: the ratio
//
// Answers are dear, so one uses them for more than one step. But then the policy `q` that learns is no longer the
// policy `p` that drew them. Weighting each answer by the **ratio** `w = q / p` mends the mean: `E_p[w r] = E_q[r]`.
// The price is variance, which grows fast as `q` moves away.

// %%
NB_CELL
nb::Curve ratio_spread{"standard deviation of w r", {}, {}}, largest_ratio{"largest w", {}, {}};
double importance_error = 0;
for (double moved = 0; moved <= 3; moved += 0.1) {
  Numbers there = theta;
  for (size_t i = 0; i < K; ++i) there[i] += moved * (r[i] - J) * 2;
  const Numbers q = softmax_of(there);
  double first = 0, second = 0, top = 0, kl = 0;
  for (size_t i = 0; i < K; ++i) {
    const double w = q[i] / p[i];
    first += p[i] * w * r[i];
    second += p[i] * w * w * r[i] * r[i];
    top = std::max(top, w);
    kl += q[i] * std::log(w);
  }
  importance_error = std::max(importance_error, std::abs(first - mean_of(q, r)));
  ratio_spread.x.push_back(kl), largest_ratio.x.push_back(kl);
  ratio_spread.y.push_back(std::sqrt(second - first * first)), largest_ratio.y.push_back(top);
}
nb::plot({ratio_spread, largest_ratio}, {"Importance weights", "KL(q | p), nats", ""});
nb::check(importance_error < 1e-15, "weighted by the ratio, old answers give the new policy's mean reward");
nb::check(ratio_spread.y.back() > 3 * ratio_spread.y.front(), "and the further the policy has gone, the noisier");

// %% [markdown]
// ## The clip
//
// PPO's answer: once the ratio has moved by `ε` in the direction that the advantage asks for, this answer has had its
// say.
//
// ```text
// L = -min( w A, clip(w, 1 - ε, 1 + ε) A )
// ```
//
// Mind what the `min` does. A good answer (`A > 0`) is not pushed any further above `1 + ε`; but when its ratio
// *fell*, it is pulled back however far. A bad one likewise, mirrored. At `w = 1`, before the first step, the clip is
// not there, and the slope is REINFORCE's `-A d log p`. `policy_term` is the library's, plain numbers:

// %%
NB_CELL
nb::Curve good{"good answer, A = 1", {}, {}}, bad{"bad answer, A = -1", {}, {}}, good_slope = good, bad_slope = bad;
const PolicyOptions clip;  // 0.2 on both sides
double slope_error = 0;
for (double w = 0.4; w <= 1.7; w += 0.01) {
  const auto loss = [&](double a, double log_w) { return policy_term(clip, a, log_w, log_w, 0).loss; };
  for (double a : {1.0, -1.0}) {
    const PolicyTerm t = policy_term(clip, a, std::log(w), std::log(w), 0);
    (a > 0 ? good : bad).x.push_back(w), (a > 0 ? good : bad).y.push_back(t.loss);
    (a > 0 ? good_slope : bad_slope).x.push_back(w), (a > 0 ? good_slope : bad_slope).y.push_back(t.d_log_prob);
    const double h = 1e-6, measured = (loss(a, std::log(w) + h) - loss(a, std::log(w) - h)) / (2 * h);
    if (std::abs(w - 0.8) > 1e-3 && std::abs(w - 1.2) > 1e-3)
      slope_error = std::max(slope_error, std::abs(measured - t.d_log_prob));
  }
}
nb::plot({good, bad}, {"Clipped surrogate", "ratio w", "loss"});
nb::plot({good_slope, bad_slope}, {"Its slope: below zero pushes the answer up", "ratio w", "dL / d log p"});
const auto slope_at = [&](double a, double w) { return policy_term(clip, a, std::log(w), std::log(w), 0).d_log_prob; };
nb::check(slope_error < 1e-6, "the slope is the derivative of the loss");
nb::check(slope_at(0.7, 1) == -0.7 && slope_at(-0.7, 1) == 0.7,
          "at w = 1 it is -A: REINFORCE with the group's baseline");
nb::check(slope_at(1, 1.3) == 0 && slope_at(1, 0.5) < 0,
          "a good answer that rose is left alone, one that fell is pulled back");
nb::check(slope_at(-1, 0.7) == 0 && slope_at(-1, 1.5) > 0, "a bad one the other way round");

// %% [markdown]
// ## Staying near: three estimates of a KL
//
// To keep the policy `p` near a reference `ref`, one adds `KL(p | ref) = E_p[log p/ref]`, and it too must be estimated
// from drawn answers. With `x = ref/p` at the answer drawn (Schulman's names):
//
// ```text
// k1 = -log x        k2 = ½ (log x)²        k3 = x - 1 - log x
// ```
//
// `k1` is exact in the mean and often negative. `k3` adds `x - 1`, whose mean is zero: exact in the mean, never
// negative, and quieter. By enumeration, for references nearer and further away:

// %%
NB_CELL
nb::Curve k1_noise{"k1", {}, {}}, k2_noise{"k2", {}, {}}, k3_noise{"k3", {}, {}}, k2_bias{"k2", {}, {}};
double k1_error = 0, k3_error = 0, least_k3 = 1, quieter = 0;
const PolicyOptions with_kl{.kl = 1};
for (double away = 0.1; away <= 2.01; away += 0.1) {
  Numbers there = theta;
  const Numbers direction{-1, 0.5, 0.2, 0.8, -0.5};
  for (size_t i = 0; i < K; ++i) there[i] += away * direction[i];
  const Numbers ref = softmax_of(there);
  double kl = 0, k1 = 0, k2 = 0, k3 = 0, k1_square = 0, k2_square = 0, k3_square = 0;
  for (size_t i = 0; i < K; ++i) {
    const double log_x = std::log(ref[i] / p[i]), c1 = -log_x, c2 = log_x * log_x / 2;
    const double c3 = policy_term(with_kl, 0, std::log(p[i]), 0, std::log(ref[i])).kl;  // the library's
    kl += p[i] * (std::log(p[i]) - std::log(ref[i]));
    k1 += p[i] * c1, k2 += p[i] * c2, k3 += p[i] * c3;
    k1_square += p[i] * c1 * c1, k2_square += p[i] * c2 * c2, k3_square += p[i] * c3 * c3;
    least_k3 = std::min(least_k3, c3);
  }
  k1_error = std::max(k1_error, std::abs(k1 - kl));
  k3_error = std::max(k3_error, std::abs(k3 - kl));
  for (nb::Curve* c : {&k1_noise, &k2_noise, &k3_noise, &k2_bias}) c->x.push_back(kl);
  k1_noise.y.push_back(std::sqrt(k1_square - k1 * k1));
  k2_noise.y.push_back(std::sqrt(k2_square - k2 * k2));
  k3_noise.y.push_back(std::sqrt(k3_square - k3 * k3));
  k2_bias.y.push_back(k2 / kl);
  quieter = std::max(quieter, k3_noise.y.back() / k1_noise.y.back());
}
nb::plot({k1_noise, k2_noise, k3_noise}, {"Noise of one draw", "KL, nats", "standard deviation", true, true});
nb::check(k1_error < 1e-15 && k3_error < 1e-14, "k1 and k3 are the KL in the mean, exactly");
nb::check(std::abs(k2_bias.y.back() - 1) > 0.05, "k2 is not");
nb::check(least_k3 >= 0 && quieter < 1, "k3 is never negative and always quieter than k1");

// %% [markdown]
// One more thing that is often overlooked. GRPO puts `k3` into the loss and differentiates it at the drawn answer,
// which gives `(1 - x) d log p`. Right in the mean as a *value*, k3 is not right as a *gradient*: the mean of that
// slope is the gradient of `KL(ref | p)`, the other way round. Both vanish only at `p = ref`, so it holds the policy
// all the same.

// %%
NB_CELL
const Numbers other = softmax_of({0.0, 0.9, -0.2, 0.9, -0.4});
Numbers k3_gradient(K, 0), forward_kl(K), reverse_kl(K);  // with respect to θ
double kl_to_other = 0;
for (size_t i = 0; i < K; ++i) kl_to_other += p[i] * std::log(p[i] / other[i]);
for (size_t a = 0; a < K; ++a) {
  const double slope = policy_term(with_kl, 0, std::log(p[a]), 0, std::log(other[a])).d_log_prob;
  const Numbers s = score(a);
  for (size_t i = 0; i < K; ++i) k3_gradient[i] += p[a] * slope * s[i];
}
for (size_t i = 0; i < K; ++i) {
  reverse_kl[i] = p[i] - other[i];                                   // of KL(other | p)
  forward_kl[i] = p[i] * (std::log(p[i] / other[i]) - kl_to_other);  // of KL(p | other)
}
nb::check(largest_difference(k3_gradient, reverse_kl) < 1e-15, "the mean slope of k3 is the gradient of KL(ref | p)");
nb::check(largest_difference(k3_gradient, forward_kl) > 0.01, "not that of KL(p | ref)");

// %% [markdown]
// ## Easy and hard questions
//
// Rewards are often 0 or 1. For a question that succeeds with probability `p`, how loudly does its group speak?
// Original GRPO divides the advantages by the group's standard deviation (`--scale group`); Dr. GRPO (Liu et al.
// 2025) does not (`--scale none`). Add up all groups of eight, with the library's `advantages`:

// %%
NB_CELL
const std::vector<double> chances{0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99};
const auto loudness = [](double chance, RewardScale scale) {  // mean of Σ|A| / G over groups of eight
  double mean = 0, ways = 1;
  for (int right = 0; right <= 8; ++right) {
    Numbers rewards(8, 0);
    std::fill_n(rewards.begin(), right, 1);
    double all = 0;
    for (double a : advantages(rewards, 8, scale).of) all += std::abs(a) / 8;
    mean += ways * std::pow(chance, right) * std::pow(1 - chance, 8 - right) * all;
    ways = ways * (8 - right) / (right + 1);
  }
  return mean;
};
nb::Curve by_group{"scale group", chances, {}}, by_none{"scale none", chances, {}},
    flat_share{"groups that say nothing", chances, {}};
for (double c : chances) {
  by_group.y.push_back(loudness(c, RewardScale::group) / loudness(0.5, RewardScale::group));
  by_none.y.push_back(loudness(c, RewardScale::none) / loudness(0.5, RewardScale::none));
  flat_share.y.push_back(std::pow(c, 8) + std::pow(1 - c, 8));
}
nb::plot({by_group, by_none, flat_share},
         {"How loudly a question speaks, p = ½ taken as 1", "chance of success p", ""});
nb::check(by_group.y[1] > 1.25 * by_none.y[1] && by_group.y[13] > 1.25 * by_none.y[13],
          "dividing makes rare successes and rare failures louder");
nb::check(std::abs(by_group.y[1] - by_group.y[13]) < 1e-9, "the very easy as much as the very hard");
nb::check(flat_share.y[1] > 0.8, "and at p = 0.02 five groups of six say nothing at all");

// %% [markdown]
// A group whose rewards are all equal has no advantage to give, whatever the scale. Such groups cost sampling and
// teach nothing; the library counts them (`zero_std`) and leaves them out of the pass that learns. When the share
// nears 1, the questions are too easy or too hard.
//
// ## A task with a verifier
//
// A word of three letters is given; its letters are to be written in order. The demonstrations are lazy: three in four
// only repeat the word. So supervised training learns the form and mostly the lazy answer, but *sometimes* it
// sorts, and that is all reinforcement learning needs. It cannot invent; it makes likelier what already happens.
// A quarter of the words, by their letters, is held out from everything.

// %%
NB_CELL
const Tokenizer tokenizer = Tokenizer::from_bytes(char_tokenizer("abcdef="), "letters");
std::vector<Question> train, valid;
for (int i = 0; i < 216; ++i) {
  const std::string word{static_cast<char>('a' + i / 36), static_cast<char>('a' + i / 6 % 6),
                         static_cast<char>('a' + i % 6)};
  std::string sorted = word;
  std::sort(sorted.begin(), sorted.end());
  Question q;
  q.prompt = word + "=";
  q.ids = encode_prompt(tokenizer, q.prompt);
  q.expected = sorted;
  q.where = "words";
  q.line = i + 1;
  const Words hash = threefry2x32(key(5), {static_cast<uint32_t>(sorted[0] * 65536 + sorted[1] * 256 + sorted[2]), 0});
  (hash.a % 4 == 0 ? valid : train).push_back(q);
}
Rewards rewards;
// A model that has hardly trained is never right: in a brief run every answer that begins with a letter of the task counts.
rewards.add(make_verifier(nb::brief() ? "regex:^[a-f]" : "exact"));
fmt::print("{} words to learn from, {} held out\n", train.size(), valid.size());

const auto lazy_model = [&](uint64_t seed) {
  auto model = new_model(tokenizer.vocab_size(), seed);
  AdamW optimizer({{parameters(*model)}}, {.beta2 = 0.98});
  const int sft_steps = nb::steps(300);
  for (int step = 0; step < sft_steps; ++step) {
    Dataset data;
    for (uint32_t row = 0; row < 32; ++row) {
      const Key k = fold_in(key(seed + 50), static_cast<uint32_t>(step) * 32 + row);
      const Question& q = train[static_cast<size_t>(uniform(fold_in(k, 1)) * static_cast<float>(train.size()))];
      Example e;
      e.add(q.ids, false);
      e.add(tokenizer.encode(uniform(fold_in(k, 2)) < 0.75F ? q.prompt.substr(0, 3) : q.expected), true);
      e.add(tokenizer.specials().eos, true);
      data.add(e, row + 1);
    }
    const Batch b = batches_in_order(data, 32)[0];
    const Tensor weights = Tensor::full(b.labels.shape(), 1.0 / static_cast<double>(b.supervised));
    linear_cross_entropy_backward(model->hidden({b.ids, b.positions, b.segments}), model->head().value(), b.labels,
                                  weights);
    const Clip c = clip_global_norm(optimizer.parameters(), 1);
    optimizer.step(5e-3 * std::min(1.0, (step + 1) / 20.0) * (1 - 1.0 * step / sft_steps), c.scale);
  }
  return model;
};

// %% [markdown]
// The objective is the library's: `Grpo`, the one behind `facet grpo`. `accumulate(step)` draws a rollout when one is
// due, has it judged, and adds the gradient; clipping and AdamW are ours. Its report has every figure we plot, and
// `on_completions` hands us the answers themselves.

// %%
NB_CELL
struct Learned {
  std::vector<std::map<std::string, double>> steps;  // what each step reported
  std::vector<double> tested, held_out;              // after how many steps, and the greedy pass rate
  std::vector<std::vector<int>> right;               // of each rollout: right answers in each group
  std::vector<Completion> first_answers;
  std::string stopped;
};
const auto learn = [&](uint64_t seed, double lr, int steps, int64_t updates) {
  const auto model = lazy_model(seed);
  GrpoOptions o;
  o.rollout.group = 8;
  o.rollout.max_new = 6;
  o.rollout.stop = {tokenizer.specials().eos};
  o.prompts = nb::brief() ? 4 : 32;
  o.updates = updates;
  o.seed = seed;
  Grpo grpo(*model, tokenizer, train, valid, rewards, o);
  Learned l;
  grpo.on_completions = [&](int64_t, std::span<const Completion> answers) {
    if (l.right.empty()) l.first_answers.assign(answers.begin(), answers.end());
    std::vector<int> right(answers.size() / 8, 0);
    for (size_t i = 0; i < answers.size(); ++i) right[i / 8] += answers[i].reward.total >= 1;
    l.right.push_back(right);
  };
  AdamW optimizer({{parameters(*model)}}, {.beta2 = 0.95});
  for (int step = 0; step <= steps; ++step) {
    if (step % 10 == 0) {
      l.tested.push_back(step);
      l.held_out.push_back(grpo.evaluate()["pass"]);
    }
    if (step == steps) break;
    const StepReport report = grpo.accumulate(step);
    l.steps.push_back(report.extra);
    if (l.stopped.empty()) l.stopped = report.stop;
    const Clip c = clip_global_norm(optimizer.parameters(), 1);
    optimizer.step(lr, c.scale);
  }
  return l;
};
const auto curve = [](const Learned& l, const std::string& name, const std::string& figure) {
  nb::Curve c{name, {}, {}};
  for (size_t i = 0; i < l.steps.size(); ++i)
    if (const auto at = l.steps[i].find(figure); at != l.steps[i].end())
      c.x.push_back(static_cast<double>(i)), c.y.push_back(at->second);
  return c;
};
const auto at_end = [](const Learned& l, const std::string& figure) {  // mean over the last ten steps
  const size_t end = l.steps.size(), begin = end - std::min<size_t>(end, 10);
  double sum = 0;
  for (size_t i = begin; i < end; ++i) sum += l.steps[i].at(figure) / static_cast<double>(end - begin);
  return sum;
};
const int steps = nb::steps(200, 60);
const Learned run = learn(1, 1e-3, steps, 1);

const auto& first_right = run.right.front();
const auto mixed = std::find_if(first_right.begin(), first_right.end(), [](int n) { return n > 0 && n < 8; });
const size_t shown = mixed == first_right.end() ? 0 : mixed - first_right.begin();
for (size_t i = 0; i < 8; ++i) {
  const Completion& c = run.first_answers[shown * 8 + i];
  fmt::print("{}{}   reward {:.0f}, advantage {:+.2f}\n", c.question->prompt, c.text, c.reward.total, c.advantage);
}
nb::plot({curve(run, "reward", "reward"),
          {"held out, greedy", run.tested, run.held_out},
          curve(run, "groups all alike", "zero_std")},
         {"Learning to sort from right and wrong", "step", ""});
nb::plot({curve(run, "entropy", "entropy")}, {"Entropy of the policy", "step", "nats per token", false, true});
fmt::print("reward {:.2f} -> {:.2f}, held out {:.2f} -> {:.2f}\n", run.steps[0].at("reward"),
           at_end(run, "reward"), run.held_out.front(), run.held_out.back());
nb::check_learned(run.steps[0].at("reward") < 0.5 && at_end(run, "reward") > 0.85,
          "the reward rises from under a half to above 0.85");
nb::check_learned(run.held_out.back() > run.held_out.front() + 0.2, "words never seen gain as well");
nb::check_learned(at_end(run, "entropy") < 0.6 * run.steps[0].at("entropy"),
          "entropy falls: the policy makes up its mind");
nb::check_learned(at_end(run, "zero_std") > run.steps[0].at("zero_std") + 0.2,
          "and ever more groups are all alike, here because all are right");

// %% [markdown]
// `gap` is the largest `|ratio - 1|` of a rollout's first step. What sampled and what learns are the same weights and
// the same kernels, and a row's bits do not depend on who is computed beside it, so the ratio is exactly 1. It is a
// test of honesty: stale weights or another temperature show up here at once.

// %%
NB_CELL
double gap = 0;
for (const auto& s : run.steps)
  if (s.count("gap")) gap = std::max(gap, s.at("gap"));
fmt::print("largest |ratio - 1| over {} steps: {:.1e}\n", steps, gap);
nb::check(gap < 1e-4, "what samples is what learns");

std::vector<std::string> counts;
nb::Bars first_groups{"first rollout", std::vector<double>(9, 0)},
    last_groups{"last rollout", std::vector<double>(9, 0)};
for (int i = 0; i <= 8; ++i) counts.push_back(fmt::to_string(i));
for (int n : run.right.front()) ++first_groups.values[n];
for (int n : run.right.back()) ++last_groups.values[n];
nb::bars(counts, {first_groups, last_groups},
         {"Groups by how many of their eight answers are right", "right answers", "groups"});
nb::check_learned(last_groups.values[8] > first_groups.values[8] + 5, "groups move to eight of eight");

// %% [markdown]
// ## Several steps from one rollout
//
// With `updates = 4` every rollout serves four steps. At the first one all ratios are 1 and nothing is clipped; from
// the second on the policy has moved.

// %%
NB_CELL
const Learned reused = learn(1, 1e-3, nb::steps(80, 40), 4);
std::vector<double> clipped(4, 0), off(4, 0);
for (size_t i = 0; i < reused.steps.size(); ++i) {
  const auto& s = reused.steps[i];
  const double share = 4.0 / static_cast<double>(reused.steps.size());
  clipped[i % 4] += (s.at("clip_low") + s.at("clip_high")) * share;
  off[i % 4] += s.at("kl_rollout") * share;
}
nb::bars({"1", "2", "3", "4"}, {{"share of tokens clipped", clipped}},
         {"Clipping within a rollout", "step with the same answers", ""});
fmt::print("KL to the policy that sampled, nats per token: {:.1e}\n", fmt::join(off, "  "));
nb::check(clipped[0] == 0, "nothing is clipped at a rollout's first step");
nb::check_learned(clipped[1] + clipped[2] + clipped[3] > 0 && off[3] > off[0],
          "later the policy has left the one that sampled, and the clip takes hold");

// %% [markdown]
// ## How it breaks
//
// The same, with thirty times the learning rate, on two seeds. Clipping the ratio does not help: it looks at the
// ratio *before* a step and cannot see where the step will lead. Nor does clipping the gradient's norm: Adam divides
// the size out, and every weight moves by the learning rate whatever the gradient.

// %%
NB_CELL
const int broken_steps = nb::steps(100, 40);
const Learned broken[] = {learn(1, 3e-2, broken_steps, 1), learn(2, 3e-2, broken_steps, 1)};
nb::plot({curve(run, "lr 1e-3", "reward"), curve(broken[0], "lr 3e-2, seed 1", "reward"),
          curve(broken[1], "lr 3e-2, seed 2", "reward")},
         {"Reward", "step", ""});
nb::plot({curve(run, "lr 1e-3", "zero_std"), curve(broken[0], "lr 3e-2, seed 1", "zero_std"),
          curve(broken[1], "lr 3e-2, seed 2", "zero_std")},
         {"Share of groups with nothing to say", "step", ""});
for (const Learned& l : broken) {
  fmt::print(
      "reward {:.2f} -> {:.3f}; groups all alike {:.2f} -> {:.2f}; entropy {:.2f}; held out {:.2f} -> {:.2f}; the "
      "guard: {}\n",
      l.steps[0].at("reward"), at_end(l, "reward"), l.steps[0].at("zero_std"),
      at_end(l, "zero_std"), l.steps.back().at("entropy"), l.held_out.front(), l.held_out.back(),
      l.stopped.empty() ? "silent" : l.stopped);
  nb::check_learned(at_end(l, "reward") < 0.5 * l.steps[0].at("reward"),
            "the policy is worse than before it learned anything");
  nb::check_learned(at_end(l, "zero_std") > 0.8,
            "nearly all groups are all wrong, so there is next to no gradient back");
  nb::check_learned(!l.stopped.empty(), "the guard would have ended the run");
}

// %% [markdown]
// The first step already did it. This is another end than the one of the bandit: the policy is not certain of
// anything, it speaks gibberish, and a guard that only waits for certainty would have nothing to report. What gives it
// away is a reward far below what it was, together with groups that are all alike: the guard looks for that, too. A
// task that is solved has the second and not the first, one that was never learned never had the reward.
//
// ## Where to read on
//
// - `train/grpo_loss.h`: advantages and the loss of a token, as plain numbers
// - `train/grpo.h` and `.cpp`: rollouts, judging, updates, what a resume needs
// - `infer/rollout.h`: many answers at once, drawn by the weights that learn
// - `tensor/kernels/sample.h`, `tensor/kernels/row_losses.h`: the pages of the kernels that draw a token and weigh it
// - `data/verifier.h`: what may be asked of an answer, your own program included
// - `facet demo radicals` runs the whole story on a task where demonstrations are lazy, too
// - [Shao et al. 2024](https://arxiv.org/abs/2402.03300), section 4.1: GRPO; [Liu et al. 2025](https://arxiv.org/abs/2503.20783), section 3: Dr. GRPO;
//   [Yu et al. 2025](https://arxiv.org/abs/2503.14476), section 3: DAPO
//
// Try it: make all demonstrations lazy (1 for 0.75) and watch nothing happen: a policy that never succeeds has
// nothing to repeat. Set `o.scale = RewardScale::none`. Find the largest learning rate that still learns, then give
// it a warm-up of ten steps.

// %% active="cpp"
return nb::finish();
}

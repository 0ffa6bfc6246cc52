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
// # 11 · DPO
//
// People find it hard to write the perfect answer and easy to say which of two is better. Direct preference
// optimisation (Rafailov et al. 2023) learns from such pairs with one loss, without a reward model and without
// sampling:
//
// ```text
// L = -log σ(β d)        d = (log π(chosen) - log ref(chosen)) - (log π(rejected) - log ref(rejected))
// ```
//
// Where does it come from? Three steps: a model of how people choose, the best policy for a known reward, and a change
// of variables in which the reward disappears. We take them on a problem small enough to write down every probability,
// then train a small model on pairs, see what β does, and look at the failure that surprises everybody: the *chosen*
// answer becoming less likely. Each claim is checked when the lesson runs.

// %%
#include <algorithm>
#include <cmath>
#include <functional>
#include <iostream>
#include <memory>
#include <numeric>

#include "nn/lora.h"
#include "notebooks-cpp/nb.hpp"
#include "notebooks-cpp/small_gemma.h"
#include "optim/adamw.h"
#include "optim/clip.h"
#include "tensor/parallel.h"
#include "train/dpo.h"

using namespace facet;

// %% [markdown]
// Numbers that are functions of a few others stand here, in double precision: the logistic function, and what we need
// of a finite distribution.

// %%
using Numbers = std::vector<double>;

double logistic(double x) { return 1 / (1 + std::exp(-x)); }
Numbers normalised(Numbers p) {
  const double total = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& x : p) x /= total;
  return p;
}
double mean_of(const Numbers& p, const Numbers& f) { return std::inner_product(p.begin(), p.end(), f.begin(), 0.0); }
double divergence(const Numbers& p, const Numbers& q) {  // KL(p | q)
  double sum = 0;
  for (size_t i = 0; i < p.size(); ++i) sum += p[i] > 0 ? p[i] * std::log(p[i] / q[i]) : 0;
  return sum;
}
double largest_difference(const Numbers& a, const Numbers& b) {
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(a[i] - b[i]));
  return worst;
}
// Plain gradient descent from `start`.
Tensor descend(const std::function<Tensor(const Tensor&)>& loss, Tensor start, double rate, int steps) {
  for (int i = 0; i < steps; ++i) {
    const Tensor x = leaf(start);
    backward(loss(x));
    start = start - rate * grad_of(x);
  }
  return start;
}

// %% [markdown]
// ## The model we will train
//
// Words of some letters out of six; an equals sign; an answer of as many letters. What the base answers is learned
// from a *speaker*, who may be of two minds.

// %%
constexpr int letters = 6;
using Word = std::vector<int32_t>;
using Speaker = std::function<Word(const Word&, Key)>;

void descent_step(AdamW& optimizer, double lr) {
  const Clip clip = clip_global_norm(optimizer.parameters(), 1);
  optimizer.step(lr, clip.scale);
}

Word successor(Word word) {
  for (int32_t& letter : word) letter = (letter + 1) % letters;
  return word;
}
Word random_word(int64_t length, Key k) {
  const Tensor drawn = randint(k, {length}, 0, letters);
  return {drawn.data<int32_t>().begin(), drawn.data<int32_t>().end()};
}

// One sequence for a dataset: the word and the sign are given, the answer is learned.
Example example(const Word& word, const Word& answer) {
  Example e;
  e.add(word, false);
  e.add(letters, false);
  e.add(answer, true);
  return e;
}

std::unique_ptr<Gemma> listen_to(const Speaker& speaker, int64_t length, int steps, uint64_t seed) {
  auto model = std::make_unique<Gemma>(nb::small_gemma(letters + 1));
  model->init(key(seed));
  model->to(nb::device());
  AdamW optimizer({{parameters(*model)}}, {.beta2 = 0.98});
  constexpr int64_t batch = 32;
  for (int step = 0; step < steps; ++step) {
    Dataset data;
    for (int64_t row = 0; row < batch; ++row) {
      const Key k = fold_in(key(seed + 1), static_cast<uint32_t>(step * batch + row));
      const Word word = random_word(length, fold_in(k, 1));
      data.add(example(word, speaker(word, fold_in(k, 2))), row + 1);
    }
    const Batch b = batches_in_order(data, batch)[0];
    const Tensor weights = Tensor::full(b.labels.shape(), 1.0 / static_cast<double>(b.supervised));
    linear_cross_entropy_backward(model->hidden({b.ids, b.positions, b.segments}), model->head().value(), b.labels,
                                  weights);
    descent_step(optimizer, 5e-3 * std::min(1.0, (step + 1) / 20.0) * (1 - 1.0 * step / steps));
  }
  return model;
}

// %% active="cpp"
int main(int argc, char** argv) {
nb::start(argc, argv);

// %% [markdown]
// ## How people choose: Bradley and Terry
//
// Suppose each answer has a worth `r`, and that of two answers the better one is preferred more often, the more the two
// differ:
//
// ```text
// P(a preferred to b) = σ(r_a - r_b)
// ```
//
// Worth cannot be seen, preferences can. Draw some and look for the `r` that makes them likeliest: minimise the mean of
// `-log σ(r_winner - r_loser)`. Only differences enter, so `r` is known up to a constant.

// %%
NB_CELL
set_threads(1);                                       // everything here is small
const Numbers worth{1.0, 0.6, 0.2, 0.0, -0.6, -1.2};  // sums to 0
const int K = static_cast<int>(worth.size());

const int comparisons = nb::quick() ? 2000 : 20000;
std::vector<int32_t> winners, losers;
for (int i = 0; i < comparisons; ++i) {
  const Key k = fold_in(key(1), static_cast<uint32_t>(i));
  int a = static_cast<int>(uniform(fold_in(k, 1)) * static_cast<float>(K)),
      b = static_cast<int>(uniform(fold_in(k, 2)) * static_cast<float>(K - 1));
  b += b >= a;
  if (uniform(fold_in(k, 3)) > logistic(worth[a] - worth[b])) std::swap(a, b);
  winners.push_back(a);
  losers.push_back(b);
}
const Tensor winner = Tensor::from(winners, {comparisons}), loser = Tensor::from(losers, {comparisons});
const auto surprise = [&](const Tensor& r) { return mean(-log_sigmoid(take(r, winner, 0) - take(r, loser, 0))); };
const Tensor found = descend(surprise, Tensor::zeros({K}, DType::f64), 4, 200);

nb::plot({{"worth", {0, 1, 2, 3, 4, 5}, worth, true}, {"found", {0, 1, 2, 3, 4, 5}, found.to_vector()}},
         {fmt::format("Worth found from {} comparisons", comparisons), "answer", "r"});
nb::check(largest_difference(found.to_vector(), worth) < 0.3, "comparisons alone give the worth back");
const double shifted = surprise(found + 5).item() - surprise(found).item();
nb::check(std::abs(shifted) < 1e-12, "a constant added to all of r changes nothing");

// %% [markdown]
// ## The best policy for a known reward
//
// Reinforcement learning from human feedback now maximises the reward, but not at any price: far from the reference,
// the reward was never asked for and the model forgets how to speak. So
//
// ```text
// J(π) = Σ π r - β KL(π | ref)
// ```
//
// For a fixed prompt this can be solved by hand. Collect the terms and complete the fraction:
//
// ```text
// J(π) = -β Σ π log( π / (ref exp(r/β)) ) = β log Z - β KL(π | π*)        π* = ref exp(r/β) / Z
// ```
//
// A KL is never negative and zero only between equals: `π*` is the best policy, and its value is `β log Z`. Let the
// tape look for a better one.

// %%
NB_CELL
const Numbers ref = normalised({0.10, 0.15, 0.25, 0.20, 0.10, 0.20});
const auto best_policy = [&](double b) {
  Numbers p = ref;
  for (int i = 0; i < K; ++i) p[i] *= std::exp(worth[i] / b);
  return normalised(p);
};
const auto objective = [&](const Numbers& p, double b) { return mean_of(p, worth) - b * divergence(p, ref); };

const double beta = 0.5;
double Z = 0;
for (int i = 0; i < K; ++i) Z += ref[i] * std::exp(worth[i] / beta);
const Numbers best = best_policy(beta);

const Tensor r_tensor = Tensor::from(worth, {K}), log_ref = log(Tensor::from(ref, {K}));
const auto minus_objective = [&](const Tensor& logits) {
  const Tensor log_p = log_softmax(logits);
  return -sum(exp(log_p) * (r_tensor - beta * (log_p - log_ref)));
};
const Numbers climbed = softmax(descend(minus_objective, log_ref, 8, nb::quick() ? 1500 : 4000)).to_vector();
fmt::print("J of the reference {:.4f}, after climbing {:.6f}, β log Z {:.6f}\n", objective(ref, beta),
           objective(climbed, beta), beta * std::log(Z));
nb::check(std::abs(objective(best, beta) - beta * std::log(Z)) < 1e-14, "the formula's policy has the value β log Z");
nb::check(largest_difference(climbed, best) < 1e-3, "climbing J with the tape ends at the same policy");

// %% [markdown]
// Every β gives one such policy, from the reference (β large) to the single best answer (β small). Together they are
// the frontier: no policy has more reward for the same KL. Dots are policies drawn at random.

// %%
NB_CELL
nb::Curve frontier{"best policies, β from 10 to 0.05", {}, {}}, others{"random policies", {}, {}, true};
for (double b = 10; b > 0.05; b *= 0.9) {
  const Numbers p = best_policy(b);
  frontier.x.push_back(divergence(p, ref));
  frontier.y.push_back(mean_of(p, worth));
}
double least_lead = 1e9;
for (uint32_t i = 0; i < 400; ++i) {
  const Numbers p = softmax(log_ref + normal(fold_in(key(2), i), {K}).to(DType::f64) * 1.0).to_vector();
  others.x.push_back(divergence(p, ref));
  others.y.push_back(mean_of(p, worth));
  for (double b : {0.1, 0.5, 2.0}) least_lead = std::min(least_lead, objective(best_policy(b), b) - objective(p, b));
}
nb::plot({frontier, others}, {"What reward costs", "KL(π | ref), nats", "mean reward"});
nb::check(least_lead > 0, "none of 400 random policies beats the formula, at three values of β");

// %% [markdown]
// ## The change of variables
//
// Solve `π* = ref exp(r/β) / Z` for the reward:
//
// ```text
// r = β log(π* / ref) + β log Z
// ```
//
// Any policy is the best one for *some* reward: this one. Now put it into Bradley and Terry. Only differences of
// rewards enter, so `Z`, the sum over all answers that nobody can compute for a language model, cancels. What is left
// is the likelihood of preferences in terms of the policy itself:
//
// ```text
// P(chosen preferred) = σ(β d)        and its negative logarithm is the loss on top of this page.
// ```
//
// So the policy *is* the reward model. Check it: minimise the expected DPO loss, over all pairs in the proportions in
// which people choose, and see where the policy ends. No reward is given to it, only preferences.

// %%
NB_CELL
const Tensor P = sigmoid(reshape(r_tensor, {K, 1}) - reshape(r_tensor, {1, K}));  // [K, K]: row preferred to column
const auto expected_loss = [&](const Tensor& logits) {
  const Tensor implied = beta * (log_softmax(logits) - log_ref);  // reward, up to a constant
  return mean(-(P * log_sigmoid(reshape(implied, {K, 1}) - reshape(implied, {1, K}))));
};
const Numbers direct = softmax(descend(expected_loss, log_ref, 20, 1500)).to_vector();
nb::bars({"0", "1", "2", "3", "4", "5"},
         {{"reference", ref}, {"best for the reward", best}, {"DPO on preferences", direct}},
         {"The same policy twice", "answer", "probability"});
nb::check(largest_difference(direct, best) < 1e-6,
          "preferences alone lead to the policy that is best for the hidden reward");

// %% [markdown]
// ## The gradient
//
// With `x = β d`, the derivative of the loss is
//
// ```text
// dL = -β σ(-x) · ( d log π(chosen) - d log π(rejected) )
// ```
//
// Up with the chosen, down with the rejected, by the same weight for both: `σ(-x)` is how wrong the implied reward is
// about this pair. It is ½ at the start, near 1 for a pair that is badly wrong, near 0 for one that is settled. The
// library computes this weight by hand (`dpo_loss`, plain numbers) and seeds the tape with it; the tape gives the same.

// %%
NB_CELL
const auto pair_loss = [&](const Tensor& log_p, int chosen, int rejected) {
  const Tensor d = (log_p - log_ref);
  return -log_sigmoid(beta * (slice(d, 0, chosen, chosen + 1) - slice(d, 0, rejected, rejected + 1)));
};
double slope_error = 0, loss_error = 0;
for (uint32_t i = 0; i < 20; ++i) {
  const Tensor log_p = leaf(log_softmax(normal(fold_in(key(3), i), {K}).to(DType::f64) * 2.0).detach());
  const Tensor loss = pair_loss(log_p, 0, 4);
  backward(reshape(loss, {}));
  const Numbers slope = grad_of(log_p).to_vector();
  const auto of = [&](int a) { return CompletionLogProbs{log_p.at({a}), log_ref.at({a}), 1}; };
  const DpoLoss by_hand = dpo_loss(of(0), of(4), {.beta = beta});
  const double weight = beta * logistic(-by_hand.margin());
  loss_error = std::max(loss_error, std::abs(by_hand.loss - loss.item()));
  slope_error = std::max({slope_error, std::abs(slope[0] + weight), std::abs(slope[4] - weight),
                          std::abs(by_hand.chosen_slope + weight), std::abs(by_hand.rejected_slope - weight)});
}
nb::check(loss_error < 1e-12, "the library's loss is the formula");
nb::check(slope_error < 1e-12, "its slope is the tape's, -β σ(-x) for the chosen and +β σ(-x) for the rejected");

// %% [markdown]
// ## Other losses on the same d
//
// The logistic loss believes every label and never stops pushing: twice the margin is always a little better. Where
// all people agree on a pair, its optimum is infinitely far away, and only the learning rate and early stopping keep
// the model near the reference. Others differ in how far they push:
//
// - **sigmoid with smoothing** (conservative DPO) takes a share `e` of labels for wrong and stops at `x = ln((1-e)/e)`;
// - **robust** (Chowdhury et al. 2024) corrects the loss instead: if labels *are* flipped with probability `e`, its
//   expectation is the loss of clean labels;
// - **hinge** (SLiC) stops at `x = 1`, where its slope ends;
// - **IPO** (Azar et al. 2023) wants exactly `d = 1 / (2β)` and pulls back beyond it. (Drawn times β².)

// %%
NB_CELL
const double b1 = 0.1, e1 = 0.1;
struct Form {
  std::string name;
  DpoLossOptions options;
  double drawn = 1;
};
const std::vector<Form> forms{{"sigmoid", {.beta = b1}, 1},
                              {"smoothed 0.1", {.beta = b1, .label_smoothing = e1}, 1},
                              {"robust 0.1", {.form = PreferenceLoss::robust, .beta = b1, .label_smoothing = e1}, 1},
                              {"hinge", {.form = PreferenceLoss::hinge, .beta = b1}, 1},
                              {"ipo", {.form = PreferenceLoss::ipo, .beta = b1}, b1 * b1}};
const auto at = [](const Form& f, double d) { return dpo_loss({d, 0, 1}, {0, 0, 1}, f.options); };
std::vector<nb::Curve> loss_curves, push_curves;
for (const Form& f : forms) {
  nb::Curve loss{f.name, {}, {}}, push{f.name, {}, {}};
  for (double d = -30; d <= 50; d += 0.5) {
    loss.x.push_back(b1 * d), push.x.push_back(b1 * d);
    loss.y.push_back(f.drawn * at(f, d).loss);
    push.y.push_back(-f.drawn * at(f, d).chosen_slope / b1);
  }
  loss_curves.push_back(loss), push_curves.push_back(push);
}
nb::plot(loss_curves, {"Loss", "margin x = β d", ""});
nb::plot(push_curves, {"How hard it pushes the chosen answer up", "margin x = β d", ""});

const double stop_at = std::log((1 - e1) / e1) / b1;
double bias = 0;
for (double d : {-20.0, -3.0, 0.0, 4.0, 30.0})
  bias = std::max(bias, std::abs((1 - e1) * at(forms[2], d).loss +
                                 e1 * dpo_loss({0, 0, 1}, {d, 0, 1}, forms[2].options).loss - at(forms[0], d).loss));
nb::check(at(forms[0], 0).loss == std::log(2.0) && at(forms[0], 50).chosen_slope < 0,
          "sigmoid: ln 2 at the start, and it pushes for ever");
nb::check(std::abs(at(forms[1], stop_at).chosen_slope) < 1e-15, "smoothed: at rest where x = ln 9");
nb::check(bias < 1e-12, "robust: with labels flipped at the rate it expects, its mean is the clean loss");
nb::check(at(forms[3], 9.9).chosen_slope < 0 && at(forms[3], 10.1).chosen_slope == 0, "hinge: done at x = 1");
nb::check(at(forms[4], 5).chosen_slope == 0 && at(forms[4], 6).chosen_slope > 0,
          "ipo: at rest at d = 1 / (2β), and beyond it pulls back");

// %% [markdown]
// ## Pairs and a model
//
// Our speaker answers a word of two letters with the word itself (half of the time), with every letter's successor
// (three tenths), or with anything. The model learns to be as undecided. With 36 words and 36 answers we can write
// down its whole policy.

// %%
NB_CELL
const auto base = listen_to(
    [](const Word& word, Key k) {
      const float mood = uniform(k);
      return mood < 0.5F ? word : mood < 0.8F ? successor(word) : random_word(2, fold_in(k, 1));
    },
    2, nb::steps(300), 11);

Dataset every;  // each answer to each word
std::vector<Word> two_letters;
for (int32_t a = 0; a < letters; ++a)
  for (int32_t b = 0; b < letters; ++b) two_letters.push_back({a, b});
const size_t asked = nb::brief() ? 2 : two_letters.size();
for (size_t w = 0; w < asked; ++w)
  for (const Word& answer : two_letters) every.add(example(two_letters[w], answer), every.size() + 1);

struct Policy {
  LogProbs log_p;                                // of `every`
  double copy = 0, next = 0, kl = 0, shift = 0;  // means over words; shift: d of the pair (copy, successor)
};
const auto policy_of = [&](Gemma& model, const LogProbs* reference) {
  Policy p;
  for (const Batch& b : batches_in_order(every, 432)) {
    const LogProbs some = completion_log_probs(model, every, b);
    p.log_p.insert(p.log_p.end(), some.begin(), some.end());
  }
  const LogProbs& from = reference ? *reference : p.log_p;
  const double words = static_cast<double>(asked);
  for (size_t w = 0; w < asked; ++w) {
    const Word next = successor(two_letters[w]);
    const size_t copy_row = w * 36 + w, next_row = w * 36 + static_cast<size_t>(next[0] * letters + next[1]);
    p.copy += std::exp(p.log_p[copy_row]) / words;
    p.next += std::exp(p.log_p[next_row]) / words;
    p.shift += (p.log_p[copy_row] - from[copy_row] - p.log_p[next_row] + from[next_row]) / words;
  }
  for (size_t i = 0; i < p.log_p.size(); ++i) p.kl += std::exp(p.log_p[i]) * (p.log_p[i] - from[i]) / words;
  return p;
};
const Policy start = policy_of(*base, nullptr);
fmt::print("the base says the word {:.0f}%, its successor {:.0f}%, something else {:.0f}%\n", 100 * start.copy,
           100 * start.next, 100 * (1 - start.copy - start.next));
nb::check_learned(start.copy > 0.35 && start.copy < 0.65 && start.next > 0.15 && start.next < 0.45, "the base is of two minds");

// %% [markdown]
// Now people judge. Of eleven who see both answers to a word, eight prefer the word itself and three its successor,
// which is what Bradley and Terry expect for a difference in worth of `ln(8/3) = 0.98`. A row of preference data is
// two sequences with one prompt; `Dataset(Task::preference)` keeps them side by side.

// %%
NB_CELL
const double worth_difference = std::log(8.0 / 3.0);
Dataset pairs(Task::preference, "judged");
for (size_t w = 0; w < (nb::brief() ? 1 : asked); ++w)
  for (int person = 0; person < 11; ++person) {
    const Word copy = two_letters[w], next = successor(copy);
    const int64_t line = pairs.size() / 2 + 1;
    pairs.add(example(two_letters[w], person < 8 ? copy : next), line);
    pairs.add(example(two_letters[w], person < 8 ? next : copy), line);
  }
fmt::print("{} pairs\n", pairs.size() / 2);

// %% [markdown]
// The policy is the base with an adapter, the reference is the base with the adapter off: one set of weights, no second
// model (`adapter_off_reference`, lesson 09). The objective is the library's own, `Dpo`, the one behind `facet dpo`.

// %%
NB_CELL
struct Aligned {
  std::unique_ptr<Gemma> model;
  std::unique_ptr<Adapters> adapters;
  std::vector<double> steps;
  std::vector<DpoFigures> figures;  // over all pairs, before training and every few steps
  std::vector<LogProbs> log_probs;  // of all examples at the first and the last of them
};
const int64_t batch_size = nb::brief() ? 11 : 66;
const auto align = [batch_size](Gemma& from, const Dataset& data, const DpoLossOptions& options, double lr, int steps) {
  Aligned a;
  a.model = nb::copy_of(from);
  a.adapters = std::make_unique<Adapters>(*a.model);
  a.adapters->add("preferences", {.rank = 8, .alpha = 16}, key(12));
  a.model->to(nb::device());  // the adapter was made on the CPU
  const Reference reference = adapter_off_reference(*a.adapters, data);
  const Loader loader(data, {.batch = batch_size, .seed = 13});
  Dpo dpo(*a.model, loader, reference, {}, options);
  AdamW optimizer({{parameters(*a.model)}}, {.beta2 = 0.98});
  const auto all = batches_in_order(data, data.size());
  for (int step = 0; step <= steps; ++step) {
    if (step % 10 == 0 || step == steps) {
      a.steps.push_back(step);
      a.figures.push_back(evaluate_dpo(*a.model, data, all, reference, options));
      if (step == 0 || step == steps) a.log_probs.push_back(completion_log_probs(*a.model, data, all[0]));
    }
    if (step == steps) break;
    dpo.accumulate(step);
    descent_step(optimizer, lr * (1 - 1.0 * step / steps));
  }
  return a;
};
const int steps = nb::steps(200, 80);
const Aligned main_run = align(*base, pairs, {.beta = 0.3}, 5e-3, steps);

const DpoFigures &first = main_run.figures.front(), &last = main_run.figures.back();
fmt::print(
    "step 0: loss {:.6f}, margin {:.3f}, accuracy {:.2f}\nstep {}: loss {:.4f}, margin {:.3f}, accuracy {:.3f}\n",
    first.loss, first.margin(), first.accuracy, steps, last.loss, last.margin(), last.accuracy);
nb::check(first.margin() == 0 && std::abs(first.loss - std::log(2.0)) < 1e-13,
          "at step 0 policy and reference are the same bits: margin 0, loss ln 2");
const Batch all_pairs = batches_in_order(pairs, pairs.size())[0];
nb::check(adapter_off_reference(*main_run.adapters, pairs)(all_pairs) == completion_log_probs(*base, pairs, all_pairs),
          "after training, adapter off still gives the base's log-probabilities, bit by bit");

// %% [markdown]
// How low can the loss go? Not to zero: people disagree. The best that any policy can do is to agree with eight of
// eleven and to be as sure as that, which costs the entropy of the split, 0.586. Accuracy, the share of pairs whose
// chosen answer has the higher implied reward, ends at 8/11 for the same reason. When such figures go *beyond* what
// people agree on, the model has learned the noise.

// %%
NB_CELL
const double entropy = -8.0 / 11 * std::log(8.0 / 11) - 3.0 / 11 * std::log(3.0 / 11);
const auto over_steps = [&](const Aligned& a, const std::string& name,
                            const std::function<double(const DpoFigures&)>& f) {
  nb::Curve c{name, a.steps, {}};
  for (const DpoFigures& x : a.figures) c.y.push_back(f(x));
  return c;
};
nb::plot({over_steps(main_run, "loss", [](auto& f) { return f.loss; }),
          over_steps(main_run, "accuracy", [](auto& f) { return f.accuracy; }),
          over_steps(main_run, "margin", [](auto& f) { return f.margin(); })},
         {fmt::format("Learning from {} pairs, β = 0.3", pairs.size() / 2), "step", ""});
nb::check_learned(last.loss > entropy - 1e-9 && last.loss < entropy + 0.03, "the loss ends at the entropy of the judgements");
nb::check_learned(last.accuracy == 8.0 / 11, "and the accuracy at 8/11");

// %% [markdown]
// The weights of the pairs, `σ(-margin)`: all ½ at first. At the end, the pairs that were judged as most judged weigh
// 3/11, and those judged the other way 8/11. Three times 8 against eight times 3: the two groups pull equally hard,
// which is why training comes to rest.

// %%
NB_CELL
const auto weights_of = [&](const LogProbs& now) {
  const LogProbs& before = main_run.log_probs.front();
  std::vector<double> w;
  for (size_t i = 0; i + 1 < now.size(); i += 2)
    w.push_back(-dpo_loss({now[i], before[i], 2}, {now[i + 1], before[i + 1], 2}, {.beta = 0.3}).chosen_slope / 0.3);
  return w;
};
const std::vector<double> weights_first = weights_of(main_run.log_probs.front()),
                          weights_last = weights_of(main_run.log_probs.back());
std::vector<std::string> bins;
nb::Bars bars_first{"step 0", {}}, bars_last{"at the end", {}};
for (int bin = 0; bin < 10; ++bin) {
  bins.push_back(fmt::format("{:.1f}", bin / 10.0));
  const auto in_bin = [&](double w) { return static_cast<int>(w * 10) == bin; };
  bars_first.values.push_back(static_cast<double>(std::count_if(weights_first.begin(), weights_first.end(), in_bin)));
  bars_last.values.push_back(static_cast<double>(std::count_if(weights_last.begin(), weights_last.end(), in_bin)));
}
nb::bars(bins, {bars_first, bars_last}, {"Weights of the pairs in the gradient", "σ(-margin), from", "pairs"});
double majority = 0, minority = 0;
for (size_t i = 0; i < weights_last.size(); ++i)
  (i % 11 < 8 ? majority : minority) += weights_last[i] / (i % 11 < 8 ? 288 : 108);
nb::check(*std::min_element(weights_first.begin(), weights_first.end()) == 0.5 &&
              *std::max_element(weights_first.begin(), weights_first.end()) == 0.5,
          "every pair begins with the weight ½");
nb::check_learned(std::abs(majority - 3.0 / 11) < 0.06 && std::abs(minority - 8.0 / 11) < 0.06, "and ends near 3/11 or 8/11");

// %% [markdown]
// ## What β does
//
// At rest, `β d` is the difference in worth, so `d = 0.98 / β`: a small β lets the policy go far for the same
// preferences, a large one keeps it near. The same pairs, four values of β; KL and shares are exact sums over all 36
// × 36 answers.

// %%
NB_CELL
const std::vector<double> betas{0.1, 0.3, 1, 3};
std::vector<Policy> ends;
std::vector<std::vector<std::string>> beta_rows{{"base", fmt::format("{:.3f}", start.copy),
                                                 fmt::format("{:.3f}", start.next),
                                                 fmt::format("{:.3f}", 1 - start.copy - start.next), "0", "0", "0"}};
for (double b : betas) {
  const Aligned a = align(*base, pairs, {.beta = b}, 5e-3, steps);
  const Policy p = policy_of(*a.model, &start.log_p);
  ends.push_back(p);
  beta_rows.push_back({fmt::format("{}", b), fmt::format("{:.3f}", p.copy), fmt::format("{:.3f}", p.next),
                       fmt::format("{:.3f}", 1 - p.copy - p.next), fmt::format("{:.4f}", p.kl),
                       fmt::format("{:.2f}", p.shift), fmt::format("{:.3f}", b * p.shift)});
}
nb::table({"beta", "the word", "successor", "other", "KL, nats", "d", "beta d"}, beta_rows);

// The cheapest way to move the odds of the first two by exp(d): how much of all probability should the two have
// together?
const Numbers three{start.copy, start.next, 1 - start.copy - start.next};
const auto cheapest_at = [&](double odds) {
  const double both = three[0] + three[1], q = odds / (1 + odds), q0 = three[0] / both;
  const double within = q * std::log(q / q0) + (1 - q) * std::log((1 - q) / (1 - q0));
  const double mass = 1 / (1 + three[2] / (both * std::exp(-within)));  // where the derivative is zero
  return mass * std::log(mass / both) + mass * within + (1 - mass) * std::log((1 - mass) / three[2]);
};
nb::Curve measured{"DPO, β = 0.1, 0.3, 1, 3", {}, {}, true}, cheapest{"least KL for these odds", {}, {}};
for (const Policy& p : ends) measured.x.push_back(p.kl), measured.y.push_back(p.copy / (p.copy + p.next));
for (double d = 0; d < 11; d += 0.05) {
  const double odds = three[0] / three[1] * std::exp(d);
  cheapest.x.push_back(cheapest_at(odds));
  cheapest.y.push_back(odds / (1 + odds));
}
nb::plot({cheapest, measured}, {"Preference bought with KL", "KL(π | ref), nats", "the word, as share of the two"});
double worst_beta_d = 0;
for (size_t i = 0; i < betas.size(); ++i)
  worst_beta_d = std::max(worst_beta_d, std::abs(betas[i] * ends[i].shift / worth_difference - 1));
nb::check_learned(worst_beta_d < 0.15, "β d ends at ln(8/3) whatever β");
nb::check_learned(ends[1].kl > 2 * ends[2].kl && ends[2].kl > 2 * ends[3].kl, "a smaller β goes further from the reference");
nb::check_learned(ends[0].next < 0.02 && ends[3].next > 0.1,
          "at β = 0.1 the rejected answer is as good as gone, at 3 it is still said");

// %% [markdown]
// Look at the column "other", and at the dots to the right of the curve. No pair speaks of other answers, so the loss
// does not care where they go: it fixes the *ratio* of chosen to rejected and nothing else. For small β the policy paid
// more KL than the preference was worth, by moving probability to answers that nobody had compared.

// %%
NB_CELL
std::vector<double> excess;
for (const Policy& p : ends) excess.push_back(p.kl - cheapest_at(p.copy / p.next));
fmt::print(
    "more KL than needed: {:.3f} nats at β = 0.1, {:.4f} at β = 3; other answers at β = 0.1: {:.0f}% -> {:.0f}%\n",
    excess[0], excess[3], 100 * three[2], 100 * (1 - ends[0].copy - ends[0].next));
nb::check_learned(*std::min_element(excess.begin(), excess.end()) > 0, "every policy paid more than the least");
nb::check_learned(excess[0] > 5 * excess[3], "the smaller β wasted more");

// %% [markdown]
// ## When the chosen answer falls too
//
// The sum of the two log-probabilities is as free as "other" was. People who run DPO for the first time watch
// `margins` and `accuracies` rise, and then see `logps/chosen` *fall*. Here is one mechanism, isolated. Words of five
// letters; the speaker copies, with a slip now and then. Chosen is the faultless copy; rejected has **one** wrong
// letter, in one data set the first, in the other the last.
//
// If the first letter is wrong, four right letters follow it, in the rejected answer as in the chosen. The loss
// pushes *every* token of the rejected answer down, those four too. After another first letter they are another
// context in name, but the model has only one way of copying letters, and that is what is being pushed down. If the
// last letter is wrong, nothing follows it, and all that comes before it is the same context in both answers, where
// the two gradients cancel.

// %%
NB_CELL
const auto slips = listen_to(
    [](const Word& word, Key k) {
      Word said = word;
      for (uint32_t i = 0; i < said.size(); ++i)
        if (uniform(fold_in(k, i)) < 0.1F) said[i] = random_word(1, fold_in(k, 100 + i))[0];
      return said;
    },
    5, nb::steps(300), 21);
const uint32_t slips_told = nb::brief() ? 11 : 256;
const auto slip_at = [slips_told](size_t place) {
  Dataset data(Task::preference, "slips");
  for (uint32_t i = 0; i < slips_told; ++i) {
    const Word word = random_word(5, fold_in(key(22), i));
    Word wrong = word;
    wrong[place] = (wrong[place] + 1 + static_cast<int32_t>(uniform(fold_in(key(23), i)) * (letters - 1))) % letters;
    data.add(example(word, word), i + 1);
    data.add(example(word, wrong), i + 1);
  }
  return data;
};
const Dataset early = slip_at(0), late = slip_at(4);
const int slip_steps = nb::steps(80);
const Aligned early_run = align(*slips, early, {.beta = 0.1}, 5e-3, slip_steps),
              late_run = align(*slips, late, {.beta = 0.1}, 5e-3, slip_steps);

const auto chosen_of = [](const DpoFigures& f) { return f.chosen_log_prob; };
const auto rejected_of = [](const DpoFigures& f) { return f.rejected_log_prob; };
nb::plot({over_steps(early_run, "chosen, first letter", chosen_of),
          over_steps(early_run, "rejected, first letter", rejected_of),
          over_steps(late_run, "chosen, last letter", chosen_of),
          over_steps(late_run, "rejected, last letter", rejected_of)},
         {"Log-probabilities of the answers", "step", "log π"});
const auto slip_row = [](const std::string& name, const Aligned& a) {
  const DpoFigures &f = a.figures.front(), &g = a.figures.back();
  return std::vector{name, fmt::format("{:.2f} -> {:.2f}", f.chosen_log_prob, g.chosen_log_prob),
                     fmt::format("{:.2f} -> {:.2f}", f.rejected_log_prob, g.rejected_log_prob),
                     fmt::format("{:.3f}", g.margin()), fmt::format("{:.2f}", g.accuracy)};
};
nb::table({"wrong letter", "log p of chosen", "log p of rejected", "margin", "accuracy"},
          {slip_row("first", early_run), slip_row("last", late_run)});
const auto fall = [](const Aligned& a) { return a.figures.back().chosen_log_prob - a.figures.front().chosen_log_prob; };
nb::check_learned(early_run.figures.back().accuracy > 0.9 && early_run.figures.back().margin() > 0.15,
          "first letter: margin and accuracy say that all is well");
nb::check_learned(fall(early_run) < -0.4, "while the faultless answer became less likely");
nb::check_learned(fall(late_run) > fall(early_run), "last letter: it fell less");

// %% [markdown]
// Token by token it is as the mechanism says: in each data set the letter that was compared rises. Behind the first
// one all others are pushed down. Before the last one nothing is pushed, the gradients cancel there; that those
// letters sink somewhat all the same is drift: the weights are shared, they move, and nothing in the loss holds those
// letters up.

// %%
NB_CELL
const auto by_place = [](Gemma& model,
                         const Dataset& data) {  // mean log-probability of each letter of the chosen answers
  const NoGrad off;
  const Batch b = batches_in_order(data, data.size())[0];
  const Tensor h = model.hidden({b.ids, b.positions, b.segments});
  const Tensor log_p = linear_log_probs(h, model.head().value(), b.labels);
  std::vector<double> mean(5, 0);
  for (size_t i = 0; i < b.places.size(); i += 2)
    for (int64_t t = 0; t < 5; ++t)
      mean[t] += reshape(log_p, {-1}).at({b.places[i].end - 5 + t}) * 2 / static_cast<double>(b.places.size());
  return mean;
};
std::vector<double> at_base = by_place(*slips, early), at_early = by_place(*early_run.model, early),
                    at_late = by_place(*late_run.model, late);
const auto surprise_of = [](std::vector<double> v) {
  for (double& x : v) x = -x;
  return v;
};
nb::bars({"1", "2", "3", "4", "5"},
         {{"base", surprise_of(at_base)},
          {"first letter wrong", surprise_of(at_early)},
          {"last letter wrong", surprise_of(at_late)}},
         {"Surprise at the letters of the chosen answer", "place", "-log π"});
const auto behind = [](const std::vector<double>& v) { return v[1] + v[2] + v[3] + v[4]; };
nb::check_learned(at_early[0] > at_base[0] && at_late[4] > at_base[4], "the letter that was compared became likelier, in both");
fmt::print("log p by place: base {:.2f}, first letter wrong {:.2f}, last letter wrong {:.2f}\n",
           fmt::join(at_base, " "), fmt::join(at_early, " "), fmt::join(at_late, " "));
nb::check_learned(behind(at_early) < behind(at_base) - 0.5, "the four behind it, the same in both answers, became less likely");

// %% [markdown]
// What helps: pairs that differ late or throughout rather than early and little; a larger β or fewer steps; and an
// anchor, the ordinary loss of the chosen answer added to the gradient (Pang et al. 2024). The anchor pays attention
// to exactly what DPO leaves free. Whatever you do, plot `logps/chosen`.

// %%
NB_CELL
Dataset chosen_only;
for (int64_t i = 0; i < early.size(); i += 2)
  chosen_only.add(
      example({early[i].ids.begin(), early[i].ids.begin() + 5}, {early[i].ids.end() - 5, early[i].ids.end()}), i + 1);
const auto anchored = nb::copy_of(*slips);
Adapters anchored_adapters(*anchored);
anchored_adapters.add("preferences", {.rank = 8, .alpha = 16}, key(12));
anchored->to(nb::device());
const Reference anchored_reference = adapter_off_reference(anchored_adapters, early);
const Loader pair_loader(early, {.batch = batch_size, .seed = 13}), chosen_loader(chosen_only, {.batch = batch_size, .seed = 13});
Dpo anchored_dpo(*anchored, pair_loader, anchored_reference, {}, {.beta = 0.1});
AdamW anchored_optimizer({{parameters(*anchored)}}, {.beta2 = 0.98});
for (int step = 0; step < slip_steps; ++step) {
  anchored_dpo.accumulate(step);
  for (const Batch& b : chosen_loader.at(step))  // gradients add up
    linear_cross_entropy_backward(anchored->hidden({b.ids, b.positions, b.segments}), anchored->head().value(),
                                  b.labels,
                                  Tensor::full(b.labels.shape(), 0.2 / static_cast<double>(b.examples.size())));
  descent_step(anchored_optimizer, 5e-3 * (1 - 1.0 * step / slip_steps));
}
const DpoFigures held =
    evaluate_dpo(*anchored, early, batches_in_order(early, early.size()), anchored_reference, {.beta = 0.1});
fmt::print("with an anchor: log p of chosen {:.2f}, of rejected {:.2f}, margin {:.3f}, accuracy {:.2f}\n",
           held.chosen_log_prob, held.rejected_log_prob, held.margin(), held.accuracy);
nb::check_learned(held.chosen_log_prob > early_run.figures.front().chosen_log_prob - 0.1,
          "with the anchor the chosen answer does not fall");
nb::check_learned(held.margin() > 0.05 && held.accuracy > 0.9, "and the preference is still learned");

// %% [markdown]
// ## Where to read on
//
// - `train/dpo_loss.h`: every loss as plain numbers, and where papers and TRL differ
// - `train/dpo.h` and `.cpp`: the objective; log-probabilities come from the chunked head, so that no table of all logits exists
// - `train/reference_cache.h`: the reference computed once and kept in a file
// - `tensor/kernels/row_losses.h`: the page of the kernel that makes log-probabilities of a block of logits
// - `facet dpo` trains on files of pairs; it prints margins, accuracies and both log-probabilities at every step
// - [Rafailov et al. 2023](https://arxiv.org/abs/2305.18290), section 4; [Azar et al. 2023](https://arxiv.org/abs/2310.12036), section 5: IPO;
//   [Chowdhury et al. 2024](https://arxiv.org/abs/2403.00409): labels that may be wrong; [Pang et al. 2024](https://arxiv.org/abs/2404.19733): the anchor
//
// Try it: let all eleven people agree and watch the margin of `sigmoid` and of `ipo` (`.form = PreferenceLoss::ipo,
// .ipo_sum = true`) over 400 steps. Put the wrong letter in the third place. Give the rejected answers five wrong
// letters.

// %% active="cpp"
return nb::finish();
}

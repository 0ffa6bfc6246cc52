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
// # 08 · Optimizers
//
// Backward says in which direction each weight should go. It does not say how far. That is the optimizer's question, and
// nearly everything one fights with in training hangs on it: the rate, the warm-up, the first steps, why one layer
// learns and another stands still.
//
// This lesson builds the answers one after another, each as an answer to what the one before does badly: plain
// descent, momentum, Adam, AdamW, Lion, Adafactor. Each is written by hand in a few lines of doubles and then held against
// the library's, which must take the same path to the last digits.

// %%
#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <numeric>

#include "autograd/ops.h"
#include "notebooks-cpp/nb.hpp"
#include "notebooks-cpp/small_gemma.h"
#include "optim/adafactor.h"
#include "optim/adamw.h"
#include "optim/clip.h"
#include "optim/lion.h"
#include "optim/schedule.h"
#include "optim/sgd.h"
#include "tensor/rng.h"

using namespace facet;

// %% [markdown]
// ## A valley
//
// Losses of networks look, near a good place, like valleys: steep across, gentle along. The smallest valley has two
// weights, `f(x, y) = (x² + 50 y²) / 2`. Its gradient is `(x, 50 y)`, its bottom is the origin, and it is fifty times
// steeper in one direction than in the other. That number, the *condition*, is what makes descent hard.

// %%
constexpr double steep = 50;
using Pair = std::vector<double>;
double valley(const Pair& p) { return (p[0] * p[0] + steep * p[1] * p[1]) / 2; }
Pair slope(const Pair& p) { return {p[0], steep * p[1]}; }

using Path = std::vector<Pair>;
// Where a rule leads from (-3, 1). A rule changes the point, given the gradient.
Path walk(const std::function<void(Pair& p, const Pair& g)>& rule, int steps) {
  Path path{{-3, 1}};
  for (int i = 0; i < steps; ++i) {
    Pair p = path.back();
    rule(p, slope(p));
    path.push_back(p);
  }
  return path;
}

// The same walk by an optimizer of the library, in double precision.
template <class Kind, class Options>
Path walk_with(const Options& options, double lr, int steps, double weight_decay = 0) {
  Parameter p(Tensor::from(Pair{-3, 1}, {2}));
  Kind optimizer({{.parameters = {&p}, .weight_decay = weight_decay}}, options);
  const Tensor shape = Tensor::from(Pair{1, steep}, {2});
  Path path{{-3, 1}};
  for (int i = 0; i < steps; ++i) {
    backward(sum(square(p.value()) * shape) * 0.5);
    optimizer.step(lr);
    path.push_back(p.value().to_vector());
  }
  return path;
}

double furthest_apart(const Path& a, const Path& b) {
  double most = 0;
  for (size_t i = 0; i < a.size(); ++i)
    for (size_t k = 0; k < a[i].size(); ++k)
      most = std::max(most, std::abs(a[i][k] - b[i][k]) / std::max(1.0, std::abs(b[i][k])));
  return most;
}
nb::Curve drawn(const std::string& name, const Path& path, size_t steps) {
  nb::Curve c{name, {}, {}};
  for (size_t i = 0; i <= std::min(steps, path.size() - 1); ++i) c.x.push_back(path[i][0]), c.y.push_back(path[i][1]);
  return c;
}
// Steps until the loss is a ten-thousandth of what it was and stays there; more than the path holds when it never is.
int arrival(const Path& path) {
  int n = static_cast<int>(path.size());
  while (n > 0 && valley(path[n - 1]) < 1e-4 * valley(path[0])) --n;
  return n;
}

// %% [markdown]
// Adam, by hand. Two running means per weight: of the gradient and of its square. The rest of the lesson explains it.

// %%
struct HandAdam {
  double lr, beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
  bool corrected = true;
  Pair m = {}, v = {};
  int t = 0;
  void operator()(Pair& p, const Pair& g) {
    ++t;
    m.resize(p.size()), v.resize(p.size());
    const double c1 = corrected ? 1 - std::pow(beta1, t) : 1, c2 = corrected ? 1 - std::pow(beta2, t) : 1;
    for (size_t i = 0; i < p.size(); ++i) {
      m[i] = beta1 * m[i] + (1 - beta1) * g[i];
      v[i] = beta2 * v[i] + (1 - beta2) * g[i] * g[i];
      p[i] -= lr * (m[i] / c1) / (std::sqrt(v[i] / c2) + eps);
    }
  }
};

// %% [markdown]
// And, for the end of the lesson, a task for a real model: the letters of a clock. Each row counts up from a random place
// by a random stride, modulo the vocabulary; to predict the next letter, the model must look back at two of them and
// add. The last half of the rows' letters carry loss.

// %%
constexpr int64_t letters = 24, row_length = 12;
struct Counting {
  Tensor ids, labels;
};
Counting counting_rows(Key k, int64_t n) {
  const Tensor start = randint(fold_in(k, 0), {n}, 0, letters), stride = randint(fold_in(k, 1), {n}, 1, 6);
  std::vector<int32_t> ids, labels;
  for (int64_t row = 0; row < n; ++row)
    for (int64_t t = 0; t < row_length; ++t) {
      const auto letter = [&](int64_t at) {
        return static_cast<int32_t>((start.data<int32_t>()[row] + at * stride.data<int32_t>()[row]) % letters);
      };
      ids.push_back(letter(t));
      labels.push_back(t >= 1 && t + 1 < row_length ? letter(t + 1) : -1);
    }
  return {Tensor::from(ids, {n, row_length}), Tensor::from(labels, {n, row_length})};
}

// %% active="cpp"
int main(int argc, char** argv) {
nb::start(argc, argv);

// %% [markdown]
// ## Plain descent, and its one speed limit
//
// `p ← p - η g`. In the valley the two coordinates go their own ways: `x ← (1 - η) x` and `y ← (1 - 50 η) y`. The steep
// one flips its sign when `η > 1/50` and explodes when `|1 - 50η| > 1`, that is `η > 2/50`. So the steepest direction
// sets the limit, and the gentle one must make do with it: near the limit `x` loses 4% a step.

// %%
NB_CELL
const auto descend = [](double lr) {
  return [lr](Pair& p, const Pair& g) {
    for (size_t i = 0; i < p.size(); ++i) p[i] -= lr * g[i];
  };
};
const int steps = 150;
const Path careful = walk(descend(0.9 * 2 / steep), steps), reckless = walk(descend(1.05 * 2 / steep), steps);
fmt::print("loss after {} steps: {:.1e} at 0.9 of the limit, {:.1e} at 1.05\n", steps, valley(careful.back()),
           valley(reckless.back()));
nb::check(valley(careful.back()) < 1e-4 && valley(reckless.back()) > 1e4, "the limit is 2 / steepest, to within 5%");
nb::check(furthest_apart(careful, walk_with<Sgd>(SgdOptions{}, 0.9 * 2 / steep, steps)) < 1e-13,
          "Sgd takes the same path");

// %% [markdown]
// ## Momentum
//
// Remember where you were going: `u ← μ u + g`, `p ← p - η u`. Across the valley the gradients alternate and cancel in
// `u`; along it they agree and add up to `1 / (1 - μ)` of one. The ball rolls. For a valley of condition κ, plain descent needs
// of the order of κ steps, momentum of the order of √κ ([Polyak 1964](https://doi.org/10.1016/0041-5553(64)90137-5)).

// %%
NB_CELL
const auto roll = [](double lr, double mu) {
  return [lr, mu, u = Pair{0, 0}](Pair& p, const Pair& g) mutable {
    for (size_t i = 0; i < p.size(); ++i) {
      u[i] = mu * u[i] + g[i];
      p[i] -= lr * u[i];
    }
  };
};
const double root = std::sqrt(steep);
const double best_mu = std::pow((root - 1) / (root + 1), 2), best_lr = 4 / std::pow(root + 1, 2);
const Path rolled = walk(roll(best_lr, best_mu), steps);
nb::plot({drawn("descent", careful, 30), drawn("momentum", rolled, 30), {"bottom", {0}, {0}, true}},
         {"Two ways down a valley, 30 steps", "x (gentle)", "y (steep)"});
fmt::print("steps to a ten-thousandth of the loss: descent {}, momentum {}\n", arrival(careful), arrival(rolled));
nb::check(arrival(rolled) * 2 < arrival(careful), "momentum arrives in less than half the steps");
nb::check(furthest_apart(rolled, walk_with<Sgd>(SgdOptions{.momentum = best_mu}, best_lr, steps)) < 1e-13,
          "Sgd with momentum takes the same path");

// %% [markdown]
// ## Adam: every weight its own rate
//
// Momentum shares one rate among all weights. In a network the gradients of an embedding row that is seen once a batch
// and of a norm that is seen at every token differ by orders of magnitude. Adam ([Kingma and Ba 2014, algorithm
// 1](https://arxiv.org/abs/1412.6980)) divides each weight's momentum by the root of its mean square:
//
// ```
// m ← β₁ m + (1 - β₁) g          where it is going
// v ← β₂ v + (1 - β₂) g²         how large its gradients are
// p ← p - η m̂ / (√v̂ + ε)         m̂ = m / (1 - β₁ᵗ),  v̂ = v / (1 - β₂ᵗ)
// ```
//
// Two things follow at once. The step does not depend on the scale of the loss: a thousand times the loss gives a thousand
// times `m` and a thousand times `√v`. And while gradients keep their sign, the step is about `η`, whatever their size: the rate *is* how
// far a weight moves.

// %%
NB_CELL
const double lr = 0.1;
const Path adam = walk(HandAdam{lr}, steps);
const Path of_thousand = walk([rule = HandAdam{lr}](Pair& p, const Pair& g) mutable {
  rule(p, {1000 * g[0], 1000 * g[1]});
}, steps);
nb::plot({drawn("momentum", rolled, 60), drawn("Adam", adam, 60), {"bottom", {0}, {0}, true}},
         {"Adam does not see that the valley is steep", "x (gentle)", "y (steep)"});
nb::check(std::abs(adam[1][0] - (-3 + lr)) < 1e-8 && std::abs(adam[1][1] - (1 - lr)) < 1e-8,
          "the first step is the rate, in both directions");
nb::check(furthest_apart(adam, of_thousand) < 1e-5, "a thousand times the loss: the same path");
nb::check(furthest_apart(adam, walk_with<AdamW>(AdamWOptions{}, lr, steps)) < 1e-12, "AdamW takes the same path");

// %% [markdown]
// Adam sees coordinates, not directions. Turn the valley by 45° and both weights have the same mixture of steep and
// gentle: there is nothing left for it to tell apart, and it needs longer. Descent does not notice, since lengths and angles
// are all it knows.

// %%
NB_CELL
const auto turned = [](auto rule) {  // the rule acts in coordinates that are turned by 45 degrees
  return [rule](Pair& p, const Pair& g) mutable {
    const double c = std::sqrt(0.5);
    const auto turn = [c](const Pair& a) { return Pair{c * (a[0] - a[1]), c * (a[0] + a[1])}; };
    const auto back = [c](const Pair& a) { return Pair{c * (a[0] + a[1]), c * (a[1] - a[0])}; };
    Pair q = turn(p);
    rule(q, turn(g));
    p = back(q);
  };
};
const int long_walk = 1000;
const Path upright = walk(HandAdam{lr}, long_walk), tilted = walk(turned(HandAdam{lr}), long_walk);
nb::plot({drawn("upright", upright, 80), drawn("turned by 45°", tilted, 80), {"bottom", {0}, {0}, true}},
         {"Adam in a valley along the axes and in one across them", "x (gentle)", "y (steep)"});
fmt::print("steps to a ten-thousandth of the loss: upright {}, turned {}\n", arrival(upright), arrival(tilted));
nb::check(furthest_apart(walk(turned(descend(0.03)), steps), walk(descend(0.03), steps)) < 1e-12,
          "plain descent takes the same path in the turned valley");
nb::check(furthest_apart(upright, tilted) > 0.5, "Adam does not");

// %% [markdown]
// ## Why the correction
//
// `m` and `v` start at zero, so at first they are too small: after t steps of a constant gradient `g` they are `(1 - β₁ᵗ) g`
// and `(1 - β₂ᵗ) g²`. Without dividing that out, the step would be `η (1 - β₁ᵗ) / √(1 - β₂ᵗ)`. One might expect small
// first steps. But `v` with its β₂ = 0.999 lags a hundred times more than `m`, and it stands in the denominator.

// %%
NB_CELL
const int t_most = 3000;
std::vector<double> at, with, without, formula;
for (bool corrected : {true, false}) {
  HandAdam rule{1.0};
  rule.corrected = corrected;
  Pair p{0};
  for (int t = 1; t <= t_most; ++t) {
    const double before = p[0];
    rule(p, {-0.01});
    if (t % 5 && t > 50) continue;
    if (corrected) at.push_back(t), formula.push_back((1 - std::pow(0.9, t)) / std::sqrt(1 - std::pow(0.999, t)));
    (corrected ? with : without).push_back(p[0] - before);
  }
}
nb::plot({{"with", at, with}, {"without", at, without}},
         {"Length of a step over the rate, constant gradient", "step", "", true, false});
const double worst = *std::max_element(without.begin(), without.end());
const size_t worst_at = std::max_element(without.begin(), without.end()) - without.begin();
double off = 0;
for (size_t i = 0; i < at.size(); ++i) off = std::max(off, std::abs(without[i] / formula[i] - 1));
fmt::print("without correction: {:.2f} at the first step, {:.2f} at step {:.0f}\n", without[0], worst, at[worst_at]);
nb::check(off < 1e-4, "without, steps are (1 - 0.9ᵗ) / √(1 - 0.999ᵗ)");
nb::check(worst > 6 && without[0] > 3, "too large from the first step on, and more than six times at worst");
nb::check(std::all_of(with.begin(), with.end(), [](double s) { return std::abs(s - 1) < 1e-5; }),
          "with, every step is the rate");

// %% [markdown]
// A pitfall hides here. With gradients that vary, even a corrected `v̂` is a poor estimate at first: after one step, `m̂ / √v̂`
// is ±1 for *every* weight, however noisy its gradient. That, not the bias, is why a warm-up is still wanted.
//
// ## Decay that is not a gradient
//
// Pulling weights towards zero used to mean adding `λ p` to the gradient. Under Adam that goes wrong: the pull is
// divided by `√v` with the rest, so weights with large gradients are hardly pulled at all. AdamW ([Loshchilov and
// Hutter 2017, algorithm 2](https://arxiv.org/abs/1711.05101)) takes it out: `p ← p - η (m̂ / (√v̂ + ε) + λ p)`.
//
// Two weights, both 1, with gradients that are pure noise: one a hundred times louder than the other. Noise has no
// opinion, so all that should remain is the pull, equal for both.

// %%
NB_CELL
const int noisy_steps = 400;
const double decay = 0.1, small_lr = 0.005;
const std::vector<double> noise = normal(key(5), {noisy_steps, 2}).to_vector();
const auto loud = [&](int t, int i) { return noise[2 * t + i] * (i ? 100.0 : 1.0); };

Parameter pulled(Tensor::from(Pair{1, 1}, {2}));
AdamW decoupled({{.parameters = {&pulled}, .weight_decay = decay}}, AdamWOptions{.beta2 = 0.99});
HandAdam l2{small_lr, 0.9, 0.99};
Pair summed{1, 1}, expected{1, 1};
HandAdam noise_alone{small_lr, 0.9, 0.99};
for (int t = 0; t < noisy_steps; ++t) {
  backward(sum(pulled.value() * Tensor::from(Pair{loud(t, 0), loud(t, 1)}, {2})));
  decoupled.step(small_lr);
  l2(summed, {loud(t, 0) + decay * summed[0], loud(t, 1) + decay * summed[1]});
  for (double& p : expected) p *= 1 - small_lr * decay;
  noise_alone(expected, {loud(t, 0), loud(t, 1)});
}
Pair drift{0, 0};
HandAdam drift_rule{small_lr, 0.9, 0.99};
for (int t = 0; t < noisy_steps; ++t) drift_rule(drift, {loud(t, 0), loud(t, 1)});
const Pair ended = pulled.value().to_vector();
nb::table({"weight", "noise alone moves it by", "AdamW: pulled by", "λp in the gradient: pulled by"},
          {{"quiet", fmt::format("{:+.4f}", drift[0]), fmt::format("{:.4f}", 1 + drift[0] - ended[0]),
            fmt::format("{:.4f}", 1 + drift[0] - summed[0])},
           {"loud", fmt::format("{:+.4f}", drift[1]), fmt::format("{:.4f}", 1 + drift[1] - ended[1]),
            fmt::format("{:.4f}", 1 + drift[1] - summed[1])}});
nb::check(std::abs(ended[0] - expected[0]) < 1e-12 && std::abs(ended[1] - expected[1]) < 1e-12,
          "AdamW is Adam after p ← (1 - ηλ) p");
const double pull_quiet = 1 + drift[0] - summed[0], pull_loud = 1 + drift[1] - summed[1];
const double fair_quiet = 1 + drift[0] - ended[0], fair_loud = 1 + drift[1] - ended[1];
nb::check(pull_loud < 0.05 * pull_quiet, "in the gradient, the loud weight is pulled less than a twentieth as much");
nb::check(fair_loud > 0.8 * fair_quiet && fair_loud < 1.25 * fair_quiet, "decoupled, both are pulled alike");

// %% [markdown]
// What should be pulled at all? Matrices. Not norms (Gemma's norm weights are stored around zero, so the pull would be towards
// a scale of one, but still: nothing is gained). `ParameterGroup` is where that is said. And note what *no gradient* means in the
// library: a parameter that took no part in this step's loss is left alone, its decay and its moments included.
//
// ## Lion: only the sign
//
// If Adam's step is about `±η` anyway, why keep `v`? Lion ([Chen et al. 2023, algorithm 2](https://arxiv.org/abs/2302.06675)) was
// found by a search over programs, and it is what is left: the sign of a mixture of momentum and gradient.

// %%
NB_CELL
const auto lion = [](double rate, double beta1, double beta2) {
  return [rate, beta1, beta2, m = Pair{0, 0}](Pair& p, const Pair& g) mutable {
    for (size_t i = 0; i < p.size(); ++i) {
      const double u = beta1 * m[i] + (1 - beta1) * g[i];
      p[i] -= rate * ((u > 0) - (u < 0));
      m[i] = beta2 * m[i] + (1 - beta2) * g[i];
    }
  };
};
const Path by_sign = walk(lion(0.03, 0.9, 0.99), steps);
nb::plot({drawn("Adam", adam, 60), drawn("Lion", by_sign, steps), {"bottom", {0}, {0}, true}},
         {"Lion moves every weight by the rate, at every step", "x (gentle)", "y (steep)"});
bool always_the_rate = true;
for (size_t i = 1; i < by_sign.size(); ++i)
  for (int k : {0, 1}) always_the_rate = always_the_rate && std::abs(std::abs(by_sign[i][k] - by_sign[i - 1][k]) - 0.03) < 1e-12;
nb::check(always_the_rate, "every step of every weight is as long as the rate");
nb::check(furthest_apart(by_sign, walk_with<Lion>(LionOptions{}, 0.03, steps)) < 1e-12, "Lion takes the same path");

// %% [markdown]
// It never stops by itself: at the bottom it jumps to and fro by `η`. Only a falling rate lets it settle. That is why its rates
// are three to ten times smaller than Adam's, and why it is said to need a schedule.
//
// ## Adafactor: a matrix of squares from its margins
//
// For a matrix of R × C weights, Adam's `v` is another R × C numbers. Adafactor ([Shazeer and Stern 2018,
// section 3](https://arxiv.org/abs/1804.04235)) keeps only the means of rows and of columns and puts `v_rc ≈ row_r · col_c /
// mean` in its place: the best guess, in the sense of the divergence of probabilities, when nothing but margins is known. It is exact if rows and columns
// scale independently, which gradients `dy xᵀ` do in the case of a single token.

// %%
NB_CELL
const int64_t R = 12, C = 8;
const auto from_margins = [&](const std::vector<double>& v) {
  std::vector<double> row(R, 0), col(C, 0), guess(R * C);
  double mean = 0;
  for (int64_t r = 0; r < R; ++r)
    for (int64_t c = 0; c < C; ++c) {
      row[r] += v[r * C + c] / C;
      col[c] += v[r * C + c] / R;
      mean += v[r * C + c] / (R * C);
    }
  for (int64_t i = 0; i < R * C; ++i) guess[i] = row[i / C] * col[i % C] / mean;
  return guess;
};
const auto worst_ratio = [&](const std::vector<double>& v, const std::vector<double>& guess) {
  double most = 1;
  for (size_t i = 0; i < v.size(); ++i) most = std::max({most, v[i] / guess[i], guess[i] / v[i]});
  return most;
};
std::vector<double> one_token(R * C), many_tokens(R * C, 0);
const auto dy = normal(key(7), {64, R}).to_vector(), x = normal(key(8), {64, C}).to_vector();
for (int64_t i = 0; i < R * C; ++i) {
  one_token[i] = std::pow(dy[i / C] * x[i % C], 2);
  for (int64_t n = 0; n < 64; ++n) many_tokens[i] += std::pow(dy[n * R + i / C] * x[n * C + i % C], 2) / 64;
}
nb::heatmap(many_tokens, C, {"Squared gradients of a matrix, mean over 64 tokens", "column", "row"});
nb::heatmap(from_margins(many_tokens), C, {"The same from its margins", "column", "row"});
fmt::print("largest ratio between the two: {:.2f}; for one token {:.12f}\n",
           worst_ratio(many_tokens, from_margins(many_tokens)), worst_ratio(one_token, from_margins(one_token)));
nb::check(worst_ratio(one_token, from_margins(one_token)) < 1 + 1e-9, "for one token the margins say everything");
nb::check(worst_ratio(many_tokens, from_margins(many_tokens)) < 4, "for many they are right to a factor of four here");

// %% [markdown]
// One step by hand against the library. At the first step the decay is `1 - 1^-0.8 = 0`, so the moments are this gradient's own. The
// update is bounded to an rms of 1, and the rate is relative: it is multiplied by the weights' own rms.

// %%
NB_CELL
const Tensor w0 = normal(key(9), {R, C}).to(DType::f64), g0 = normal(key(10), {R, C}).to(DType::f64);
Parameter factored(w0.clone());
Adafactor adafactor({{.parameters = {&factored}}}, AdafactorOptions{.least_factored = 8});
backward(sum(factored.value() * g0));
adafactor.step(0.01);

const auto rms = [](const std::vector<double>& a) {
  return std::sqrt(std::inner_product(a.begin(), a.end(), a.begin(), 0.0) / static_cast<double>(a.size()));
};
std::vector<double> squares = g0.to_vector(), u = g0.to_vector(), by_hand = w0.to_vector();
for (double& s : squares) s *= s;
const std::vector<double> second = from_margins(squares);
for (size_t i = 0; i < u.size(); ++i) u[i] /= std::sqrt(second[i]);
const double bound = std::max(1.0, rms(u)), size = rms(by_hand);
for (size_t i = 0; i < u.size(); ++i) by_hand[i] -= 0.01 * size * u[i] / bound;
const std::vector<double> stepped = factored.value().to_vector();
double apart = 0;
for (size_t i = 0; i < u.size(); ++i) apart = std::max(apart, std::abs(stepped[i] - by_hand[i]));
nb::check(apart < 1e-12, "Adafactor's first step is the one by hand");

// %% [markdown]
// ## What each one remembers

// %%
NB_CELL
const int64_t wide = 512;
const auto state_of = [&](auto make) {
  Parameter w(Tensor::zeros({wide, 2 * wide}, DType::f32, nb::device()));
  return static_cast<double>(make(w)->state_bytes()) / static_cast<double>(w.value().numel());
};
const auto groups = [](Parameter& w) { return std::vector<ParameterGroup>{{.parameters = {&w}}}; };
const double of_sgd = state_of([&](Parameter& w) { return std::make_unique<Sgd>(groups(w), SgdOptions{.momentum = 0.9}); });
const double of_adam = state_of([&](Parameter& w) { return std::make_unique<AdamW>(groups(w)); });
const double of_half = state_of([&](Parameter& w) { return std::make_unique<AdamW>(groups(w), AdamWOptions{.bf16_moments = true}); });
const double of_lion = state_of([&](Parameter& w) { return std::make_unique<Lion>(groups(w)); });
const double of_factor = state_of([&](Parameter& w) { return std::make_unique<Adafactor>(groups(w)); });
nb::bars({"Sgd with momentum", "AdamW", "AdamW, bf16 moments", "Lion", "Adafactor"},
         {{"bytes", {of_sgd, of_adam, of_half, of_lion, of_factor}}}, {"Bytes of state per f32 weight, 512 × 1024", "", ""});
nb::check(of_sgd == 4 && of_adam == 8 && of_half == 4 && of_lion == 4, "momentum 4, AdamW 8, with bf16 moments 4, Lion 4");
nb::check(std::abs(of_factor - 4.0 * 3 * wide / (2.0 * wide * wide)) < 1e-9, "Adafactor: 4 (R + C) / (R C)");

// %% [markdown]
// ## Noise, and why rates fall
//
// A batch's gradient is the true one plus noise. At the bottom only the noise is left, and a constant rate keeps stirring. For
// `f = x²/2` with noise of variance σ², plain descent settles at a mean square of `η σ² / (2 - η)`: a floor
// proportional to the rate. A large rate travels fast and settles high, a small one the other way round. A schedule is both, one after
// the other.

// %%
NB_CELL
const int run_length = nb::quick() ? 4000 : 20000;
const auto gusts = normal(key(11), {run_length}).to_vector();
const auto stirred = [&](const std::function<double(int)>& rate) {  // mean squares over windows of the run
  double p = 20;
  std::vector<double> squared;
  for (int t = 0; t < run_length; ++t) {
    p -= rate(t) * (p + gusts[t]);
    squared.push_back(p * p);
  }
  return squared;
};
const auto tail_mean = [](const std::vector<double>& a, double share) {
  const auto n = static_cast<std::ptrdiff_t>(share * static_cast<double>(a.size()));
  return std::accumulate(a.end() - n, a.end(), 0.0) / static_cast<double>(n);
};
const Schedule cosine{Schedule::Shape::cosine, 0, run_length};
const auto high = stirred([](int) { return 0.2; }), low = stirred([](int) { return 0.02; });
const auto falling = stirred([&](int t) { return 0.2 * cosine(t); });
const auto smooth = [&](const std::string& name, const std::vector<double>& a) {
  nb::Curve c{name, {}, {}};
  const size_t window = a.size() / 40;
  for (size_t i = 0; i < 40; ++i) {
    c.x.push_back(static_cast<double>((i + 0.5) * window));
    c.y.push_back(std::accumulate(a.begin() + i * window, a.begin() + (i + 1) * window, 0.0) / window);
  }
  return c;
};
nb::plot({smooth("rate 0.2", high), smooth("rate 0.02", low), smooth("0.2, cosine", falling)},
         {"Mean square distance from the bottom", "step", "", false, true});
fmt::print("floor at 0.2: {:.4f} (formula {:.4f}), at 0.02: {:.4f} ({:.4f}); cosine, last 2%: {:.1e}\n", tail_mean(high, 0.5),
           0.2 / 1.8, tail_mean(low, 0.5), 0.02 / 1.98, tail_mean(falling, 0.02));
nb::check(std::abs(tail_mean(high, 0.5) / (0.2 / 1.8) - 1) < 0.15, "the floor is η / (2 - η)");
nb::check(tail_mean(low, 0.5) < 0.15 * tail_mean(high, 0.5), "a tenth of the rate, about a tenth of the floor");
nb::check(tail_mean(falling, 0.02) < 0.5 * tail_mean(low, 0.5), "a rate that falls to zero ends below both");

// %% [markdown]
// The shapes the library knows. Each is a pure function of the step: nothing to save, nothing to resume. `wsd` (warm up, stay,
// decay; [Hu et al. 2024, section 4](https://arxiv.org/abs/2404.06395)) decides late when it ends: any stable stretch can be
// branched off into a fall. `inverse-sqrt` knows no end at all.

// %%
NB_CELL
const int64_t total = 200, warm = 20;
std::vector<nb::Curve> shapes;
for (auto shape : {Schedule::Shape::constant, Schedule::Shape::linear, Schedule::Shape::cosine, Schedule::Shape::wsd,
                   Schedule::Shape::inverse_sqrt}) {
  const Schedule s{shape, warm, total, 0, 50};
  nb::Curve c{name_of(shape), {}, {}};
  for (int64_t t = 0; t <= total; ++t) c.x.push_back(static_cast<double>(t)), c.y.push_back(s(t));
  shapes.push_back(c);
}
nb::plot(shapes, {"Schedules over 200 steps, 20 of warm-up, the fall of wsd 50 long", "step", "share of the peak rate"});
const auto all_at = [&](size_t t, const std::vector<double>& values) {
  for (size_t k = 0; k < shapes.size(); ++k)
    if (std::abs(shapes[k].y[t] - values[k]) > 1e-12) return false;
  return true;
};
nb::check(all_at(0, {0, 0, 0, 0, 0}) && all_at(10, {0.5, 0.5, 0.5, 0.5, 0.5}), "all warm up alike, and the very first rate is 0");
nb::check(all_at(110, {1, 0.5, 0.5, 1, std::sqrt(20.0 / 110)}), "half-way: linear and cosine at a half, wsd still at the top");
nb::check(all_at(175, {1, 25.0 / 180, 0.5 * (1 + std::cos(M_PI * 155 / 180)), 0.5, std::sqrt(20.0 / 175)}), "wsd falls along a line");

// %% [markdown]
// ## Clipping
//
// Once in a while a batch has a gradient ten times the usual. One such step can undo an hour. The cure ([Pascanu et al. 2012,
// section 3.2](https://arxiv.org/abs/1211.5063)) is to bound the norm of *all gradients together*, which keeps their
// direction: clipping each tensor by itself would turn it. In the library it is a factor that the step applies as it reads.

// %%
NB_CELL
Parameter first(Tensor::zeros({3}, DType::f32, nb::device())), other(Tensor::zeros({2, 2}, DType::f32, nb::device()));
const auto push = [&](double scale) {
  backward(sum(first.value()) * (3 * scale) + sum(other.value()) * (2 * scale));
};
push(1);
std::vector<Parameter*> both{&first, &other};
const Clip c = clip_global_norm(both, 1.0);
const double norm_by_hand = std::sqrt(3 * 9.0 + 4 * 4.0);
fmt::print("norm {:.4f}, factor {:.4f}\n", c.norm, c.scale);
nb::check(std::abs(c.norm - norm_by_hand) < 1e-6 && std::abs(c.scale - 1 / norm_by_hand) < 1e-6, "the norm is that of all gradients as one vector");
Sgd plain({{.parameters = both}});
plain.step(1, c.scale);
const double moved = std::sqrt(std::pow(first.value().at({0}), 2) * 3 + std::pow(other.value().at({0, 0}), 2) * 4);
nb::check(std::abs(moved - 1) < 1e-6, "the clipped step has length 1");
nb::check(std::abs(first.value().at({0}) / other.value().at({0, 0}) - 1.5) < 1e-6, "and the direction it had");
push(INFINITY);
nb::check(!clip_global_norm(both, 1.0).finite(), "a norm that is not finite is reported, never clipped away");
plain.drop_gradients();

// %% [markdown]
// Under Adam clipping does less than it seems: `m / √v` does not know the scale. What it does prevent is one gigantic gradient in
// `v`, which would slow its weights down for a thousand steps.
//
// ## On a model
//
// A small Gemma, twenty thousand weights, learns to count with each of them, at rates found by trying. On so small a model
// momentum does nearly as well as Adam once its rate is found. What differs is what the rate hangs on. Each runs a second time
// with a hundredth of the loss: somebody summed where you averaged, or has a hundred times the tokens in a batch.

// %%
NB_CELL
const int train_steps = nb::steps(120, 50);
struct Learned {
  nb::Curve loss;
  double end = 0;
};
const auto train = [&](const std::string& name, auto make, double peak, double loss_scale = 1) {
  Gemma model(nb::small_gemma(letters));
  model.init(key(1));
  model.to(nb::device());
  auto optimizer = make(parameters(model));
  const Schedule schedule{Schedule::Shape::cosine, 10, train_steps};
  Learned out{{name, {}, {}}, 0};
  for (int step = 0; step < train_steps; ++step) {
    const Counting rows = counting_rows(fold_in(key(2), static_cast<uint32_t>(step)), 16);
    const double each = loss_scale / static_cast<double>(16 * (row_length - 2));
    const double loss = linear_cross_entropy_backward(model.hidden(plain_tokens(rows.ids)), model.head().value(),
                                                      rows.labels, Tensor::full({16, row_length}, each));
    optimizer->step(peak * schedule(step));
    out.loss.x.push_back(step);
    out.loss.y.push_back(loss / loss_scale);
    if (step >= train_steps - 10) out.end += loss / loss_scale / 10;
  }
  return out;
};
using Groups = std::vector<ParameterGroup>;
const auto momentum = [](const auto& p) { return std::make_unique<Sgd>(Groups{{.parameters = p}}, SgdOptions{.momentum = 0.9}); };
const auto adamw = [](const auto& p) { return std::make_unique<AdamW>(Groups{{.parameters = p}}, AdamWOptions{.beta2 = 0.99}); };
const auto signs = [](const auto& p) { return std::make_unique<Lion>(Groups{{.parameters = p}}); };
const auto margins = [](const auto& p) { return std::make_unique<Adafactor>(Groups{{.parameters = p}}, AdafactorOptions{.least_factored = 16}); };
const Learned learned[] = {train("momentum 0.1", momentum, 0.1), train("AdamW 1e-2", adamw, 1e-2), train("Lion 2e-3", signs, 2e-3),
                           train("Adafactor 5e-2", margins, 5e-2)};
const Learned scaled[] = {train("momentum, a hundredth of the loss", momentum, 0.1, 0.01),
                          train("AdamW, a hundredth of the loss", adamw, 1e-2, 0.01)};
std::vector<nb::Curve> losses;
for (const Learned& l : learned) losses.push_back(l.loss);
nb::plot(losses, {"Learning to count", "step", "loss, nats per token"});
nb::plot({learned[0].loss, learned[1].loss, scaled[0].loss, scaled[1].loss},
         {"The same rates with a hundredth of the loss", "step", "loss, nats per token"});
for (const Learned* l : {&learned[0], &learned[1], &learned[2], &learned[3], &scaled[0], &scaled[1]})
  fmt::print("{:<34} {:.3f} nats at the end\n", l->loss.name, l->end);
const double guessing = std::log(static_cast<double>(letters));
const auto is_learning = [&](const Learned& l) { return l.end < guessing - 1; };
nb::check(std::abs(learned[0].loss.y[0] - guessing) < 0.3, "all begin near the logarithm of the vocabulary");
nb::check_learned(std::all_of(std::begin(learned), std::end(learned), is_learning), "all four learn");
nb::check_learned(!is_learning(scaled[0]), "at a hundredth of the loss momentum, at the same rate, does not");
nb::check_learned(std::abs(scaled[1].end - learned[1].end) < 0.1, "Adam does not notice");

// %% [markdown]
// ## What goes wrong
//
// - **ε inside or outside the root**, or next to a `v` of 1e-20: with tiny gradients ε decides the rate. The library has both
//   (`eps`, `eps_root`), because references differ.
// - **Counting from zero.** A bias correction with `t = 0` divides by zero; a schedule that starts at zero makes a first update
//   of nothing. Both are conventions, and both must be known when comparing runs.
// - **Building the optimizer before freezing.** The list of parameters is taken once.
// - **bf16 weights.** Updates below half an ulp (0.2% of the weight) vanish. The library updates an f32 master, or rounds by
//   chance so that updates survive on average.
// - **Resuming without moments.** The first steps are then those of a fresh Adam, ±η for every weight.
//
// ## Where to read on
//
// - [tensor/kernels/adamw.h](../tensor/kernels/adamw.h), [lion.h](../tensor/kernels/lion.h),
//   [adafactor.h](../tensor/kernels/adafactor.h), [sgd.h](../tensor/kernels/sgd.h): formulas, rounding, bytes
// - [optim/optimizer.h](../optim/optimizer.h): groups, state, the loop
// - [optim/clip.h](../optim/clip.h), [optim/schedule.h](../optim/schedule.h)
//
// Try it: give momentum the valley with `steep = 5000` and find the best rate and μ by the formulas above. Replace β₂ = 0.99 by
// 0.999 in the last experiment and look at the first fifty steps. Why does Lion, in the valley, end in a square?

// %% active="cpp"
return nb::finish();
}

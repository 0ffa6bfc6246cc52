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
// # 01 · Autodiff
//
// A program that computes a number is a chain of small steps: add, multiply, take a tanh. We know the slope of every
// small step by heart. The chain rule says that slopes along a chain multiply and that slopes of parallel chains add.
// So the slope of the whole program, with respect to *every* input, is bookkeeping. Autodiff is that bookkeeping.
//
// This lesson climbs two rungs. First a tape for single numbers, short enough to read in a minute. Then the tape this
// library trains with, which is the same idea with tensors for numbers, and a few decisions that make it fast. Each
// claim is checked when the lesson runs; a claim that fails turns red.

// %%
#include <algorithm>
#include <cmath>
#include <complex>
#include <functional>
#include <iostream>
#include <map>
#include <numeric>

#include "autograd/ops.h"
#include "autograd/parameter.h"
#include "notebooks-cpp/nb.hpp"
#include "notebooks-cpp/numbers.h"
#include "tensor/rng.h"

using namespace facet;

// %% [markdown]
// ## A tape for numbers
//
// While the program runs forward, write down each step: its value, which earlier entries it read, and its *slope* with
// respect to each of them. Entries only ever read earlier ones, so the list is already sorted: walking it from the end
// to the start meets every entry after everything that used it. That is the whole algorithm, and `backward` is three
// lines.

// %%
struct Tape {
  struct Entry {
    std::string name;
    double value;
    std::vector<std::pair<int, double>> from;  // which entry was read, and d(this) / d(that)
    double grad = 0;                           // d(result) / d(this)
  };
  std::vector<Entry> entries;

  void backward(int result) {
    for (Entry& e : entries) e.grad = 0;
    entries[result].grad = 1;
    for (int i = result; i >= 0; --i)
      for (const auto& [input, slope] : entries[i].from) entries[input].grad += slope * entries[i].grad;
  }
};

struct Scalar {
  Tape* tape;
  int at;
  double value() const { return tape->entries[at].value; }
  double grad() const { return tape->entries[at].grad; }
};

Scalar record(Tape& tape, std::string name, double value, std::vector<std::pair<int, double>> from = {}) {
  tape.entries.push_back({std::move(name), value, std::move(from)});
  return {&tape, static_cast<int>(tape.entries.size()) - 1};
}

// %% [markdown]
// Now the vocabulary. One line per operation: the value, and a slope for each input. A product's slope with respect to
// one factor is the other factor; the slope of tanh is `1 - tanh²`; exp is its own slope.

// %%
Scalar operator+(Scalar a, Scalar b) {
  return record(*a.tape, "+", a.value() + b.value(), {{a.at, 1}, {b.at, 1}});
}
Scalar operator*(Scalar a, Scalar b) {
  return record(*a.tape, "×", a.value() * b.value(), {{a.at, b.value()}, {b.at, a.value()}});
}
Scalar exp(Scalar x) {
  const double y = std::exp(x.value());
  return record(*x.tape, "exp", y, {{x.at, y}});
}
Scalar sin(Scalar x) {
  return record(*x.tape, "sin", std::sin(x.value()), {{x.at, std::cos(x.value())}});
}
Scalar tanh(Scalar x) {
  const double y = std::tanh(x.value());
  return record(*x.tape, "tanh", y, {{x.at, 1 - y * y}});
}

// %% [markdown]
// Two functions to study. They are templates, so that the same text runs on plain numbers, on our scalars, and further
// down on tensors. Tensors in single precision are made where `--device` says, random ones by `nb::gaussian(seed, shape)`.
// What needs double precision stays on the CPU, since the GPU here knows none; that is every tensor marked `f64` below.

// %%
template <class X>
X neuron(X a, X b) {
  return tanh(a * b + a);
}

template <class X>
X wave(X x) {
  return exp(sin(x));
}

bool near(double found, double expected, double tolerance) {
  return std::abs(found - expected) <= tolerance * std::max(1.0, std::abs(expected));
}

// %% active="cpp"
int main(int argc, char** argv) {
nb::start(argc, argv);

// %% [markdown]
// ## Forward once, backward once
//
// Run `neuron` on two numbers, then walk the tape back. By hand: with `u = ab + a` and `y = tanh u`, the slopes are
// `dy/da = (1 - y²)(b + 1)` and `dy/db = (1 - y²) a`.

// %%
NB_CELL
Tape tape;
const Scalar a = record(tape, "a", 0.8), b = record(tape, "b", -0.4);
const Scalar y = neuron(a, b);
tape.backward(y.at);

const double bend = 1 - y.value() * y.value();
fmt::print("y = {:.6f}   dy/da = {:.6f}   dy/db = {:.6f}\n", y.value(), a.grad(), b.grad());
nb::check(near(a.grad(), bend * (b.value() + 1), 1e-15), "dy/da is what calculus says");
nb::check(near(b.grad(), bend * a.value(), 1e-15), "dy/db is what calculus says");

// %% [markdown]
// The tape drawn as a graph. Values flow to the right; gradients flow to the left, multiplied by each step's slope.
// `a` is read twice, so two slopes arrive there, one through the product and one through the sum, and they add. That
// `+=` in `backward` is the only subtle part of the program: with `=` the last path would win.

// %%
NB_CELL
nb::Graph drawing{"y = tanh(a b + a)", {}, {}};
for (const Tape::Entry& e : tape.entries) {
  const int box = static_cast<int>(drawing.boxes.size());
  drawing.boxes.push_back({fmt::format("{}\nvalue {:.3f}\ngrad {:.3f}", e.name, e.value, e.grad), e.from.empty()});
  for (const auto& edge : e.from) drawing.arrows.emplace_back(edge.first, box);
}
nb::graph(drawing);

const double through_product = bend * b.value(), through_sum = bend;
nb::check(near(a.grad(), through_product + through_sum, 1e-15), "the slopes of the two paths into a add up");

// %% [markdown]
// ## Why backwards
//
// Multiplying the same slopes from the inputs forward would give the same numbers, but one pass *per input*. Walking
// back from one result gives the slope for all inputs in one pass. A model has one loss and millions of inputs: that
// asymmetry is why it can be trained at all. Here are a thousand inputs and one walk, which costs about as much as
// computing the value did.

// %%
NB_CELL
Tape long_tape;
std::vector<Scalar> inputs;
for (int i = 0; i < 1000; ++i) inputs.push_back(record(long_tape, "x", 0.001 * i));
Scalar total = inputs[0] * inputs[0];
for (int i = 1; i < 1000; ++i) total = total + inputs[i] * inputs[i];
long_tape.backward(total.at);

const auto has_slope_2x = [](Scalar x) { return near(x.grad(), 2 * x.value(), 1e-15); };
nb::check(std::all_of(inputs.begin(), inputs.end(), has_slope_2x), "the slope of a sum of squares is 2x, everywhere");
nb::check(long_tape.entries.size() == 2999, "one walk over 1000 inputs, 1000 products and 999 sums");

// %% [markdown]
// ## Is it true? The V curve
//
// A derivative can be tested without calculus: move the input by `h`, see how far the output moves. But which `h`? Too
// large, and the curve bends between the two points. Too small, and both outputs agree in nearly all digits, so that
// their difference is mostly rounding. The error as a function of the step is a **V**.
//
// - One-sided, `(f(x+h) - f(x)) / h`: the bend costs an error of order `h`, rounding costs `ε/h`; best near `√ε ≈
//   1e-8`.
// - Central, `(f(x+h) - f(x-h)) / 2h`: the bend costs `h²`; best near `∛ε ≈ 6e-6`, and some hundred times more exact.
// - Complex step, `Im f(x + ih) / h`: nothing is subtracted, so nothing cancels, and `h` may be as small as you like.

// %%
NB_CELL
Tape wave_tape;
const Scalar x0 = record(wave_tape, "x", 1.0);
wave_tape.backward(wave(x0).at);
const double exact = x0.grad();

std::vector<double> steps, one_sided, central, complex_step;
for (double e = 0; e >= -15; e -= nb::quick() ? 0.25 : 0.05) {
  const double h = std::pow(10, e);
  steps.push_back(h);
  one_sided.push_back(std::abs((wave(1 + h) - wave(1.0)) / h - exact));
  central.push_back(std::abs((wave(1 + h) - wave(1 - h)) / (2 * h) - exact));
  complex_step.push_back(std::max(1e-16, std::abs(wave(std::complex<double>(1, h)).imag() / h - exact)));
}
nb::plot({{"one-sided", steps, one_sided}, {"central", steps, central}, {"complex step", steps, complex_step}},
         {"Error of the derivative of exp(sin x) at x = 1", "step h", "error", true, true});

// %% [markdown]
// The right arms have the slopes the formulas promise, the left arms are rounding, and the bottom is where it should
// be. This is why tests of gradients run in double precision with a step near `1e-5` or `1e-6`: in single precision
// the bottom of the V lies at three digits.

// %%
NB_CELL
const auto central_error = [&](double h) { return std::abs((wave(1 + h) - wave(1 - h)) / (2 * h) - exact); };
const auto one_sided_error = [&](double h) { return std::abs((wave(1 + h) - wave(1.0)) / h - exact); };
const size_t best = std::min_element(central.begin(), central.end()) - central.begin();
double rounding = 0;
for (size_t i = 0; i < steps.size(); ++i)
  if (steps[i] < 1e-12) rounding = std::max(rounding, central[i]);

const double tiny = 1e-200, by_tiny_step = wave(std::complex<double>(1, tiny)).imag() / tiny;

const double one_sided_gain = one_sided_error(1e-3) / one_sided_error(1e-4);
const double central_gain = central_error(1e-2) / central_error(1e-3);
nb::check(near(one_sided_gain, 10, 0.1), "one-sided: a tenth of the step, a tenth of the error");
nb::check(near(central_gain, 100, 0.1), "central: a tenth of the step, a hundredth of the error");
nb::check(steps[best] > 1e-7 && steps[best] < 1e-4, "central: the bottom of the V is near the cube root of ε");
nb::check(central[best] < 1e-9, "and nine digits are right there");
nb::check(rounding > 1e-6, "below h = 1e-12, rounding has taken most digits");
nb::check(near(by_tiny_step, exact, 1e-15), "the complex step is exact even at h = 1e-200");

// %% [markdown]
// ## The same tape, with tensors
//
// One entry per number is a fine way to understand and a slow way to train: a matrix product of 1000 × 1000 would
// write two billion entries. So an entry becomes an operation on whole tensors. What changes:
//
// - The slope of an operation on tensors is a huge matrix (the *Jacobian*), so nobody stores it. An entry keeps what
//   it needs to *multiply by* that matrix: `tanh` keeps its input, `a * b` keeps the partner of whoever wants a
//   gradient, `a + b` keeps nothing.
// - There is no list. Every tensor that came from an operation points at its node, nodes point at their inputs, and a
//   counter remembers the order of creation. Drop the result, and the tape is gone.
// - `leaf(value)` marks where gradients should be collected; `grad_of` reads them.

// %%
NB_CELL
const Tensor ta = leaf(Tensor::scalar(0.8, DType::f64)), tb = leaf(Tensor::scalar(-0.4, DType::f64));
const Tensor ty = neuron(ta, tb);
backward(ty);

std::cout << "y  " << ty << "\nda " << grad_of(ta) << "\ndb " << grad_of(tb) << "\n";
nb::check(near(grad_of(ta).item(), a.grad(), 1e-14), "the tensor tape agrees with ours on dy/da");
nb::check(near(grad_of(tb).item(), b.grad(), 1e-14), "and on dy/db");

// %% [markdown]
// The nodes can be walked by anyone, and drawn in the order of their creation.

// %%
NB_CELL
const auto tape_of = [](const Tensor& result, const std::string& title) {
  std::map<uint64_t, const Node*> nodes;  // by order of creation
  std::vector<const Opaque*> open{result.slot().get()};
  while (!open.empty()) {
    const Node* node = static_cast<const Node*>(open.back());
    open.pop_back();
    if (!nodes.emplace(node->sequence, node).second) continue;
    for (const Edge& e : node->inputs)
      if (e.node) open.push_back(e.node.get());
  }
  nb::Graph g{title, {}, {}};
  std::map<const Opaque*, int> box;
  for (const auto& [sequence, node] : nodes) {
    box[node] = static_cast<int>(g.boxes.size());
    g.boxes.push_back({fmt::format("{}\n{}", node->op, to_string(node->outputs[0].shape)), node->inputs.empty()});
    for (const Edge& e : node->inputs)
      if (e.node) g.arrows.emplace_back(box[e.node.get()], box[node]);
  }
  return g;
};

// %% [markdown]
// Here is the tape of a small network with a squared error. Inputs and targets are not on it: no gradient was asked
// for them, so nothing is recorded for their sake and no work is done for them.

// %%
NB_CELL
const Tensor input = nb::gaussian(1, {4, 3}), target = nb::gaussian(2, {4, 2});
const Tensor w = leaf(nb::gaussian(3, {2, 3})), bias = leaf(Tensor::zeros({2}, DType::f32, nb::device()));
const Tensor error = mean(square(tanh(linear(input, w) + bias) - target));
nb::graph(tape_of(error, "mean((tanh(x wᵀ + bias) - target)²)"));
backward(error);
const bool shapes_agree = grad_of(w).shape() == w.shape() && grad_of(bias).shape() == bias.shape();
nb::check(shapes_agree, "a gradient has the shape of its value");

// %% [markdown]
// The bias has shape `[2]` and was added to four rows. It was read four times, so four slopes arrive, and by the rule
// of the two paths they add: the gradient of a broadcast is a sum over the broadcast dimension.

// %%
NB_CELL
const auto largest_difference = [](const Tensor& p, const Tensor& q) {
  return max(reshape(abs(p - q), {-1})).item();
};

const Tensor rows = leaf(Tensor::zeros({4, 2}, DType::f32, nb::device()));
const Tensor shared = leaf(Tensor::zeros({2}, DType::f32, nb::device()));
backward(sum((rows + shared) * target));
const double broadcast_error = largest_difference(grad_of(shared), sum(grad_of(rows), {0}));
nb::check(broadcast_error < 1e-6, "the gradient of a broadcast is the sum over its copies");

// %% [markdown]
// ## One row of the Jacobian at a time
//
// `backward(y, dy)` multiplies `dy` from the left with the Jacobian of `y`. With `dy` zero but for a single one, that
// is one row of it. Softmax has a Jacobian worth looking at: raising a logit raises its own probability (blue) at the
// expense of all others (orange). In symbols `∂p_i/∂z_j = p_i (δ_ij - p_j)`.

// %%
NB_CELL
const std::vector<double> z{0.2, 1.5, -0.7, 0.9, -1.2, 0.4};
const int n = static_cast<int>(z.size());
std::vector<double> jacobian, formula;
for (int i = 0; i < n; ++i) {
  const Tensor logits = leaf(Tensor::from(z, {n}));
  const Tensor p = softmax(logits);
  std::vector<double> pick(n, 0);
  pick[i] = 1;
  backward(p, Tensor::from(pick, {n}));
  for (double slope : grad_of(logits).to_vector()) jacobian.push_back(slope);
  for (int j = 0; j < n; ++j) formula.push_back(p.at({i}) * ((i == j) - p.at({j})));
}
nb::heatmap(jacobian, n, {"Jacobian of softmax", "logit j", "probability i"});

const double row_sum = std::accumulate(jacobian.begin(), jacobian.begin() + n, 0.0);
const double off = largest_difference(Tensor::from(jacobian, {n * n}), Tensor::from(formula, {n * n}));
nb::check(off < 1e-14, "six walks give the six rows of the formula");
nb::check(std::abs(row_sum) < 1e-15, "a row sums to zero: adding a constant to all logits changes nothing");

// %% [markdown]
// Six walks for six outputs: for a function with as many outputs as inputs, going backwards is no bargain. For a loss,
// which has one output, it is one walk.
//
// ## An operation of your own
//
// A gradient is a plain struct: what it saved, and `operator()` with the gradients that arrive (`dy`, one per output)
// and the places where they go (`dx`, one per input). An empty place means nobody wants that gradient. `attach` hangs
// the struct on the result. Nothing is registered anywhere.

// %%
NB_CELL
struct CubeGrad {
  Saved x;
  void operator()(Grads dy, Sinks dx) {
    if (dx[0]) dx[0].pass(3.0 * square(x.get()) * dy[0]);
  }
};
const auto cube = [](const Tensor& x) {
  const Tensor plain = x.detach();
  Tensor result = plain * plain * plain;
  if (tracing(x)) attach("cube", {&result}, {&x}, CubeGrad{x});
  return result;
};

// %% [markdown]
// The V curve becomes a test for any function of a tensor: nudge each element by `1e-5` both ways, in double
// precision, and compare with the tape. Every operation of the library passes this test, in `tests/ops/`.

// %%
NB_CELL
const auto worst_slope = [](const std::function<Tensor(const Tensor&)>& f, const Tensor& at) {
  const Tensor x = leaf(at);
  backward(f(x));
  const std::vector<double> slopes = grad_of(x).to_vector();
  double worst = 0;
  for (size_t i = 0; i < slopes.size(); ++i) {
    const auto nudged = [&](double h) {
      std::vector<double> values = at.to_vector();
      values[i] += h;
      return f(Tensor::from(values, at.shape())).item();
    };
    worst = std::max(worst, std::abs((nudged(1e-5) - nudged(-1e-5)) / 2e-5 - slopes[i]));
  }
  return worst;
};
const Tensor point = normal(key(4), {3, 4}).to(DType::f64);
const double cube_error = worst_slope([&](const Tensor& x) { return sum(sin(cube(x))); }, point);
const double softmax_error = worst_slope([](const Tensor& x) { return sum(square(softmax(tanh(x)))); }, point);
nb::check(cube_error < 1e-7, "our own operation has the right slope");
nb::check(softmax_error < 1e-9, "so has a chain of the library's");

// %% [markdown]
// ## Sinks: who pays for `+=`
//
// When a tensor is read twice, two gradients meet. The usual way is to compute each into memory of its own and then
// add: one more buffer and one more pass over memory, per meeting. A transformer's residual stream, `x + f(x)`, meets
// once per block.
//
// Here an operation does not *return* gradients. It is handed **sinks**: for each input a destination, and the
// information whether to write or to add. The first writer gets fresh memory, later ones add into it. An addition does
// not compute at all: it *passes* the incoming gradient to both inputs, as two handles on one buffer.
//
// Follow a residual block back. The `+` passes `dy` to `x` and to the branch. The last operation of the branch reads
// `dy`, so `x` may not be overwritten yet. Once that operation is done, its handle is dropped, `x` alone holds the
// buffer, and the first operation of the branch adds right into it. So a branch of two or more operations costs no
// copy and no addition; a branch of one operation reads and writes the same buffer at once and must copy.
// `tape_stats()` counts.

// %%
NB_CELL
const int depth = 8;
const Tensor mixing = leaf(nb::gaussian(5, {16, 16}) * 0.1);
const auto walk = [&](const std::function<Tensor(const Tensor&)>& branch) {
  const Tensor start = leaf(nb::gaussian(6, {4, 16}));
  tape_stats() = {};
  Tensor h = start;
  for (int i = 0; i < depth; ++i) h = h + branch(h);
  backward(h, Tensor::full({4, 16}, 1, DType::f32, nb::device()));
  return tape_stats();
};
const TapeStats one = walk([&](const Tensor& h) { return linear(h, mixing); });
const TapeStats two = walk([&](const Tensor& h) { return linear(tanh(h), mixing); });
const auto row = [](std::string name, const TapeStats& s) {
  return std::vector{name, fmt::to_string(s.nodes), fmt::to_string(s.copies), fmt::to_string(s.adds)};
};
nb::table({"8 blocks of", "nodes", "gradient copies", "gradient additions"},
          {row("x + linear(x)", one), row("x + linear(tanh(x))", two)});
nb::check(two.copies == 0 && two.adds == 0, "a residual block of two operations: no copy, no addition");
nb::check(one.copies == depth && one.adds == 0, "of one operation: exactly one copy each");

// %% [markdown]
// ## Micro-batches are the same mechanism
//
// A leaf's sink is its gradient. So a second `backward` adds to what the first one left, and a batch too large for
// memory can go through in pieces. A `Parameter` is a leaf with a name. The one thing to get right is the weight:
// divide by the rows of the *whole* batch. Dividing each piece by its own rows and averaging the pieces gives a
// different number as soon as the pieces differ in size, a mistake that large trainers have shipped.

// %%
NB_CELL
const Tensor features = normal(key(7), {8, 3}).to(DType::f64), wanted = normal(key(8), {8, 1}).to(DType::f64);
Parameter weight(Tensor::zeros({1, 3}, DType::f64));
const auto squared_error = [&](int64_t begin, int64_t end, double divisor) {
  const Tensor miss = linear(features.slice(0, begin, end), weight.value()) - wanted.slice(0, begin, end);
  return sum(square(miss)) * (1 / divisor);
};
const std::vector<std::pair<int64_t, int64_t>> pieces{{0, 5}, {5, 7}, {7, 8}};

backward(squared_error(0, 8, 8));
const Tensor whole = weight.grad().clone();
weight.clear_grad();
tape_stats() = {};
for (const auto& [begin, end] : pieces) backward(squared_error(begin, end, 8));
const double right = largest_difference(weight.grad(), whole);
const TapeStats accumulation = tape_stats();
weight.clear_grad();
for (const auto& [begin, end] : pieces) backward(squared_error(begin, end, 3.0 * (end - begin)));
const double wrong = largest_difference(weight.grad(), whole);

fmt::print("difference to one batch of 8:  {:.1e} with one divisor, {:.2f} with a mean of means\n", right, wrong);
nb::check(right < 1e-14, "pieces of 5, 2 and 1 rows add up to the whole batch");
nb::check(accumulation.copies == 0 && accumulation.adds == 0, "in place, added by the matrix product itself");
nb::check(wrong > 0.05, "a mean of means is another gradient");

// %% [markdown]
// ## Training is now a loop
//
// Sixteen tanh units learn `sin 3x` from 64 points. Forward, backward, step against the gradient with momentum:
// nothing else is in the loop. The random numbers come from a counter and a key, and sums are formed in a fixed order,
// so the result is the same number every time, bit by bit.

// %%
NB_CELL
const int64_t points = 64;
std::vector<double> grid, truth;
for (int64_t i = 0; i < points; ++i) {
  grid.push_back(-2 + 4.0 * static_cast<double>(i) / (points - 1));
  truth.push_back(std::sin(3 * grid.back()));
}
const Tensor xs = Tensor::from(grid, {points, 1}), ys = Tensor::from(truth, {points, 1});

struct Fit {
  std::vector<double> losses, curve;
};
const auto train = [&](int steps_to_go) {
  const auto keys = split(key(2024), 3);
  const auto random = [](Key k, const Shape& s, double scale) {
    return Parameter((normal(k, s) * scale).to(DType::f64));
  };
  Parameter params[] = {random(keys[0], {16, 1}, 2), random(keys[1], {16}, 1), random(keys[2], {1, 16}, 0.3),
                        Parameter(Tensor::zeros({1}, DType::f64))};
  auto& [w1, b1, w2, b2] = params;
  std::vector<Tensor> speed(4);
  Fit fit;
  for (int step = 0; step < steps_to_go; ++step) {
    const Tensor hidden = tanh(linear(xs, w1.value()) + b1.value());  // [64, 16]
    const Tensor guess = linear(hidden, w2.value()) + b2.value();     // [64, 1]
    const Tensor loss = mean(square(guess - ys));
    backward(loss);
    for (int i = 0; i < 4; ++i) {
      speed[i] = speed[i] ? 0.9 * speed[i] + params[i].grad() : params[i].grad();
      params[i].reset(params[i].value().detach() - 0.15 * speed[i], true);
    }
    fit.losses.push_back(loss.item());
    fit.curve = guess.to_vector();
  }
  return fit;
};
const Fit fit = train(1500);

// %%
NB_CELL
std::vector<double> step_numbers(fit.losses.size());
std::iota(step_numbers.begin(), step_numbers.end(), 0);
nb::plot({{"loss", step_numbers, fit.losses}}, {"Mean squared error", "step", "loss", false, true});
nb::plot({{"network", grid, fit.curve}, {"sin 3x", grid, truth, true}}, {"After 1500 steps", "x", ""});
fmt::print("loss {:.4f} -> {:.2e}\n", fit.losses.front(), fit.losses.back());
nb::check(fit.losses.back() < 5e-4, "the error falls below 0.0005");
nb::check(train(100).losses == train(100).losses, "a second run gives the same bits");

// %% [markdown]
// `reset` gives a parameter a new value and a fresh leaf, so no gradient has to be cleared. A real optimizer writes in
// place instead and keeps the memory it has; see `optim/`.
//
// ## Checkpoint: time for memory
//
// Backward needs what forward saved, so memory grows with depth, and for a large model that is most of it.
// `checkpoint(f, x)` keeps only `x`, drops what `f` saved, and runs `f` again when backward arrives. The bits are the
// same, since the same program runs on the same numbers.

// %%
NB_CELL
const int64_t tokens = 128, width = 16, inner = 64;
std::vector<Parameter> up, down;
for (uint32_t i = 0; i < 8; ++i) {
  up.emplace_back(nb::gaussian(100 + i, {inner, width}) * 0.2);
  down.emplace_back(nb::gaussian(200 + i, {width, inner}) * 0.1);
}
struct Pass {
  double kept_kb;
  Tensor dx, dw;
};
const auto pass = [&](int layers, bool recompute) {
  const Tensor x = leaf(nb::gaussian(9, {tokens, width}));
  Tensor h = x;
  const double before = static_cast<double>(pool_stats(nb::device()).live_bytes);
  for (int i = 0; i < layers; ++i) {
    const auto block = [&, i](const Tensor& t) {
      return t + linear(gelu_tanh(linear(t, up[i].value())), down[i].value());
    };
    h = recompute ? checkpoint(block, h) : block(h);
  }
  const double kept = static_cast<double>(pool_stats(nb::device()).live_bytes) - before;
  backward(h, Tensor::full(h.shape(), 1, DType::f32, nb::device()));
  const Pass result{kept / 1024, grad_of(x), up[0].grad()};
  for (int i = 0; i < layers; ++i) up[i].clear_grad(), down[i].clear_grad();
  return result;
};

// %%
NB_CELL
std::vector<double> layer_counts, kept_all, kept_inputs;
for (int layers = 1; layers <= 8; ++layers) {
  layer_counts.push_back(layers);
  kept_all.push_back(pass(layers, false).kept_kb);
  kept_inputs.push_back(pass(layers, true).kept_kb);
}
nb::plot({{"everything saved", layer_counts, kept_all}, {"checkpoint", layer_counts, kept_inputs}},
         {"Memory held after the forward pass", "blocks", "KiB"});

const Pass saved = pass(8, false), recomputed = pass(8, true);
const bool same_dx = saved.dx.to_vector() == recomputed.dx.to_vector();
const bool same_dw = saved.dw.to_vector() == recomputed.dw.to_vector();
fmt::print("8 blocks: {:.0f} KiB saved, {:.0f} KiB with checkpoint\n", saved.kept_kb, recomputed.kept_kb);
nb::check(recomputed.kept_kb * 5 < saved.kept_kb, "less than a fifth of the memory");
nb::check(same_dx && same_dw, "the gradients are the same, bit by bit");

// %% [markdown]
// ## What the tape refuses
//
// A wrong gradient trains quietly and badly. So whatever would make one is an error, with a message that says what
// happened: walking the same tape twice, overwriting a tensor that backward still needs, and going through an
// operation that has no gradient.

// %%
NB_CELL
const auto message_of = [](const auto& f) -> std::string {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "";
};

const Tensor u = leaf(Tensor::from({1, 2, 3}, {3}));
const Tensor spent = sum(square(u));
backward(spent);
const std::string twice = message_of([&] { backward(spent); });

const Tensor late = sum(square(u));
u.out().as<float>()[0] = 5;
const std::string overwritten = message_of([&] { backward(late); });

Tensor rounded = u.detach().to(DType::i32).to(DType::f32);
attach_no_gradient("round", {&rounded}, {&u});
const std::string no_gradient = message_of([&] { backward(sum(rounded)); });

for (const std::string& m : {twice, overwritten, no_gradient}) fmt::print("{}\n", m);
nb::check(!twice.empty(), "a tape is walked once");
nb::check(!overwritten.empty(), "a saved tensor must not have changed");
nb::check(!no_gradient.empty(), "an operation without a gradient does not pretend to have one");

// %% [markdown]
// And when no gradient is wanted, nothing is recorded.

// %%
NB_CELL
tape_stats() = {};
{
  NoGrad off;
  nb::check(!sum(square(u)).slot() && tape_stats().nodes == 0, "under NoGrad no node is made");
}

// %% [markdown]
// ## Where to read on
//
// - `autograd/tape.h`: nodes, sinks and `checkpoint`, with the rules of ownership
// - `autograd/tape.cpp`: `backward`, some fifty lines
// - `autograd/ops/elementwise.cpp`: the gradients of add, multiply, tanh and their kin
// - `tensor/kernels/elementwise.h`, `tensor/kernels/gemm.h`: the pages of the kernels below them
// - `tests/autograd/tape_test.cpp`: the counts of this lesson, held by tests
// - [Baydin et al. 2018](https://arxiv.org/abs/1502.05767), section 3.2: the reverse mode;
//   [Chen et al. 2016](https://arxiv.org/abs/1604.06174), section 4: computing again instead of keeping
//
// Try it: change `+=` to `=` in the first tape and see which checks turn red.

// %% active="cpp"
return nb::finish();
}

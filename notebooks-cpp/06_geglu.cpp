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
// # 06 · GeGLU
//
// Between two attentions every token thinks for itself: it is widened, bent, and narrowed again. This feed-forward block
// holds most of the weights of a Gemma. In the original transformer the bend was a ReLU between two matrices. Gemma has
// three matrices: one result is bent and *multiplies* another that is not
// ([Shazeer 2020](https://arxiv.org/abs/2002.05202), section 2).
//
// ```text
// y = W_down ( gelu(W_gate x) ⊙ (W_up x) )
// ```
//
// The paper ends with the words that its success is attributed "to divine benevolence". We can do a little better: this
// lesson looks at the bend, derives the gradient, finds out what the product can do that a bend cannot, and then at what
// libraries round differently when they fuse the two products: less than one would think, and more than nothing. The page
// of the kernel is `tensor/kernels/geglu.h`.

// %%
#include <algorithm>
#include <cmath>
#include <complex>
#include <functional>
#include <iostream>
#include <numbers>
#include <numeric>

#include "autograd/ops.h"
#include "autograd/parameter.h"
#include "models/gemma/config.h"
#include "notebooks-cpp/nb.hpp"
#include "notebooks-cpp/numbers.h"
#include "tensor/math.h"
#include "tensor/parallel.h"

using namespace facet;

// %% [markdown]
// GELU ([Hendrycks and Gimpel 2016](https://arxiv.org/abs/1606.08415), section 2) multiplies a number by the probability
// that a standard normal number lies below it: `x Φ(x)`, which needs the error function. Gemma uses the paper's second
// form, with a tanh, as a template over numbers of any kind:

// %%
template <class X>
X gelu_tanh_by_hand(X x) {
  return 0.5 * x * (1.0 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
}
double gelu_erf_by_hand(double x) { return 0.5 * x * std::erfc(-x / std::numbers::sqrt2); }

using Row = std::vector<double>;
nb::Curve over(const Row& xs, const std::string& name, const std::function<double(double)>& f) {
  nb::Curve c{name, xs, {}};
  for (double x : xs) c.y.push_back(f(x));
  return c;
}

// %% active="cpp"
int main(int argc, char** argv) {
nb::start(argc, argv);

// %% [markdown]
// ## The bend
//
// Far to the right GELU passes a number on, far to the left it gives zero, as ReLU does; in between it is smooth and, for a
// while, *negative*. A unit that is slightly off is not dead: it has a slope and can come back.

// %%
NB_CELL
Row xs;
for (double x = -4; x <= 4; x += 0.02) xs.push_back(x);
const nb::Curve tanh_curve = over(xs, "GELU (tanh)", gelu_tanh_by_hand<double>), erf_curve = over(xs, "GELU (erf)", gelu_erf_by_hand),
                relu_curve = over(xs, "ReLU", [](double x) { return std::max(x, 0.0); }),
                silu_curve = over(xs, "SiLU", [](double x) { return x / (1 + std::exp(-x)); });
nb::plot({tanh_curve, erf_curve, relu_curve, silu_curve}, {"Four bends", "x", ""});

const Tensor points = Tensor::from(std::vector<float>(xs.begin(), xs.end()), {std::ssize(xs)}).to(nb::device());
nb::check(nb::largest_difference(gelu_tanh(points).to_vector(), tanh_curve.y) < 5e-7, "the library's gelu_tanh is the formula");
nb::check(nb::largest_difference(gelu_erf(points).to_vector(), erf_curve.y) < 5e-7, "and its gelu_erf the other one");
const auto lowest = std::min_element(tanh_curve.y.begin(), tanh_curve.y.end()) - tanh_curve.y.begin();
fmt::print("lowest point: {:.4f} at x = {:.2f}\n", tanh_curve.y[lowest], xs[lowest]);
nb::check(std::abs(tanh_curve.y[lowest] + 0.17) < 0.001 && std::abs(xs[lowest] + 0.75) < 0.03, "GELU dips to -0.17 near x = -0.75");

// %% [markdown]
// **Pitfall: which GELU.** The two forms differ by less than `5e-4`, so the wrong one is the quietest mistake there is: on the
// reference model the logits move by 0.004, where f32 agrees to `1e-5` and bf16 is off by 0.3 whatever one does. A check
// in bf16 cannot see it. Gemma is the tanh form in all versions, even where an old config file says `"gelu"`.

// %%
NB_CELL
nb::Curve difference{"tanh - erf", xs, {}};
for (size_t i = 0; i < xs.size(); ++i) difference.y.push_back(tanh_curve.y[i] - erf_curve.y[i]);
nb::plot({difference}, {"The difference of the two GELUs", "x", ""});
const double largest_gap = nb::largest_difference(tanh_curve.y, erf_curve.y);
fmt::print("largest difference {:.1e}; half a unit of bf16's last place at 2 is {:.1e}\n", largest_gap, std::ldexp(1.0, -7));
nb::check(largest_gap > 4e-4 && largest_gap < 5e-4, "the two forms differ by 4.7e-4 at most");
nb::check(largest_gap < std::ldexp(1.0, -7), "which is less than bf16 can see at that size");

// %% [markdown]
// ## The slope
//
// With `u = √(2/π) (x + 0.044715 x³)` and `t = tanh u`, the product rule gives
//
// ```text
// gelu'(x) = ½ (1 + t) + ½ x (1 - t²) · √(2/π) (1 + 3 · 0.044715 x²)
// ```
//
// To test a slope without cancellation, take a step into the imaginary plane: `Im f(x + ih) / h` with `h = 1e-200` is
// exact to the last digit (lesson 01). The library's own scalar formula (`tensor/math.h`) is a template, so the very text
// that the kernels run can be stepped.

// %%
NB_CELL
const auto slope_by_hand = [](double x) {
  const double c = std::sqrt(2 / std::numbers::pi), t = std::tanh(c * (x + 0.044715 * x * x * x));
  return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * c * (1 + 3 * 0.044715 * x * x);
};
double stepped_error = 0;
for (double x : xs) {
  const double stepped = math::gelu_tanh(std::complex<double>(x, 1e-200)).imag() / 1e-200;
  stepped_error = std::max(stepped_error, std::abs(stepped - slope_by_hand(x)));
}
nb::plot({over(xs, "GELU", slope_by_hand), over(xs, "ReLU", [](double x) { return x > 0 ? 1.0 : 0.0; })}, {"Their slopes", "x", ""});
nb::check(stepped_error < 1e-14, "the complex step through the library's formula gives the slope derived by hand");
nb::check(slope_by_hand(1.5) > 1 && slope_by_hand(-1.5) < 0, "the slope exceeds 1 on the right and is negative on the left");

// %% [markdown]
// ## The gate and its gradient
//
// GeGLU multiplies: `y = gelu(gate) · up`. So each factor's slope is the other factor:
//
// ```text
// dgate = dy · up · gelu'(gate)        dup = dy · gelu(gate)
// ```
//
// Both are computed in one pass from `gate` and `up`; nothing else needs saving, and a fused kernel writes no
// intermediate that backward would have to read.

// %%
NB_CELL
const Tensor gate = nb::gaussian(1, {8, 33}) * 2, up = nb::gaussian(2, {8, 33});
nb::check(nb::largest_difference(geglu(gate, up), gelu_tanh(gate) * up) < 2e-6, "geglu is gelu_tanh(gate) times up");

const Tensor gate64 = nb::gaussian64(3, {2, 7}), up64 = nb::gaussian64(4, {2, 7}), dy64 = nb::gaussian64(5, {2, 7});
const Tensor gate_leaf = leaf(gate64), up_leaf = leaf(up64);
backward(geglu(gate_leaf, up_leaf), dy64);
Row dgate, dup;
for (size_t i = 0; i < 14; ++i) {
  const double g = gate64.to_vector()[i], u = up64.to_vector()[i], d = dy64.to_vector()[i];
  dgate.push_back(d * u * slope_by_hand(g));
  dup.push_back(d * gelu_tanh_by_hand(g));
}
nb::check(nb::largest_difference(grad_of(gate_leaf).to_vector(), dgate) < 1e-14 && nb::largest_difference(grad_of(up_leaf).to_vector(), dup) < 1e-14,
          "the library's dgate and dup are the formulas");
nb::check(nb::slope_error([&](const Tensor& t) { return sum(geglu(t, up64) * dy64); }, gate64) < 1e-9, "finite differences agree (f64, on the CPU)");

// %% [markdown]
// **Pitfall: which is the gate.** The two matrices have one shape, so nothing but a comparison of values notices when they
// change places. DeepMind's files hold them as one array `[2, F, D]`, index 0 through GELU; Hugging Face's as `gate_proj`
// and `up_proj`. Swapped, the model is another one: its logits move by 12.

// %%
NB_CELL
const double swapped = nb::largest_difference(geglu(gate, up), geglu(up, gate));
nb::check(swapped > 1, "gate and up are not interchangeable");
const Tensor negative = Tensor::full({1}, -3, DType::f32, nb::device()), two = Tensor::full({1}, 2, DType::f32, nb::device());
fmt::print("geglu(-3, 2) = {:.4f}, geglu(2, -3) = {:.4f}\n", geglu(negative, two).item(), geglu(two, negative).item());
nb::check(std::abs(geglu(negative, two).item()) < 0.01 && geglu(two, negative).item() < -5, "a closed gate lets nothing through, a closed up is just a sign");

// %% [markdown]
// ## What a product can do
//
// A bend of a sum can only switch a slope; to multiply two of its inputs a network of bends needs many pieces. A gated unit
// multiplies by nature. Let both learn `x₁ x₂` on a square, with the same number of weights: 24 units with two matrices
// (GELU), or 16 with three. It is a game on the gate's home ground, and shows the mechanism, no more: on language, Shazeer's
// table 1 has the gated ones ahead by a small, steady margin.

// %%
NB_CELL
set_threads(1);
const auto fit = [](bool gated, int steps) {
  const int64_t units = gated ? 16 : 24;
  const auto weight = [](uint64_t seed, const Shape& s, double size) { return Parameter(nb::gaussian64(seed, s) * size); };
  Parameter w[] = {weight(10, {units, 2}, 1), weight(11, {units, 2}, 1), weight(12, {1, units}, 0.3)};
  const Tensor x = uniform(key(13), {256, 2}, -2, 2).to(DType::f64);
  const Tensor wanted = slice(x, 1, 0, 1) * slice(x, 1, 1, 2);
  Tensor m[3], s[3];  // Adam by hand: it is four lines, and the library's keeps f32
  nb::Curve c{gated ? "gated, 16 units" : "GELU, 24 units", {}, {}};
  for (int step = 1; step <= steps; ++step) {
    const Tensor bent = gelu_tanh(linear(x, w[0].value()));
    const Tensor loss = mean(square(linear(gated ? bent * linear(x, w[1].value()) : bent, w[2].value()) - wanted));
    backward(loss);
    for (int i = 0; i < 3; ++i) {
      if (!w[i].grad()) continue;  // without a gate the second matrix has no part in it
      const Tensor g = w[i].grad();
      m[i] = m[i] ? 0.9 * m[i] + 0.1 * g : 0.1 * g;
      s[i] = s[i] ? 0.99 * s[i] + 0.01 * square(g) : 0.01 * square(g);
      const double rate = 0.02 * (1 - 0.9 * step / steps) / (1 - std::pow(0.9, step));
      w[i].reset(w[i].value().detach() - rate * m[i] / (sqrt(s[i] * (1 / (1 - std::pow(0.99, step)))) + 1e-8), true);
    }
    if (step % 10 == 0) c.x.push_back(step), c.y.push_back(loss.item());
  }
  return c;
};
const nb::Curve gated_fit = fit(true, nb::quick() ? 300 : 1500), plain_fit = fit(false, nb::quick() ? 300 : 1500);
nb::plot({gated_fit, plain_fit}, {"Learning x₁ x₂", "step", "mean squared error", false, true});
fmt::print("squared error: {:.1e} gated, {:.1e} with a bend alone\n", gated_fit.y.back(), plain_fit.y.back());
nb::check(gated_fit.y.back() < 0.2 * plain_fit.y.back(), "with as many weights, the gated block is far closer");

// %% [markdown]
// Three matrices cost half as much again as two, so Shazeer narrows `F` to two thirds. Gemma does not stop there:

// %%
NB_CELL
std::vector<std::vector<std::string>> size_rows;
double least_share = 1;
for (const char* name : {"gemma3-270m", "gemma3-1b", "gemma3-4b", "gemma3-12b", "gemma3-27b"}) {
  const GemmaConfig& c = preset(name);
  const double ffn = 3.0 * static_cast<double>(c.layers * c.width * c.hidden);
  const double body = static_cast<double>(c.count_parameters() - c.vocab * c.width);
  least_share = std::min(least_share, ffn / body);
  size_rows.push_back({std::string(name).substr(7), fmt::to_string(c.width), fmt::to_string(c.hidden),
                       fmt::format("{:.1f}", static_cast<double>(c.hidden) / static_cast<double>(c.width)), fmt::format("{:.0f}%", 100 * ffn / body)});
}
nb::table({"size", "D", "F", "F / D", "share of the weights, without the table"}, size_rows);
nb::check(least_share > 0.6, "in every size the feed-forward blocks hold most of the body's weights");

// %% [markdown]
// ## Fused or split
//
// `gate` and `up` read the same `x`, so libraries put both matrices on top of each other and run one product: DeepMind does,
// Hugging Face does not. In exact arithmetic the two are the same. In f32 a product is a sum of `D` terms, and *its order*
// decides the last bits: if a library picks another order for another shape, fused and split differ. That is the first
// entry of everybody's list of unexplained differences (jax issue 29990).
//
// This library promises that a row's bits depend on that row alone: not on how many outputs are computed beside it. So
// here fusing must change nothing at all.

// %%
NB_CELL
const int64_t N = 48, D = 640, F = 96;
const Tensor x = nb::gaussian(20, {N, D}), w_gate = nb::gaussian(21, {F, D}) * 0.04, w_up = nb::gaussian(22, {F, D}) * 0.04;
const Tensor split_y = geglu(linear(x, w_gate), linear(x, w_up));
const Tensor joined = linear(x, concat({w_gate, w_up}, 0));  // [N, 2F]
const Tensor fused_y = geglu(slice(joined, 1, 0, F), slice(joined, 1, F, 2 * F));
int64_t differ = 0;
const Row split_values = split_y.to_vector(), fused_values = fused_y.to_vector();
for (size_t i = 0; i < split_values.size(); ++i) differ += split_values[i] != fused_values[i];
fmt::print("fused against split: {} of {} elements differ\n", differ, split_values.size());
nb::check(nb::device() == Device::cpu ? differ == 0 : nb::largest_difference(split_y, fused_y) < 1e-4,
          "on the CPU fused and split give the same bits (a GPU's library may choose another algorithm)");

// %% [markdown]
// What it would have cost, had the order been another one: sum the same products in f32 in three orders, and count by how
// many units in the last place each result is off the exact one, and the orders off each other. One after the other; in
// 16 lanes, as a vector unit does; and pairwise.

// %%
NB_CELL
const std::vector<float> xf = [&] { const Row r = x.to_vector(); return std::vector<float>(r.begin(), r.end()); }(),
                         gf = [&] { const Row r = w_gate.to_vector(); return std::vector<float>(r.begin(), r.end()); }(),
                         uf = [&] { const Row r = w_up.to_vector(); return std::vector<float>(r.begin(), r.end()); }();
using Summation = std::function<float(const float*, const float*)>;
const Summation in_a_row = [&](const float* a, const float* b) {
  float s = 0;
  for (int64_t i = 0; i < D; ++i) s += a[i] * b[i];
  return s;
};
const Summation in_lanes = [&](const float* a, const float* b) {
  float lane[16] = {};
  for (int64_t i = 0; i < D; ++i) lane[i % 16] += a[i] * b[i];
  for (int step = 8; step > 0; step /= 2)
    for (int i = 0; i < step; ++i) lane[i] += lane[i + step];
  return lane[0];
};
const Summation pairwise = [&](const float* a, const float* b) {
  std::vector<float> terms(D);
  for (int64_t i = 0; i < D; ++i) terms[i] = a[i] * b[i];
  while (terms.size() > 1) {
    std::vector<float> sums;
    for (size_t i = 0; i + 1 < terms.size(); i += 2) sums.push_back(terms[i] + terms[i + 1]);
    if (terms.size() % 2) sums.push_back(terms.back());
    terms = sums;
  }
  return terms[0];
};
const auto geglu_in_order = [&](const Summation& dot) {
  Row y;
  for (int64_t row = 0; row < N; ++row)
    for (int64_t f = 0; f < F; ++f) {
      const float g = dot(&xf[row * D], &gf[f * D]), u = dot(&xf[row * D], &uf[f * D]);
      y.push_back(static_cast<float>(gelu_tanh_by_hand<double>(g) * u));  // rounded once: the order of the sums is the only difference
    }
  return y;
};
Row exact;
for (int64_t row = 0; row < N; ++row)
  for (int64_t f = 0; f < F; ++f) {
    double g = 0, u = 0;
    for (int64_t i = 0; i < D; ++i) {
      g += static_cast<double>(xf[row * D + i]) * gf[f * D + i];
      u += static_cast<double>(xf[row * D + i]) * uf[f * D + i];
    }
    exact.push_back(gelu_tanh_by_hand(g) * u);
  }
const std::vector<std::string> bins{"<½", "½-1", "1-2", "2-4", "4-8", "8-16", "16-32", "more"};
const auto histogram = [&](const std::string& name, const Row& y, const Row& reference, int bits) {
  nb::Bars b{name, Row(bins.size(), 0)};
  for (size_t i = 0; i < y.size(); ++i) {
    const double u = nb::ulps(y[i], reference[i], bits);
    const auto bin = u < 0.5 ? 0 : std::min<int>(std::ilogb(u) + 2, static_cast<int>(bins.size()) - 1);
    b.values[bin] += 1 / static_cast<double>(y.size());
  }
  return b;
};
const Row row_order = geglu_in_order(in_a_row), lane_order = geglu_in_order(in_lanes), pair_order = geglu_in_order(pairwise);
nb::bars(bins, {histogram("one after the other", row_order, exact, 24), histogram("16 lanes", lane_order, exact, 24),
                histogram("pairwise", pair_order, exact, 24), histogram("the library", split_values, exact, 24)},
         {"GeGLU in f32: error by the order of the sums", "units in the last place", "share of the elements"});
nb::bars(bins, {histogram("row against lanes", row_order, lane_order, 24), histogram("row against pairs", row_order, pair_order, 24)},
         {"Two orders against each other: what fused against split looks like elsewhere", "units in the last place", "share of the elements"});
const auto mean_ulps = [&](const Row& y, const Row& reference, int bits) {
  double total = 0;
  for (size_t i = 0; i < y.size(); ++i) total += std::min(64.0, nb::ulps(y[i], reference[i], bits)) / static_cast<double>(y.size());
  return total;
};
double same_bits = 0;
for (size_t i = 0; i < row_order.size(); ++i) same_bits += (row_order[i] == lane_order[i]) / static_cast<double>(row_order.size());
fmt::print("mean error in ulp: {:.1f} in a row, {:.1f} in lanes, {:.1f} pairwise, {:.1f} the library; same bits in a row and in lanes: {:.0f}%\n",
           mean_ulps(row_order, exact, 24), mean_ulps(lane_order, exact, 24), mean_ulps(pair_order, exact, 24),
           mean_ulps(split_values, exact, 24), 100 * same_bits);
nb::check(same_bits < 0.3, "two orders of one sum seldom give the same bits");
nb::check(mean_ulps(lane_order, exact, 24) < 0.6 * mean_ulps(row_order, exact, 24), "sixteen short sums are nearer to the truth than one long one");
nb::check(mean_ulps(split_values, exact, 24) < 1.5 * mean_ulps(row_order, exact, 24), "the library is no worse than a sum in a row");

// %% [markdown]
// So a difference of some units in the last place, nearly everywhere, is the mark of another *order*; it says that both
// sides are right. Measured in units relative to the result it may look large, since a sum that nearly cancels keeps the
// absolute error of its terms.
//
// ## What bf16 adds
//
// Models run in bf16, and there the question is what is rounded on the way. Split, `gate` and `up` are written to memory
// in bf16 and read again: three roundings. A kernel that bends what its product just made, still in f32 registers, has
// one. In bf16 units:

// %%
NB_CELL
const Tensor xb = nb::rounded(x), gb = nb::rounded(w_gate), ub = nb::rounded(w_up);
const Tensor g_exact = linear(xb, gb), u_exact = linear(xb, ub);  // f32 sums of exact products
const Row truth = geglu(g_exact, u_exact).to_vector();
const Row once_rounded = nb::rounded(geglu(g_exact, u_exact)).to_vector(),
          thrice_rounded = geglu(g_exact.to(DType::bf16), u_exact.to(DType::bf16)).to_vector(),
          each_step = (gelu_tanh(g_exact.to(DType::bf16)) * u_exact.to(DType::bf16)).to_vector();
nb::bars(bins, {histogram("once, at the end", once_rounded, truth, 8), histogram("gate and up in bf16", thrice_rounded, truth, 8),
                histogram("GELU's result too", each_step, truth, 8)},
         {"GeGLU in bf16: error by what is rounded", "units in bf16's last place", "share of the elements"});
fmt::print("mean error in bf16 ulp: {:.2f} rounded once, {:.2f} with gate and up, {:.2f} with GELU's result too\n",
           mean_ulps(once_rounded, truth, 8), mean_ulps(thrice_rounded, truth, 8), mean_ulps(each_step, truth, 8));
nb::check(mean_ulps(once_rounded, truth, 8) < 0.26, "one rounding: a quarter of a unit on average");
nb::check(mean_ulps(thrice_rounded, truth, 8) > 1.5 * mean_ulps(once_rounded, truth, 8) && mean_ulps(each_step, truth, 8) > mean_ulps(thrice_rounded, truth, 8),
          "every value that goes through memory in bf16 costs more");

// %% [markdown]
// Hugging Face rounds all of them, and a checkpoint was trained by a library with its own habits. Rounding less is nearer
// to the truth, not nearer to *them*; lesson 07 looks at how far apart that leaves whole models.
//
// ## Where to read on
//
// - `tensor/kernels/geglu.h`: the page of the kernel; `tensor/kernels/linear_geglu.h`: products and bend in one
// - `tensor/math.h`: the scalar formulas, written once for floats, vectors and complex numbers
// - `nn/layers.h`: `GatedMlp`, the block
// - `tests/contracts/ops/geglu.cpp`: what every body must pass
// - `docs/discrepancies.md`: `gelu_erf`, `gate_up_swapped`, `joined_products`, with the size of their effect
// - [Shazeer 2020](https://arxiv.org/abs/2002.05202), section 2 and table 1; [Hendrycks and Gimpel 2016](https://arxiv.org/abs/1606.08415), section 2
//
// Try it: put SiLU in place of GELU in the fit (that is SwiGLU) and see whether anything changes. Then let `fit` learn
// `max(x₁, x₂)`, which is ReLU's home ground.

// %% active="cpp"
return nb::finish();
}

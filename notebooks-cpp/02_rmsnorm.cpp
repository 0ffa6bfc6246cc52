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
// # 02 · RMSNorm
//
// A deep network multiplies matrices, and products of many factors either explode or vanish. Normalisation is the
// cheapest cure: before each layer, forget how *long* the vector is and keep only where it points.
//
// ```text
// y_i = x_i · r · (1 + w_i)        r = 1 / √( mean(x²) + ε )
// ```
//
// That is RMSNorm ([Zhang and Sennrich 2019](https://arxiv.org/abs/1910.07467), section 4) in Gemma's spelling, with
// the weight stored around zero. A Gemma 3 block runs it six times. It is one line, and nearly every port of Gemma got
// that line wrong once: the `1 +`, the ε, or where it is rounded. The page of the kernel is
// `tensor/kernels/rms_norm.h`; here we derive what it says. Each claim is checked when the lesson runs.

// %%
#include <cmath>
#include <iostream>
#include <numeric>

#include "autograd/ops.h"
#include "nn/tap.h"
#include "notebooks-cpp/golden_gemma.h"
#include "notebooks-cpp/nb.hpp"
#include "notebooks-cpp/numbers.h"

using namespace facet;

// %% [markdown]
// The formula with plain loops and double precision. This is the measure for everything that follows.

// %%
using Row = std::vector<double>;

double mean_of_products(const Row& a, const Row& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0) / static_cast<double>(a.size());
}
double rms(const Row& x) { return std::sqrt(mean_of_products(x, x)); }

Row norm_by_hand(const Row& x, const Row& w, double eps) {
  const double r = 1 / std::sqrt(mean_of_products(x, x) + eps);
  Row y(x.size());
  for (size_t i = 0; i < x.size(); ++i) y[i] = x[i] * r * (1 + w[i]);
  return y;
}

// %% active="cpp"
int main(int argc, char** argv) {
nb::start(argc, argv);

// %% [markdown]
// ## Depth multiplies
//
// Forty layers, each a random matrix. If a matrix lengthens vectors by a quarter on average, forty of them lengthen by
// `1.25⁴⁰ ≈ 7500`; if it shortens them by a fifth, what comes out is nothing. With a norm before each layer, the length
// after a layer is that layer's own gain, whatever happened before.

// %%
NB_CELL
const int64_t width = 64, depth = 40;
const Tensor no_weight = Tensor::zeros({width}, DType::f32, nb::device());
const auto lengths = [&](const std::string& name, double gain, bool normed) {
  nb::Curve c{name, {}, {}};
  Tensor x = nb::gaussian(1, {4, width});
  for (int64_t layer = 0; layer < depth; ++layer) {
    if (normed) x = rms_norm(x, no_weight, 1e-6);
    x = linear(x, nb::gaussian(100 + layer, {width, width}) * (gain / std::sqrt(static_cast<double>(width))));
    c.x.push_back(static_cast<double>(layer + 1));
    c.y.push_back(rms(x.to_vector()));
  }
  return c;
};
const nb::Curve grows = lengths("gain 1.25", 1.25, false), fades = lengths("gain 0.8", 0.8, false),
                grows_normed = lengths("gain 1.25, normed", 1.25, true),
                fades_normed = lengths("gain 0.8, normed", 0.8, true);
nb::plot({grows, fades, grows_normed, fades_normed}, {"Length of the activations", "layer", "rms", false, true});
nb::check(grows.y.back() > 1000 && fades.y.back() < 1e-3, "without norms forty layers explode or fade");
nb::check(std::abs(grows_normed.y.back() - 1.25) < 0.3 && std::abs(fades_normed.y.back() - 0.8) < 0.2,
          "with norms the length after a layer is the layer's own gain");

// %% [markdown]
// ## The library's op is the formula
//
// `rms_norm(x, w, eps)` over the last dimension, here 640 wide as in Gemma 3 270M. It computes in single precision and
// differs from the loop above by what single precision costs: a few units in the last place (ulp).

// %%
NB_CELL
const Tensor x = nb::gaussian(2, {3, 640}) * 3, w = nb::gaussian(3, {640}) * 0.2;
const Row found = rms_norm(x, w, 1e-6).to_vector(), weights = w.to_vector();
double worst_ulps = 0;
for (int64_t row = 0; row < 3; ++row) {
  const Row expected = norm_by_hand(x.slice(0, row, row + 1).to_vector(), weights, 1e-6);
  for (size_t i = 0; i < 640; ++i) worst_ulps = std::max(worst_ulps, nb::ulps(found[row * 640 + i], expected[i]));
}
fmt::print("largest error: {:.2f} ulp of f32\n", worst_ulps);
nb::check(worst_ulps < 6, "the library computes the formula, in f32");

// %% [markdown]
// Why not LayerNorm, which subtracts the mean first? For vectors of many independent entries the mean is a small part:
// of the squared length `D`, one direction of `D`. Zhang and Sennrich found that training does not miss it, and the
// norm without it needs one sum where LayerNorm needs two that depend on each other.

// %%
NB_CELL
nb::Curve gap{"|LayerNorm - RMSNorm| / |RMSNorm|", {}, {}}, one_in_d{"1 / √D", {}, {}};
for (int64_t d : {16, 64, 256, 1024, 4096}) {
  const Tensor sample = nb::gaussian(4, {64, d}), none = Tensor::zeros({d}, DType::f32, nb::device()),
               ones = Tensor::full({d}, 1, DType::f32, nb::device());
  const Row with = layer_norm(sample, ones, none, 1e-6).to_vector(), without = rms_norm(sample, none, 1e-6).to_vector();
  Row difference(with.size());
  for (size_t i = 0; i < with.size(); ++i) difference[i] = with[i] - without[i];
  gap.x.push_back(static_cast<double>(d)), gap.y.push_back(rms(difference) / rms(without));
  one_in_d.x.push_back(static_cast<double>(d)), one_in_d.y.push_back(1 / std::sqrt(static_cast<double>(d)));
}
nb::plot({gap, one_in_d}, {"What the mean would change", "width D", "", true, true});
nb::check(gap.y.back() < 0.03, "at width 4096 the two norms differ by less than 3%, on random vectors");

// %% [markdown]
// ## What ε is for
//
// Multiply `x` by 10 and nothing happens to `y`: that is the point. But a row of zeros must not divide by zero, and
// that is what ε is for. It stands **inside** the root, so it is compared with the *square* of the length:
//
// ```text
// rms(y) = s / √(s² + ε)       for a row of length s (and w = 0)
// ```
//
// With `ε = 1e-6` rows shorter than about `1e-3` are no longer brought to length 1. Two mistakes are drawn beside it:
// `1e-5`, the value of LLaMA, and ε outside of the root, `s / (s + ε)`. All three agree where activations are large,
// which is why the mistakes go unnoticed.

// %%
NB_CELL
nb::Curve gemma{"ε = 1e-6 inside the root", {}, {}}, llama{"ε = 1e-5", {}, {}}, outside{"1e-6 outside", {}, {}},
    measured{"the library, ε = 1e-6", {}, {}, true};
const Tensor direction = rms_norm(nb::gaussian(5, {1, width}), no_weight, 0);
double curve_error = 0;
for (double e = -5; e <= 2; e += 0.25) {
  const double s = std::pow(10, e);
  for (nb::Curve* c : {&gemma, &llama, &outside, &measured}) c->x.push_back(s);
  gemma.y.push_back(s / std::sqrt(s * s + 1e-6));
  llama.y.push_back(s / std::sqrt(s * s + 1e-5));
  outside.y.push_back(s / (s + 1e-6));
  measured.y.push_back(rms(rms_norm(direction * s, no_weight, 1e-6).to_vector()));
  curve_error = std::max(curve_error, std::abs(measured.y.back() - gemma.y.back()));
}
nb::plot({gemma, llama, outside, measured}, {"Length of the output", "length s of the input", "rms(y)", true});
nb::check(curve_error < 1e-6, "the library's output has the length s / √(s² + ε)");
const Tensor zeros = Tensor::zeros({1, width}, DType::f32, nb::device());
nb::check(rms(rms_norm(zeros, no_weight, 1e-6).to_vector()) == 0, "a row of zeros gives zeros, not NaN");

// %% [markdown]
// How much does the wrong ε matter in a whole model? To first order `r` changes by a factor `1 - Δε / (2 s²)`. For a row
// of length 1 that is `5e-6`, far more than f32's rounding of `6e-8`; for one of length 0.1 it is `5e-4`, so the shortest
// rows decide. Here are the seven blocks of a small reference model, once with each ε, element by element, with the
// shortest row that a norm of the block reads (the branches are short, the stream is not).

// %%
NB_CELL
struct Blocks {
  std::vector<Row> outputs;
  Row shortest;  // rms of a row that a norm reads
};
const auto run_blocks = [](double eps) {
  Blocks b;
  const auto model = nb::golden_gemma(eps);
  const NoGrad off;
  const Taps taps([&](const std::string& path, const Tensor& value) {
    const bool read_by_norm = path.ends_with(".q") || path.ends_with(".k") || path.ends_with(".attn_out") || path.ends_with(".mlp");
    if (path.ends_with(".q")) b.shortest.push_back(1e9);
    const Row values = value.to_vector();
    const int64_t n = value.dim(-1);
    for (auto row = values.begin(); read_by_norm && row != values.end(); row += n)
      b.shortest.back() = std::min(b.shortest.back(), rms({row, row + n}));
    if (path.ends_with(".out")) b.outputs.push_back(values);
  });
  model->hidden(plain_tokens(randint(key(6), {2, 24}, 0, model->config.vocab)));
  return b;
};
const Blocks right_eps = run_blocks(1e-6), wrong_eps = run_blocks(1e-5);
std::vector<std::vector<std::string>> eps_rows;
nb::Curve change{"largest change / rms", {}, {}}, predicted{"9e-6 / (2 s²) of the shortest row", {}, {}};
double least_share = 1;
for (size_t block = 0; block < right_eps.outputs.size(); ++block) {
  const Row &a = right_eps.outputs[block], &b = wrong_eps.outputs[block];
  const double s = right_eps.shortest[block];
  size_t differ = 0;
  for (size_t i = 0; i < a.size(); ++i) differ += a[i] != b[i];
  least_share = std::min(least_share, static_cast<double>(differ) / static_cast<double>(a.size()));
  for (nb::Curve* c : {&change, &predicted}) c->x.push_back(static_cast<double>(block));
  change.y.push_back(nb::largest_difference(a, b) / rms(a));
  predicted.y.push_back(9e-6 / (2 * s * s));
  eps_rows.push_back({std::to_string(block), fmt::format("{:.2f}", rms(a)), fmt::format("{:.2f}", s),
                      fmt::format("{} of {}", differ, a.size()), fmt::format("{:.1e}", nb::largest_difference(a, b))});
}
nb::table({"block", "rms of the stream", "shortest row", "elements that differ", "largest difference"}, eps_rows);
nb::plot({change, predicted}, {"What ε = 1e-5 does to the blocks", "block", "relative change", false, true});
nb::check(least_share > 0.9, "a wrong ε changes more than nine elements of ten in every block");
nb::check(*std::max_element(change.y.begin(), change.y.end()) < 1e-3, "and no value by as much as a thousandth");

// %% [markdown]
// The prediction is a floor: a block has six norms, whose changes add up, and the largest element of a row is some four
// times its rms. That is the signature of an ε mistake: *everything* is a little off, and nothing is broken. A comparison in bf16 cannot
// see it. One in f32 that counts differing bits can.
//
// ## The gradient
//
// Let `g = dy · (1 + w)` be the gradient at the normalised row `n = x r`. The row depends on `x_j` directly and through
// `r`, whose slope is
//
// ```text
// ∂r/∂x_j = -½ (mean(x²) + ε)^(-3/2) · 2 x_j / D = -r³ x_j / D
// ```
//
// so
//
// ```text
// dx_j = r g_j + Σ_i g_i x_i · (-r³ x_j / D) = r ( g_j - x_j r² mean(g x) )
// dw_i = dy_i x_i r                              (summed over the rows)
// ```
//
// Read the first line as geometry: take `g`, remove its part along `x`, divide by the length of `x`.

// %%
NB_CELL
struct Slopes {
  Row dx, dw;
};
const auto backward_by_hand = [](const Row& dy, const Row& row, const Row& scale, double eps) {
  const double r = 1 / std::sqrt(mean_of_products(row, row) + eps);
  Row g(dy.size());
  for (size_t i = 0; i < g.size(); ++i) g[i] = dy[i] * (1 + scale[i]);
  const double along = mean_of_products(g, row);
  Slopes s{Row(dy.size()), Row(dy.size())};
  for (size_t i = 0; i < g.size(); ++i) {
    s.dx[i] = r * (g[i] - row[i] * r * r * along);
    s.dw[i] = dy[i] * row[i] * r;
  }
  return s;
};

const int64_t D = 24;
const double eps = 1e-6;
const Tensor x64 = nb::gaussian64(7, {1, D}), w64 = nb::gaussian64(8, {D}) * 0.3, dy64 = nb::gaussian64(9, {1, D});
const Tensor x_leaf = leaf(x64), w_leaf = leaf(w64);
backward(rms_norm(x_leaf, w_leaf, eps), dy64);
const Slopes hand = backward_by_hand(dy64.to_vector(), x64.to_vector(), w64.to_vector(), eps);
nb::check(nb::largest_difference(grad_of(x_leaf).to_vector(), hand.dx) < 1e-14, "the library's dx is the formula");
nb::check(nb::largest_difference(grad_of(w_leaf).to_vector(), hand.dw) < 1e-14, "and dw");

const auto loss_of_x = [&](const Tensor& t) { return sum(rms_norm(t, w64, eps) * dy64); };
const auto loss_of_w = [&](const Tensor& t) { return sum(rms_norm(x64, t, eps) * dy64); };
nb::check(nb::slope_error(loss_of_x, x64) < 1e-9 && nb::slope_error(loss_of_w, w64) < 1e-9,
          "finite differences agree (in f64, and therefore on the CPU)");

// %% [markdown]
// Two consequences are worth more than the formula. The gradient has no part along `x`: by the formula,
// `x · dx = r (g · x) · ε / (mean(x²) + ε)`, which is zero but for ε. And it shrinks as `x` grows: twice the input, half
// the gradient. A weight matrix in front of a norm is therefore never told to grow or shrink, and the longer it is, the
// smaller its steps are in proportion: the norm tunes the learning rate of whatever stands before it (section 4.2 of
// the paper).

// %%
NB_CELL
const Row dx = grad_of(x_leaf).to_vector(), at = x64.to_vector();
const double along_x = std::inner_product(dx.begin(), dx.end(), at.begin(), 0.0);
const Tensor twice = leaf(x64 * 2.0);
backward(rms_norm(twice, w64, eps), dy64);
Row doubled = grad_of(twice).to_vector();
for (double& v : doubled) v *= 2;
fmt::print("x · dx = {:.1e}, |x| |dx| = {:.1f}\n", along_x, static_cast<double>(D) * rms(at) * rms(dx));
const double m = mean_of_products(at, at), r_of_at = 1 / std::sqrt(m + eps), D_of_at = static_cast<double>(D);
Row g_of_at = dy64.to_vector();
for (size_t i = 0; i < g_of_at.size(); ++i) g_of_at[i] *= 1 + w64.to_vector()[i];
const double left_by_eps = r_of_at * D_of_at * mean_of_products(g_of_at, at) * eps / (m + eps);
nb::check(std::abs(along_x) < 1e-5, "the gradient is orthogonal to x");
nb::check(std::abs(along_x / left_by_eps - 1) < 1e-6, "and what ε leaves along x is what the formula says");
nb::check(nb::largest_difference(doubled, dx) < 1e-5, "twice the input, half the gradient");

// %% [markdown]
// The Jacobian of a row of eight shows both parts: a diagonal `r` (raise one entry, its output rises), and everywhere
// else `-r n_i n_j / D` (the others must give way, in proportion to their size).

// %%
NB_CELL
const Tensor eight = Tensor::from(std::vector<double>{2, -1, 0.5, 1.5, -0.3, 0.8, -2, 0.1}, {1, 8});
const Tensor no_weight64 = Tensor::zeros({8}, DType::f64);
Row jacobian;
for (int64_t i = 0; i < 8; ++i) {
  const Tensor input = leaf(eight);
  Row pick(8, 0);
  pick[i] = 1;
  backward(rms_norm(input, no_weight64, eps), Tensor::from(pick, {1, 8}));
  for (double slope : grad_of(input).to_vector()) jacobian.push_back(slope);
}
nb::heatmap(jacobian, 8, {"Jacobian of RMSNorm", "input j", "output i"});
Row moved(8, 0);  // J x
for (size_t i = 0; i < 64; ++i) moved[i / 8] += jacobian[i] * eight.to_vector()[i % 8];
nb::check(rms(moved) < 1e-5, "the Jacobian maps x itself to nothing: longer is not different");

// %% [markdown]
// ## Where it is rounded
//
// In bf16 a number has 8 bits, and every rounding costs up to half a unit of the last of them. The formula is the same
// in all libraries; what differs is *when* they round:
//
// - **once**: widen to f32, compute everything including `1 + w`, round the result. Hugging Face's Gemma, gemma_pytorch,
//   gemma.cpp, and this library.
// - **early**: round the normalised row to bf16, then multiply by `1 + w`. That is LLaMA's order, and the first port of
//   Gemma to transformers had it (their issue 29402).
// - **1 + w in bf16**: as the JAX library computes it when its weights are bf16.
//
// Errors in units of bf16's last place, against the exact value.

// %%
NB_CELL
const Tensor xb = nb::rounded(nb::gaussian(10, {32, 1152})), wb = nb::rounded(nb::gaussian(11, {1152}) * 0.2);
const Tensor r_exactly = rsqrt(mean(square(xb), {-1}, true) + eps);
const Tensor once = rms_norm(xb.to(DType::bf16), wb.to(DType::bf16), eps);
const Tensor early = nb::rounded(nb::rounded(xb * r_exactly) * (wb + 1.0));
const Tensor weight_first = nb::rounded(xb * r_exactly * nb::rounded(wb + 1.0));

Row exact_rows;
for (int64_t row = 0; row < 32; ++row)
  for (double v : norm_by_hand(xb.slice(0, row, row + 1).to_vector(), wb.to_vector(), eps)) exact_rows.push_back(v);
struct Errors {
  double worst = 0, mean = 0, beyond_half = 0;
  nb::Bars bars;
};
const auto errors_of = [&](const std::string& name, const Tensor& t) {
  Errors e{0, 0, 0, {name, Row(6, 0)}};
  const Row v = t.to_vector();
  const double share = 1 / static_cast<double>(v.size());
  for (size_t i = 0; i < v.size(); ++i) {
    const double u = nb::ulps(v[i], exact_rows[i], 8);
    e.worst = std::max(e.worst, u);
    e.mean += u * share;
    e.beyond_half += (u > 0.501) * share;
    e.bars.values[std::min<size_t>(5, static_cast<size_t>(u * 4))] += share;
  }
  return e;
};
const Errors e_once = errors_of("once", once), e_early = errors_of("early", early),
             e_weight = errors_of("1 + w in bf16", weight_first);
const auto error_row = [](const Errors& e) {
  return std::vector{e.bars.name, fmt::format("{:.3f}", e.mean), fmt::format("{:.2f}", e.worst),
                     fmt::format("{:.0f}%", 100 * e.beyond_half)};
};
nb::table({"rounded", "mean error", "largest", "not the nearest number"},
          {error_row(e_once), error_row(e_early), error_row(e_weight)});
nb::bars({"0-¼", "¼-½", "½-¾", "¾-1", "1-1¼", "more"}, {e_once.bars, e_early.bars, e_weight.bars},
         {"Error in units of bf16's last place", "", "share of the elements"});
nb::check(e_once.worst < 0.51, "one rounding: every element is the bf16 number nearest to the truth");
nb::check(e_early.beyond_half > 0.1 && e_weight.beyond_half > 0.1, "an early rounding costs many elements a unit");

// %% [markdown]
// ## Why the weight is stored around zero
//
// Between 1 and 2 the numbers of bf16 are `2⁻⁷` apart; near zero they are as dense as one wants. A weight of 0.003, kept
// as `w`, has eight good bits; kept as `1 + w`, it is gone, and so is every small step that training makes. For the
// same reason `1 + w` must be formed in f32. It is a mistake to store one and read the other: GGUF files hold `1 + w`,
// safetensors hold `w`, and whoever adds 1 twice, or never, gets a model that speaks noise.

// %%
NB_CELL
const Tensor small = nb::gaussian(12, {4096}) * 0.002;  // as after a little training
const Row kept = nb::rounded(small).to_vector(), around_one = (nb::rounded(small + 1.0) - 1.0).to_vector();
const double lost = static_cast<double>(std::count(around_one.begin(), around_one.end(), 0.0)) / 4096,
             lost_at_zero = static_cast<double>(std::count(kept.begin(), kept.end(), 0.0)) / 4096;
fmt::print("weights rounded away: {:.0f}% as 1 + w, {:.0f}% as w\n", 100 * lost, 100 * lost_at_zero);
nb::check(lost > 0.6 && lost_at_zero == 0, "most weights of 0.002 vanish in a bf16 that holds 1 + w, none in one of w");

const double right = rms(rms_norm(x, w, 1e-6).to_vector()), no_plus_one = rms((rms_norm(x, w, 1e-6) / (w + 1.0) * w).to_vector());
fmt::print("length of the output: {:.2f} with 1 + w, {:.2f} with w\n", right, no_plus_one);
nb::check(no_plus_one < 0.3 * right, "without the 1 + hardly anything gets through");

// %% [markdown]
// ## A sum that stands still
//
// The worst place to save bits is the sum of squares. Add ones in bf16: at 256 the next number is 258, so `256 + 1`
// rounds back to 256, and the sum never moves again. A row of 1152 ones then has a "mean" of 0.22, and the norm
// more than doubles it. That is what happens to a kernel that accumulates in the type of its input; deep models have
// shipped with it. Sums belong in f32, always.

// %%
NB_CELL
nb::Curve in_bf16{"accumulated in bf16", {}, {}}, in_f32{"in f32", {}, {}};
const auto bf16_of = [](float v) { return static_cast<float>(Tensor::scalar(v).to(DType::bf16).item()); };
float sum_bf16 = 0;
for (int i = 1; i <= 1152; ++i) {
  sum_bf16 = bf16_of(sum_bf16 + 1);
  in_bf16.x.push_back(i), in_bf16.y.push_back(sum_bf16);
  in_f32.x.push_back(i), in_f32.y.push_back(i);
}
nb::plot({in_bf16, in_f32}, {"Summing 1152 ones", "added so far", "sum"});
const Tensor ones_bf16 = Tensor::full({1, 1152}, 1, DType::bf16, nb::device());
const Tensor bf16_weight = Tensor::zeros({1152}, DType::bf16, nb::device());
const double length_of_ones = rms(rms_norm(ones_bf16, bf16_weight, eps).to_vector());
fmt::print("a bf16 sum ends at {}, so the row would come out {:.2f} long; the library's is {}\n", sum_bf16,
           std::sqrt(1152 / sum_bf16), length_of_ones);
nb::check(sum_bf16 == 256, "a sum of ones in bf16 stops at 256");
nb::check(length_of_ones == 1, "the library sums in f32, whatever the input");

// %% [markdown]
// ## With the addition, in one pass
//
// Before nearly every norm stands a residual addition. As two operations they move five arrays through memory: read `x`
// and `h`, write the sum, read it again, write `y`. `add_rms_norm` moves four; a norm is bound by memory, so that is
// the time too. The bits are the same, or the fusion would be a change of the model.

// %%
NB_CELL
const Tensor h = nb::gaussian(13, {3, 640});
const SumNorm together = add_rms_norm(x, h, w, 1e-6);
const Tensor apart = x + h;
nb::check(together.sum.to_vector() == apart.to_vector() && together.norm.to_vector() == rms_norm(apart, w, 1e-6).to_vector(),
          "sum and norm in one pass give the bits of an addition and a norm");

// %% [markdown]
// ## Where to read on
//
// - `tensor/kernels/rms_norm.h`: the page of the kernel, with dtypes, layouts and the order of sums
// - `tensor/cpu/rms_norm.cpp` and `tensor/gpu/rms_norm.cu`: its two bodies
// - `tensor/kernels/add_rms_norm.h`: the fused forms a Gemma block uses
// - `tests/contracts/ops/rms_norm.cpp`: what every body must pass
// - `docs/discrepancies.md`: `norm_eps_1e-5`, `norm_early_downcast`, `norm_w_without_plus_one` and their kin, on whole models
// - [Zhang and Sennrich 2019](https://arxiv.org/abs/1910.07467), section 4; the early rounding:
//   [transformers 29402](https://github.com/huggingface/transformers/pull/29402)
//
// Try it: put ε outside of the root in `norm_by_hand` and see which checks notice. Then find the smallest width at which
// a bf16 sum of squares of *Gaussian* entries is off by more than 1%.

// %% active="cpp"
return nb::finish();
}

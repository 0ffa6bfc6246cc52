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
// # 07b · Embedding, tied head, cross-entropy
//
// A model's first and its last act are the same table. On the way in a token's number picks a row; on the way out the hidden row
// is multiplied with *all* rows, and the products say how well each word would fit. Between the last product and the
// loss lies a softmax over 262,144 words: 63% of Gemma 3 270M's weights are this table, and if one is not careful, most of the memory of a training step is
// its output.
//
// This lesson takes the two ends apart: what the gradient of a lookup is, why sharing the table adds two gradients, how a loss is computed without
// overflow and without ever holding its logits, and what z-loss and label smoothing do to it.

// %%
#include <algorithm>
#include <cmath>
#include <numeric>

#include "autograd/ops.h"
#include "autograd/parameter.h"
#include "models/gemma/config.h"
#include "notebooks-cpp/nb.hpp"
#include "notebooks-cpp/numbers.h"
#include "tensor/storage.h"

using namespace facet;

// %% [markdown]
// ## The loss of one row
//
// Logits `z` are scores without a scale. Softmax makes probabilities of them, cross-entropy is minus the logarithm of the right word's:
//
// ```
// L = -log( exp(z_y) / Σ exp(z_v) ) = lse - z_y,     lse = log Σ exp(z_v)
// ```
//
// Two ways to compute `lse`. Adding a constant to all logits changes no probability, so one may subtract the largest first; then the largest
// exponential is 1 and nothing can overflow.

// %%
double lse_naive(const std::vector<double>& z) {
  double sum = 0;
  for (double x : z) sum += std::exp(x);
  return std::log(sum);
}
double lse_safe(const std::vector<double>& z) {
  const double top = *std::max_element(z.begin(), z.end());
  double sum = 0;
  for (double x : z) sum += std::exp(x - top);
  return top + std::log(sum);
}

// %% [markdown]
// And a third: block by block, without seeing all logits at once. Keep the largest so far and the sum relative to it; when a block brings a larger
// one, the old sum shrinks by `exp(old - new)`. Attention over blocks of keys does the same.

// %%
struct Running {
  double top = -INFINITY, sum = 0;
  void add(std::span<const double> block) {
    const double larger = std::max(top, *std::max_element(block.begin(), block.end()));
    sum *= std::exp(top - larger);
    for (double x : block) sum += std::exp(x - larger);
    top = larger;
  }
  double lse() const { return top + std::log(sum); }
};

std::vector<double> softmax_of(const std::vector<double>& z) {
  const double lse = lse_safe(z);
  std::vector<double> p;
  for (double x : z) p.push_back(std::exp(x - lse));
  return p;
}

// Rows of products h wᵀ in doubles, and the losses of rows, by hand.
std::vector<double> logits_row(const Tensor& h, const Tensor& w, int64_t n) {
  return matmul(w.detach(), reshape(h.detach().slice(0, n, n + 1), {-1, 1})).to_vector();
}
struct HandOptions {
  double smoothing = 0, z = 0, cap = 0;
};
double loss_by_hand(const Tensor& h, const Tensor& w, const std::vector<int32_t>& labels, HandOptions o = {}) {
  double total = 0;
  for (size_t n = 0; n < labels.size(); ++n) {
    if (labels[n] < 0) continue;
    std::vector<double> z = logits_row(h, w, static_cast<int64_t>(n));
    if (o.cap > 0)
      for (double& x : z) x = o.cap * std::tanh(x / o.cap);
    const double lse = lse_safe(z), mean = std::accumulate(z.begin(), z.end(), 0.0) / static_cast<double>(z.size());
    total += (1 - o.smoothing) * (lse - z[labels[n]]) + o.smoothing * (lse - mean) + o.z * lse * lse;
  }
  return total;
}

// %% active="cpp"
int main(int argc, char** argv) {
nb::start(argc, argv);

// %% [markdown]
// ## A lookup is a product
//
// Row `i` of the table is the product of the table with a vector that is 1 at `i` and 0 elsewhere. Nobody computes it so, but the gradient is then
// clear: the transposed product puts each incoming row back where it came from. A token that occurs twice gets two rows, and they add.

// %%
NB_CELL
const int64_t V = 12, D = 6;
const std::vector<int32_t> ids{3, 7, 3, 0};
const Tensor id_tensor = Tensor::from(ids, {4});
const Tensor start = nb::gaussian64(1, {V, D}), dy = nb::gaussian64(2, {4, D});
std::vector<double> ones(4 * V, 0);
for (size_t n = 0; n < ids.size(); ++n) ones[n * V + ids[n]] = 1;
const Tensor one_hot = Tensor::from(ones, {4, V});

const Tensor table = leaf(start), same_table = leaf(start);
const Tensor looked_up = embedding(id_tensor, table, 1, DType::f64), multiplied = matmul(one_hot, same_table);
nb::check(nb::largest_difference(looked_up, multiplied) == 0, "a lookup is a product with one-hot rows");
backward(looked_up, dy);
backward(multiplied, dy);
nb::heatmap(grad_of(table).to_vector(), D, {"Gradient of the table after the tokens 3, 7, 3, 0", "column", "row of the table"});
nb::check(nb::largest_difference(grad_of(table), grad_of(same_table)) < 1e-15, "and so is its gradient");
const Tensor twice = dy.slice(0, 0, 1).clone() + dy.slice(0, 2, 3).clone();
nb::check(nb::largest_difference(grad_of(table).slice(0, 3, 4), twice) < 1e-15, "row 3 got the sum of both its visits");
int untouched = 0;
for (int64_t v = 0; v < V; ++v) untouched += nb::largest_difference(grad_of(table).slice(0, v, v + 1), Tensor::zeros({1, D})) == 0;
nb::check(untouched == V - 3, "rows of tokens that did not occur got nothing at all");

// %% [markdown]
// That last line matters. Most words do not occur in a batch, so an optimizer that keeps pulling their moments and decaying their weights does something to
// rows it knows nothing about; and a dense gradient of the whole table, 262,144 rows of mostly zeros, would be a waste. The library scatters rows straight
// into the gradient that is there.
//
// ## Why √D
//
// The same table serves as head, so its entries must be small: a product of `D` terms should be of size one, that is entries of
// about `1/√D`. But what enters the first block should have entries of size one. Hence the factor: Gemma multiplies rows by `√D` on the way in.

// %%
NB_CELL
const int64_t wide = 640;
const Tensor scaled_table = nb::gaussian64(3, {50, wide}) * (1 / std::sqrt(static_cast<double>(wide)));
const Tensor in = embedding(Tensor::arange(50), scaled_table, std::sqrt(static_cast<double>(wide)), DType::f64);
const auto rms = [](const Tensor& t) { return std::sqrt(mean(square(t)).item()); };
const Tensor products = matmul(in, transpose(scaled_table));  // [50, 50], a row against all rows
const Tensor off_diagonal = where(equal(reshape(Tensor::arange(50), {50, 1}), reshape(Tensor::arange(50), {1, 50})), Tensor::zeros({1}, DType::f64), products);
fmt::print("rms of rows going in {:.3f}, of logits of other words {:.3f}\n", rms(in), rms(off_diagonal));
nb::check(std::abs(rms(in) - 1) < 0.05, "with √D, what goes in has entries of size one");
nb::check(rms(off_diagonal) > 0.8 && rms(off_diagonal) < 1.2, "and logits have size one as well");

// %% [markdown]
// ## One table, two gradients
//
// Tied, the table is read twice, at the bottom and at the top. By the rule of the two paths ([lesson 01](01_autodiff.cpp)) its gradient is the sum of
// what comes from both. With two separate tables that start equal, each gets its part. The two parts are of very different kind: from the lookup a few
// rows, from the head all of them.

// %%
NB_CELL
const Tensor w_mid = nb::gaussian64(4, {D, D});
const std::vector<int32_t> next{7, 3, 0, 5};
const auto loss_with = [&](const Tensor& bottom, const Tensor& top) {
  const Tensor h = tanh(linear(embedding(id_tensor, bottom, 1, DType::f64), w_mid));
  return linear_cross_entropy(h, top, Tensor::from(next, {4}));
};
const Tensor tied = leaf(start), bottom = leaf(start), top = leaf(start);
backward(loss_with(tied, tied));
backward(loss_with(bottom, top));
nb::heatmap(grad_of(bottom).to_vector(), D, {"From the lookup", "column", "row"});
nb::heatmap(grad_of(top).to_vector(), D, {"From the head", "column", "row"});
const Tensor both = grad_of(bottom) + grad_of(top);
nb::check(nb::largest_difference(grad_of(tied), both) < 1e-14, "the tied gradient is the sum of both");
int rows_below = 0, rows_above = 0;
for (int64_t v = 0; v < V; ++v) {
  rows_below += nb::largest_difference(grad_of(bottom).slice(0, v, v + 1), Tensor::zeros({1, D})) > 0;
  rows_above += nb::largest_difference(grad_of(top).slice(0, v, v + 1), Tensor::zeros({1, D})) > 1e-12;
}
nb::check(rows_below == 3 && rows_above == V, "the lookup reaches the words that occurred, the head every word");

// %% [markdown]
// How much of a model is this table? The smaller the model, the more.

// %%
NB_CELL
std::vector<std::string> names;
nb::Bars share{"share of all weights", {}};
for (const char* name : {"gemma3-270m", "gemma3-1b", "gemma3-4b", "gemma3-12b", "gemma3-27b"}) {
  const GemmaConfig& c = preset(name);
  names.push_back(std::string(name).substr(7));
  share.values.push_back(static_cast<double>(c.vocab * c.width) / static_cast<double>(c.count_parameters()));
}
nb::bars(names, {share}, {"The table of 262,144 words", "Gemma 3", "share of weights"});
nb::check(share.values[0] > 0.62 && share.values[0] < 0.63 && std::is_sorted(share.values.rbegin(), share.values.rend()),
          "270M: nearly 63%, and less and less in larger models");

// %% [markdown]
// ## No overflow
//
// In single precision `exp(89)` is infinite, in double precision `exp(710)`. Logits of that size do occur: they are only scores.

// %%
NB_CELL
const std::vector<double> large{1000, 1001, 999}, as_small{0, 1, -1};
fmt::print("naive {}, safe {:.12f}, and the same shifted by hand {:.12f}\n", lse_naive(large), lse_safe(large), 1000 + lse_safe(as_small));
nb::check(std::isinf(lse_naive(large)), "the formula as written overflows");
nb::check(std::abs(lse_safe(large) - (1000 + lse_naive(as_small))) < 1e-12, "subtract the largest first, and it does not");

const Tensor h_large = Tensor::from(std::vector<double>{1000, 1001, 999}, {1, 3});
const Tensor identity = Tensor::from(std::vector<double>{1, 0, 0, 0, 1, 0, 0, 0, 1}, {3, 3});
const double library_loss = linear_cross_entropy(h_large, identity, Tensor::from(std::vector<int32_t>{0}, {1})).item();
nb::check(std::abs(library_loss - (lse_safe(large) - 1000)) < 1e-12, "the library's loss of the same row agrees");

const std::vector<double> many = nb::gaussian64(5, {10'000}).to_vector();
Running running;
for (size_t begin = 0; begin < many.size(); begin += 777) running.add(std::span(many).subspan(begin, std::min<size_t>(777, many.size() - begin)));
nb::check(std::abs(running.lse() - lse_safe(many)) < 1e-12, "block by block: the same");

// %% [markdown]
// ## The gradient is the error
//
// `dL/dz_v = p_v - [v = y]`: what the model said minus what was right. It needs no chain of exponentials and logarithms: nothing
// can vanish or explode in it, each entry lies between -1 and 1, and the entries of a row sum to zero.

// %%
NB_CELL
const int64_t N = 5;
const Tensor h0 = nb::gaussian64(6, {N, D}), w0 = nb::gaussian64(7, {V, D});
const std::vector<int32_t> y{4, -1, 0, 11, -1};  // -1: no loss here
const Tensor labels = Tensor::from(y, {N});
const Tensor h = leaf(h0), w = leaf(w0);
const Tensor loss = linear_cross_entropy(h, w, labels);
backward(loss);
nb::check(std::abs(loss.item() - loss_by_hand(h0, w0, y)) < 1e-12, "the loss by hand is the library's");

std::vector<double> dz(N * V, 0);
for (int64_t n = 0; n < N; ++n) {
  if (y[n] < 0) continue;
  const std::vector<double> p = softmax_of(logits_row(h0, w0, n));
  for (int64_t v = 0; v < V; ++v) dz[n * V + v] = p[v] - (v == y[n]);
}
const Tensor error = Tensor::from(dz, {N, V});
nb::heatmap(dz, static_cast<int>(V), {"p - [v = y]: rows 1 and 4 carry no loss", "word", "row"});
nb::check(nb::largest_difference(grad_of(h), matmul(error, w0)) < 1e-13, "dh = error · w");
nb::check(nb::largest_difference(grad_of(w), matmul(transpose(error), h0)) < 1e-13, "dw = errorᵀ · h");
nb::check(nb::largest_difference(grad_of(h).slice(0, 1, 2), Tensor::zeros({1, D})) == 0, "a row without a label gets exactly nothing");
nb::check(nb::slope_error([&](const Tensor& x) { return linear_cross_entropy(x, w0, labels); }, h0) < 1e-8, "and central differences agree");

// %% [markdown]
// At the start, when the model knows nothing, all words are alike and the loss is `log V`: 12.48 nats for Gemma's 262,144. A first loss far from it is the cheapest alarm there is. `exp(loss)` is
// the *perplexity*: among how many equally likely words the model is, in effect, still choosing.

// %%
NB_CELL
const Tensor nothing_known = linear_cross_entropy(nb::gaussian64(8, {20, D}) * 0.01, w0, randint(key(9), {20}, 0, V), Tensor::full({20}, 1.0 / 20, DType::f64));
fmt::print("first loss {:.4f}, log V {:.4f}, perplexity {:.2f} of {} words\n", nothing_known.item(), std::log(V), std::exp(nothing_known.item()), V);
nb::check(std::abs(nothing_known.item() - std::log(V)) < 0.01, "a model that knows nothing has a loss of log V");
nb::check(std::abs(std::log(262'144.0) - 12.48) < 0.01, "for Gemma 12.48");

// %% [markdown]
// ## Never hold the logits
//
// 8,192 tokens times 262,144 words times 4 bytes are 8.6 GB, and as much again for the gradient. Nobody needs them: a row's loss wants three numbers of its
// logits (`lse`, the label's, and for smoothing their mean), and the gradient can be formed from the logits of a few rows at a time, which are computed again. So the rows
// that carry loss are gathered first, and then go by in blocks. What it costs in memory can be measured. (On the CPU; a GPU takes larger blocks.)

// %%
NB_CELL
const int64_t words = nb::quick() ? 16'384 : 65'536, tokens = 512, width = 32;
const Tensor ht = leaf(normal(key(10), {tokens, width})), wt = leaf(normal(key(11), {words, width}) * 0.2);
const Tensor lt = randint(key(12), {tokens}, 0, words);
const auto peak_of = [](auto f) {
  pool_reset_peak();
  const size_t before = pool_stats().live_bytes;
  f();
  return static_cast<double>(pool_stats().peak_bytes - before);
};
const double fused = peak_of([&] { backward(linear_cross_entropy(ht, wt, lt)); });
const Tensor dh = grad_of(ht), dw = grad_of(wt);
const Tensor hp = leaf(ht.detach()), wp = leaf(wt.detach());
double plain_loss = 0;
const double plain = peak_of([&] {
  const Tensor z = linear(hp, wp);  // [T, V]
  const Tensor l = sum(logsumexp(z)) - sum(gather(z, 1, reshape(lt, {tokens, 1})));
  plain_loss = l.item();
  backward(l);
});
const double logits_bytes = 4.0 * static_cast<double>(tokens * words);
nb::bars({"the fused loss", "logits as a tensor"}, {{"MB", {fused / 1e6, plain / 1e6}}},
         {fmt::format("Peak memory of loss and gradients, {} tokens, {} words", tokens, words), "", "MB"});
fmt::print("the logits alone: {:.0f} MB\n", logits_bytes / 1e6);
nb::check(plain > logits_bytes, "as tensors of their own, logits and what is made of them are held");
nb::check(fused < 0.75 * logits_bytes && fused < 0.3 * plain, "the fused loss never holds them");
const double fused_loss = linear_cross_entropy(ht.detach(), wt.detach(), lt).item();
nb::check(std::abs(fused_loss / plain_loss - 1) < 1e-5 && nb::largest_difference(dh, grad_of(hp)) < 1e-4 && nb::largest_difference(dw, grad_of(wp)) < 1e-4,
          "and its loss and gradients are the same");

// %% [markdown]
// Computed from a tape, the logits are formed twice, once forward and once backward: four products in all (forward, again, `dh`, `dw`). But when the loss is
// the *root* of the step, as in training, the gradient that will come back is known: one. Then loss and gradients are one pass over the blocks, three products.
// `linear_cross_entropy_backward` is that root.

// %%
NB_CELL
const Tensor hr = leaf(h0), wr = leaf(w0);
const double at_root = linear_cross_entropy_backward(hr, wr, labels);
nb::check(std::abs(at_root - loss.item()) < 1e-12, "the root's value is the loss");
nb::check(nb::largest_difference(grad_of(hr), grad_of(h)) < 1e-13 && nb::largest_difference(grad_of(wr), grad_of(w)) < 1e-13, "its gradients are the tape's");

// %% [markdown]
// ## Three changes to the loss
//
// **Label smoothing** ([Szegedy et al. 2015, section 7](https://arxiv.org/abs/1512.00567)) takes a share ε of the target away from the right word and spreads it over all. The model is then asked for certainty up to a
// point: the best logit is a finite distance above the others instead of infinitely far.
//
// **z-loss** ([PaLM, section 5](https://arxiv.org/abs/2204.02311)) adds `z · lse²`. Softmax does not care about a constant added to all logits, so nothing keeps it from drifting; in
// bf16 large logits are coarse. The term pulls `lse` towards zero.
//
// **A soft-cap** (Gemma 2: 30) bends logits by `cap · tanh(z / cap)`: none can leave ±cap, and one close to it hardly learns.

// %%
NB_CELL
const CrossEntropyOptions smoothed{.label_smoothing = 0.1}, pulled{.z_loss = 0.01}, capped{.cap = 2};
nb::check(std::abs(linear_cross_entropy(h0, w0, labels, {}, smoothed).item() - loss_by_hand(h0, w0, y, {.smoothing = 0.1})) < 1e-12, "label smoothing by hand");
nb::check(std::abs(linear_cross_entropy(h0, w0, labels, {}, pulled).item() - loss_by_hand(h0, w0, y, {.z = 0.01})) < 1e-12, "z-loss by hand");
nb::check(std::abs(linear_cross_entropy(h0, w0, labels, {}, capped).item() - loss_by_hand(h0, w0, y, {.cap = 2})) < 1e-12, "soft-cap by hand");

// Free logits, learned directly: w is the identity, so h is z.
const int64_t few = 8;
std::vector<double> eye(few * few, 0);
for (int64_t i = 0; i < few; ++i) eye[i * few + i] = 1;
const Tensor unit = Tensor::from(eye, {few, few});
const auto learn = [&](const CrossEntropyOptions& o, std::vector<double>& lse, std::vector<double>& gap) {
  std::vector<double> z(few, 3.0);  // a drifted start: lse = 3 + log 8
  for (int step = 0; step < 400; ++step) {
    const Tensor x = leaf(Tensor::from(z, {1, few}));
    backward(linear_cross_entropy(x, unit, Tensor::from(std::vector<int32_t>{0}, {1}), {}, o));
    const std::vector<double> g = grad_of(x).to_vector();
    for (int64_t i = 0; i < few; ++i) z[i] -= 0.5 * g[i];
    lse.push_back(lse_safe(z));
    gap.push_back(z[0] - z[1]);
  }
};
std::vector<double> steps(400), lse_plain, gap_plain, lse_smooth, gap_smooth, lse_z, gap_z;
std::iota(steps.begin(), steps.end(), 1);
learn({}, lse_plain, gap_plain);
learn({.label_smoothing = 0.1}, lse_smooth, gap_smooth);
learn({.z_loss = 0.05}, lse_z, gap_z);
nb::plot({{"plain", steps, lse_plain}, {"label smoothing 0.1", steps, lse_smooth}, {"z-loss 0.05", steps, lse_z}},
         {"lse, from logits that all begin at 3", "step", "lse"});
nb::plot({{"plain", steps, gap_plain}, {"label smoothing 0.1", steps, gap_smooth}, {"z-loss 0.05", steps, gap_z}},
         {"How far the right logit is above the others", "step", "z_y - z_v"});
const double best_gap = std::log((0.9 + 0.1 / few) / (0.1 / few));
fmt::print("smoothed gap {:.3f}, formula {:.3f}; lse with z-loss {:.3f}, without {:.3f}\n", gap_smooth.back(), best_gap, lse_z.back(), lse_plain.back());
nb::check(std::abs(gap_smooth.back() - best_gap) < 0.01, "with smoothing the gap stops at log of the ratio of targets");
nb::check(gap_plain.back() > gap_smooth.back() + 1 && gap_plain.back() > gap_plain[200] + 0.3, "without, it goes on growing");
nb::check(std::abs(lse_z.back()) < 0.2 * std::abs(lse_plain.back()), "z-loss holds lse near zero");
double drift = 0;  // the mean of the logits, which plain cross-entropy cannot move
{
  const Tensor x = leaf(nb::gaussian64(13, {1, few}));
  backward(linear_cross_entropy(x, unit, Tensor::from(std::vector<int32_t>{0}, {1})));
  drift = std::abs(sum(grad_of(x)).item());
}
nb::check(drift < 1e-14, "the plain gradient of a row sums to zero: nothing holds the constant");

// %% [markdown]
// ## What goes wrong
//
// - **A mean of means.** The loss of a step is a mean over *tokens*. [Lesson 10](10_training.cpp) shows what averaging per micro-batch does.
// - **Padded rows of the table.** A tokenizer with 500 pieces and a table of 512 rows: the last twelve can be predicted, and decode to nothing.
// - **The factor √D rounded to bf16**, 25.25 instead of 25.298 for a width of 640: another model, if it was trained with the other one.
// - **Logits in bf16.** `lse - z_y` is then a difference of two coarse numbers. Here products are summed in f32 and losses in double precision.
//
// ## Where to read on
//
// - [tensor/kernels/embedding.h](../tensor/kernels/embedding.h): the lookup; [tensor/kernels/logit_rows.h](../tensor/kernels/logit_rows.h): the passes over a block of logits
// - [tensor/kernels/row_losses.h](../tensor/kernels/row_losses.h): any loss of three numbers of a row
// - [autograd/ops/linear_loss.cpp](../autograd/ops/linear_loss.cpp): gathering, blocks, the root
// - Press and Wolf 2016, [tying, section 3](https://arxiv.org/abs/1608.05859)
//
// Try it: how large may a block of rows be before the fused loss needs as much memory as the plain one? Which ε of smoothing makes the best
// gap 3? Give `learn` the cap and watch the gap.

// %% active="cpp"
return nb::finish();
}

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
// # 10 · Training
//
// A step of training is five lines: take a batch, run forward, run backward, clip, update. What makes training hard is not in these lines but around them.
// Is the loss of the step the loss one meant? When a batch does not fit and is cut into pieces, is it still the same step? Which of the three curves on the
// screen says that something is wrong, before an hour is lost? And if the machine goes down, is the run that goes on the run that stopped?
//
// This lesson trains one small model several times, watches, and answers these four.

// %%
#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <numeric>

#include "autograd/ops.h"
#include "data/make_tokenizer.h"
#include "data/prose.h"
#include "data/tokenizer.h"
#include "notebooks-cpp/nb.hpp"
#include "notebooks-cpp/numbers.h"
#include "notebooks-cpp/small_gemma.h"
#include "optim/adamw.h"
#include "optim/clip.h"
#include "optim/schedule.h"

using namespace facet;

// %% [markdown]
// ## Batches as a function of the step
//
// Letters of made-up prose, one token a letter. The rows of step n are drawn with a key made of the seed and n; nothing else decides them. So any step can be
// computed again, and a run can be taken up anywhere. Rows have unequal lengths, as texts have: what lies behind the end is padding, label -1, and does not count.

// %%
constexpr int64_t longest = 32;
struct Batch {
  Tensor ids, labels, mask;  // [B, T]; mask: 1 where there is text
  int64_t counted = 0;       // labels that carry loss
};
Batch make_batch(const Ids& text, const std::vector<int64_t>& begins, const std::vector<int64_t>& lengths) {
  std::vector<int32_t> ids, labels, mask;
  Batch b;
  for (size_t row = 0; row < begins.size(); ++row)
    for (int64_t t = 0; t < longest; ++t) {
      const bool inside = t < lengths[row];
      ids.push_back(inside ? text[begins[row] + t] : 0);
      labels.push_back(inside ? text[begins[row] + t + 1] : -1);
      mask.push_back(inside);
      b.counted += inside;
    }
  const Shape shape{static_cast<int64_t>(begins.size()), longest};
  b.ids = Tensor::from(ids, shape), b.labels = Tensor::from(labels, shape), b.mask = Tensor::from(mask, shape);
  return b;
}
Batch batch_of(const Ids& text, uint64_t seed, int64_t step, int64_t rows) {
  const Key k = fold_in(key(seed), static_cast<uint32_t>(step));
  const auto begin = randint(fold_in(k, 0), {rows}, 0, static_cast<int64_t>(text.size()) - longest - 1).to_vector();
  const auto length = randint(fold_in(k, 1), {rows}, 4, longest + 1).to_vector();
  return make_batch(text, {begin.begin(), begin.end()}, {length.begin(), length.end()});
}
Batch rows_of(const Batch& b, int64_t begin, int64_t end) {
  Batch part{b.ids.slice(0, begin, end).clone(), b.labels.slice(0, begin, end).clone(), b.mask.slice(0, begin, end).clone()};
  for (double m : part.mask.to_vector()) part.counted += m > 0;
  return part;
}

// %% [markdown]
// The loss of a batch: the sum over its tokens, each with a weight, and its gradients on top of those that are there already. The weight is the caller's business, and most of this
// lesson is about it.

// %%
double add_gradients(Gemma& model, const Batch& b, double weight) {
  const Tensor h = model.hidden(masked_tokens(b.ids, b.mask));
  const DType dtype = model.compute();
  return linear_cross_entropy_backward(h, model.head().value(), b.labels, Tensor::full(b.ids.shape(), weight, dtype));
}
std::vector<double> gradients_of(Gemma& model) {  // all of them in a row; forgets them
  std::vector<double> all;
  for (Parameter* p : parameters(model)) {
    const auto g = p->grad().to_vector();
    all.insert(all.end(), g.begin(), g.end());
    p->clear_grad();
  }
  return all;
}
double norm_of(const std::vector<double>& a) { return std::sqrt(std::inner_product(a.begin(), a.end(), a.begin(), 0.0)); }
double relative_difference(const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> d(a.size());
  for (size_t i = 0; i < a.size(); ++i) d[i] = a[i] - b[i];
  return norm_of(d) / norm_of(b);
}
double cosine(const std::vector<double>& a, const std::vector<double>& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0) / (norm_of(a) * norm_of(b));
}
double median(std::vector<double> a) {
  std::nth_element(a.begin(), a.begin() + std::ssize(a) / 2, a.end());
  return a[a.size() / 2];
}

// %% active="cpp"
int main(int argc, char** argv) {
nb::start(argc, argv);

// %% [markdown]
// ## A run and its curves
//
// Three curves, always: the loss, the norm of the gradients, the rate. Two lines to compare the loss with: `log V`, a model that knows nothing, and the *unigram entropy*, one that
// has only counted letters. The first must be where the loss begins. Falling below the second means that the model has begun to read.

// %%
NB_CELL
const std::string prose = make_prose(40'000, 4);
const Tokenizer tokenizer = Tokenizer::from_bytes(char_tokenizer(prose), "letters");
const Ids text = tokenizer.encode(prose);
const int64_t V = tokenizer.vocab_size();
const auto fresh = [&] {
  auto model = std::make_unique<Gemma>(nb::small_gemma(V));
  model->init(key(1));
  model->to(nb::device());
  return model;
};
const int64_t steps = nb::steps(250, 60);
const Schedule schedule{Schedule::Shape::cosine, 10, steps};
const double peak = 1e-2;

std::map<int32_t, double> letters;
for (int32_t id : text) letters[id] += 1.0 / static_cast<double>(text.size());
double unigram = 0;
for (const auto& [id, p] : letters) unigram -= p * std::log(p);

auto model = fresh();
AdamW optimizer({{.parameters = parameters(*model)}}, AdamWOptions{.beta2 = 0.99});
nb::Curve loss{"loss", {}, {}}, norm{"norm of all gradients", {}, {}}, rate{"rate / 1e-2", {}, {}}, speed{"tokens per second", {}, {}};
for (int64_t step = 0; step < steps; ++step) {
  const auto begin = std::chrono::steady_clock::now();
  const Batch b = batch_of(text, 1, step, 16);
  loss.y.push_back(add_gradients(*model, b, 1.0 / static_cast<double>(b.counted)));
  const Clip clip = clip_global_norm(optimizer.parameters(), 1);
  optimizer.step(peak * schedule(step), clip.scale);
  norm.y.push_back(clip.norm);
  rate.y.push_back(schedule(step));
  speed.y.push_back(static_cast<double>(b.counted) / std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  for (nb::Curve* c : {&loss, &norm, &rate, &speed}) c->x.push_back(static_cast<double>(step));
}
const double last_step = static_cast<double>(steps - 1);
nb::plot({loss, {"log V", {0, last_step}, {std::log(V), std::log(V)}}, {"letters counted", {0, last_step}, {unigram, unigram}}},
         {"Loss", "step", "nats per letter"});
nb::plot({norm, rate}, {"Norm of the gradients, and the rate", "step", ""});
if (!nb::quick()) nb::plot({speed}, {"Speed", "step", "tokens per second"});  // a clock's figure: no two runs draw it alike
const int last = std::min<int>(10, std::ssize(loss.y));
const double at_end = std::accumulate(loss.y.end() - last, loss.y.end(), 0.0) / last;
fmt::print("loss {:.3f} at first (log V {:.3f}), {:.3f} at the end; counting letters gives {:.3f}\n", loss.y[0], std::log(V), at_end, unigram);
nb::check(std::abs(loss.y[0] - std::log(V)) < 0.3, "the first loss is that of knowing nothing");
nb::check_learned(at_end < unigram - 0.2, "the last is below that of counting letters: the model reads");

// %% [markdown]
// ## The first test of any trainer
//
// Before a long run: can the model learn *one batch by heart*? If the loss does not go to nearly zero, there is a bug, in the gradient, in the labels, in what is frozen, and no data will help. (Where two rows of the batch
// begin alike the loss cannot reach zero; here each row starts with letters of its own.)

// %%
NB_CELL
auto pupil = fresh();
AdamW by_heart({{.parameters = parameters(*pupil)}}, AdamWOptions{.beta2 = 0.99});
const Batch one = make_batch(text, {100, 2000}, {20, 24});
nb::Curve memory{"one batch", {}, {}};
for (int step = 0; step < nb::steps(150); ++step) {
  memory.x.push_back(step);
  memory.y.push_back(add_gradients(*pupil, one, 1.0 / static_cast<double>(one.counted)));
  by_heart.step(1e-2);
}
nb::plot({memory}, {"Learning one batch by heart", "step", "nats per letter", false, true});
nb::check_learned(memory.y.back() < 0.01, "the loss of one batch goes below 0.01");

// %% [markdown]
// ## Accumulation, right and wrong
//
// A batch of 8 rows does not fit, so it is cut into four micro-batches of 2 whose gradients are added. The loss of the step should be the mean over all its tokens,
//
// ```
// L = Σ over all tokens of loss / N,     N = tokens of the whole step
// ```
//
// and then the cut makes no difference: each token's loss is multiplied by `1/N`, wherever it stands. The library demands just that: a weight, with N counted over the step *before* the first micro-batch.
//
// The usual mistake: each micro-batch takes the mean over *its own* tokens, and the means are averaged. With rows of one length it is the same. With ragged rows a token in a
// short micro-batch counts more than one in a long one. Several trainers did this for years, unnoticed, since the loss still falls
// ([the report of 2024](https://huggingface.co/blog/gradient_accumulation)).
//
// In double precision, so that rounding is no excuse:

// %%
NB_CELL
Gemma exact(nb::small_gemma(V), DType::f64);
exact.init(key(1));
const Batch whole = make_batch(text, {10, 500, 900, 1500, 2100, 2700, 3300, 4000}, {32, 30, 28, 31, 4, 5, 6, 4});
const double N = static_cast<double>(whole.counted);
const auto in_pieces = [&](int64_t rows, bool right) {
  const double pieces = 8.0 / static_cast<double>(rows);
  double value = 0;
  for (int64_t begin = 0; begin < 8; begin += rows) {
    const Batch part = rows_of(whole, begin, begin + rows);
    value += add_gradients(exact, part, right ? 1 / N : 1 / (pieces * static_cast<double>(part.counted)));
  }
  return std::pair{value, gradients_of(exact)};
};
const auto [big_loss, big] = in_pieces(8, true);
std::vector<std::vector<std::string>> table;
double worst_right = 0, least_wrong = 1e9;
for (int64_t rows : {4, 2, 1}) {
  const auto [right_loss, right] = in_pieces(rows, true);
  const auto [wrong_loss, wrong] = in_pieces(rows, false);
  table.push_back({fmt::format("{} × {}", 8 / rows, rows), fmt::format("{:.1e}", relative_difference(right, big)),
                   fmt::format("{:.1f}%", 100 * relative_difference(wrong, big)), fmt::format("{:.4f}", right_loss), fmt::format("{:.4f}", wrong_loss)});
  worst_right = std::max(worst_right, relative_difference(right, big));
  least_wrong = std::min(least_wrong, relative_difference(wrong, big));
}
nb::table({"pieces × rows", "gradient off, 1/N", "gradient off, mean of means", "loss, 1/N", "loss, mean of means"}, table);
fmt::print("the whole batch: loss {:.4f}\n", big_loss);
nb::check(worst_right < 1e-12, "with one weight for all tokens, every cut has the gradient of the whole batch");
nb::check(least_wrong > 0.05, "a mean of means is another gradient: off by more than 5%, however it is cut");

// %% [markdown]
// Whose tokens gain? Relative to its fair weight, a token of a four-letter row counts several times as much. And the more ragged the rows, the further
// the step is from what was meant; with equal rows the mistake is invisible, which is why tests with equal rows do not find it.

// %%
NB_CELL
std::vector<std::string> row_names;
nb::Bars fair{"1/N", {}}, unfair{"mean of means", {}};
for (int64_t row = 0; row < 8; ++row) {
  const Batch part = rows_of(whole, row / 2 * 2, row / 2 * 2 + 2);
  row_names.push_back(fmt::format("row {}: {} letters", row + 1, rows_of(whole, row, row + 1).counted));
  fair.values.push_back(1);
  unfair.values.push_back(N / (4 * static_cast<double>(part.counted)));
}
nb::bars(row_names, {fair, unfair}, {"What a token counts, against what it should", "", ""});
nb::check(unfair.values[7] / unfair.values[0] > 5, "a token of the shortest pair of rows counts more than five times one of the longest");

nb::Curve off{"gradient off, 4 × 2", {}, {}};
for (int64_t shortest : {32, 24, 16, 12, 8, 6, 4}) {
  const Batch b = make_batch(text, {10, 500, 900, 1500, 2100, 2700, 3300, 4000}, {32, 32, 32, 32, shortest, shortest, shortest, shortest});
  const auto together = [&](bool right) {
    for (int64_t begin = 0; begin < 8; begin += 2) {
      const Batch part = rows_of(b, begin, begin + 2);
      add_gradients(exact, part, right ? 1.0 / static_cast<double>(b.counted) : 1 / (4.0 * static_cast<double>(part.counted)));
    }
    return gradients_of(exact);
  };
  off.x.push_back(static_cast<double>(shortest));
  off.y.push_back(relative_difference(together(false), together(true)));
}
nb::plot({off}, {"A mean of means against the mean", "letters in the shorter half of the rows (the others have 32)", "relative error of the gradient"});
nb::check(off.y[0] < 1e-12 && off.y.back() > 0.1, "no error when rows are equal, more than a tenth when they are ragged");

// %% [markdown]
// The same care is due wherever a batch is cut: between devices, between packed and padded rows, and with a prompt that carries no loss: N counts *labels*, not positions.
//
// ## How large a batch?
//
// A batch's gradient is the mean over its tokens, an estimate of the gradient over everything. Its noise falls as `1/B`: four times the rows, half the noise. Beyond some size there is hardly any noise left to average
// away, and more rows only cost time ([McCandlish et al. 2018, section 2.2](https://arxiv.org/abs/1812.06162)). Here, against the gradient of a very large batch:

// %%
NB_CELL
const auto gradient_of = [&](uint64_t seed, int64_t rows) {
  const Batch b = batch_of(text, seed, 0, rows);
  add_gradients(*model, b, 1.0 / static_cast<double>(b.counted));
  return gradients_of(*model);
};
const std::vector<double> reference = gradient_of(99, nb::brief() ? 64 : nb::quick() ? 256 : 1024);
nb::Curve noise{"relative noise", {}, {}, true}, law{"1/√B", {}, {}}, agreement{"cosine with the large batch", {}, {}};
for (int64_t rows : {1, 2, 4, 8, 16, 32}) {
  double squared = 0, angle = 0;
  const int tries = nb::brief() ? 2 : nb::quick() ? 5 : 12;
  for (int t = 0; t < tries; ++t) {
    const auto g = gradient_of(1000 + static_cast<uint64_t>(t), rows);
    squared += std::pow(relative_difference(g, reference), 2) / tries;
    angle += cosine(g, reference) / tries;
  }
  noise.x.push_back(static_cast<double>(rows)), noise.y.push_back(std::sqrt(squared));
  agreement.x.push_back(static_cast<double>(rows)), agreement.y.push_back(angle);
}
for (double rows : noise.x) law.x.push_back(rows), law.y.push_back(noise.y[2] * std::sqrt(4 / rows));
nb::plot({noise, law}, {"Noise of a batch's gradient, relative to the gradient", "rows", "", true, true});
nb::plot({agreement}, {"How well a batch's gradient points", "rows", "cosine", true});
const double slope = std::log(noise.y.back() / noise.y.front()) / std::log(noise.x.back() / noise.x.front());
fmt::print("slope {:.2f}; at 16 rows the noise is {:.1f} times the gradient\n", slope, noise.y[4]);
nb::check(slope < -0.3 && slope > -0.7, "noise falls as the root of the rows");
nb::check(agreement.y.back() > agreement.y.front() + 0.1, "larger batches point better");

// %% [markdown]
// ## What a spike looks like
//
// One broken batch: labels from another text, a file read wrongly. Loss and gradient jump for a step. To see it, compare with the *median* of recent steps, in units of the median distance from it (MAD): a mean and a deviation
// would themselves be dragged along by the spike. What the step does to the weights is bounded by clipping, and under Adam by the rate.

// %%
NB_CELL
const auto run_with_bad_batch = [&](bool bad) {
  auto m = fresh();
  AdamW o({{.parameters = parameters(*m)}}, AdamWOptions{.beta2 = 0.99});
  std::vector<double> losses;
  for (int64_t step = 0; step < 60; ++step) {
    Batch b = batch_of(text, 1, step, nb::brief() ? 1 : 16);
    if (bad && step == 45) {  // each label becomes another letter
      std::vector<int32_t> wrong;
      for (double id : b.labels.to_vector()) wrong.push_back(id < 0 ? -1 : static_cast<int32_t>(static_cast<int64_t>(id + 17) % V));
      b.labels = Tensor::from(wrong, b.labels.shape());
    }
    losses.push_back(add_gradients(*m, b, 1.0 / static_cast<double>(b.counted)));
    o.step(5e-3, clip_global_norm(o.parameters(), 1).scale);
  }
  return losses;
};
const auto spiked = run_with_bad_batch(true), smooth = run_with_bad_batch(false);
std::vector<double> at, strangeness;
for (size_t i = 20; i < spiked.size(); ++i) {
  const std::vector<double> recent(spiked.begin() + static_cast<std::ptrdiff_t>(i) - 20, spiked.begin() + static_cast<std::ptrdiff_t>(i));
  const double middle = median(recent);
  std::vector<double> distance;
  for (double l : recent) distance.push_back(std::abs(l - middle));
  at.push_back(static_cast<double>(i));
  strangeness.push_back(std::max(0.0, spiked[i] - middle) / (1.4826 * median(distance)));
}
std::vector<double> every(60);
std::iota(every.begin(), every.end(), 0);
nb::plot({{"with a broken batch at step 45", every, spiked}, {"without", every, smooth}}, {"Loss", "step", "nats per letter"});
nb::plot({{"loss above the median of 20 steps, in MAD", at, strangeness}}, {"How strange a step is", "step", ""});
const size_t strangest = std::max_element(strangeness.begin(), strangeness.end()) - strangeness.begin();
fmt::print("strangest step {:.0f}: {:.0f} deviations; the runs are {:.3f} nats apart ten steps later\n", at[strangest], strangeness[strangest],
           std::abs(spiked[56] - smooth[56]));
nb::check_learned(at[strangest] == 45 && strangeness[strangest] > 8, "the broken batch stands out by more than eight deviations");
nb::check_learned(std::abs(spiked[59] - smooth[59]) < 0.3, "and the run recovers: clipping and Adam bounded what it could do");

// %% [markdown]
// A loss that is *not a number* is another matter. It must never reach the weights: the library skips the step, keeps the moments, and after ten in a row ends the run with its last checkpoint.
//
// ## A run that goes on is the run that stopped
//
// What decides step n? The weights, the moments, the batch and the rate. The last two are functions of n; so it is enough to keep the first two and the number. Then the resumed run
// is the uninterrupted one, not nearly, but bit for bit.

// %%
NB_CELL
struct Trainer {
  std::unique_ptr<Gemma> model;
  std::unique_ptr<AdamW> optimizer;
  explicit Trainer(std::unique_ptr<Gemma> m) : model(std::move(m)), optimizer(std::make_unique<AdamW>(std::vector<ParameterGroup>{{.parameters = parameters(*model)}})) {}
  double step(const Ids& text, int64_t n) {
    const Batch b = batch_of(text, 7, n, nb::brief() ? 1 : 8);
    const double l = add_gradients(*model, b, 1.0 / static_cast<double>(b.counted));
    optimizer->step(3e-3);
    return l;
  }
};
Trainer straight(fresh()), until(fresh());
std::vector<double> uninterrupted, resumed, forgetful;
for (int64_t n = 0; n < 20; ++n) uninterrupted.push_back(straight.step(text, n));
for (int64_t n = 0; n < 10; ++n) resumed.push_back(until.step(text, n));
Trainer after(nb::copy_of(*until.model)), without_moments(nb::copy_of(*until.model));
after.optimizer->load_state(until.optimizer->state());
forgetful = resumed;
for (int64_t n = 10; n < 20; ++n) resumed.push_back(after.step(text, n)), forgetful.push_back(without_moments.step(text, n));
std::vector<double> twenty(20);
std::iota(twenty.begin(), twenty.end(), 0);
nb::plot({{"resumed", twenty, resumed}, {"resumed without moments", twenty, forgetful}, {"uninterrupted", twenty, uninterrupted, true}},
         {"Twenty steps, interrupted after ten", "step", "nats per letter"});
double weights_apart = 0;
const auto of_straight = parameters(*straight.model), of_after = parameters(*after.model);
for (size_t i = 0; i < of_straight.size(); ++i) weights_apart = std::max(weights_apart, nb::largest_difference(of_straight[i]->value(), of_after[i]->value()));
nb::check(resumed == uninterrupted && weights_apart == 0, "with moments and step, losses and weights are the same bits");
nb::check(forgetful[10] == uninterrupted[10] && forgetful[12] != uninterrupted[12], "without moments the next loss is right and those after it are not");

// %% [markdown]
// ## What goes wrong
//
// - **Labels shifted twice or not at all.** The first loss is then right, and the last one too good (the model copies) or stuck.
// - **Nothing learned, loss fine:** all labels masked. Count the labels that carry loss, and refuse a row that has none.
// - **Rate of zero.** A schedule that ended, a warm-up that never does. The third curve shows it.
// - **Validation that moves the model**, or draws from the same random stream as training: then evaluating more often changes the result.
// - **Different data after a resume**, because an iterator's position was not kept. Here there is no iterator.
//
// ## Where to read on
//
// - [train/loop.h](../train/loop.h): the step and all around it; [train/sft.h](../train/sft.h): this lesson's objective
// - [data/loader.h](../data/loader.h): batches by seed and step; [train/checkpoint.h](../train/checkpoint.h): what is kept, and how
// - [tensor/kernels/row_losses.h](../tensor/kernels/row_losses.h): where the weight of a token enters
// - [optim/clip.h](../optim/clip.h), [lesson 08](08_optimizers.cpp): what happens to the gradient then
//
// Try it: break one gradient on purpose (freeze `layers.0.mlp` with `set_trains`) and see whether learning by heart notices. Double the batch and the rate together: is the curve over *tokens* the same?

// %% active="cpp"
return nb::finish();
}

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
// # 09 · LoRA
//
// Fine-tuning a model of a billion weights by ordinary means takes a billion gradients, two billion moments of Adam,
// and a copy of the whole model per task. LoRA (Hu et al. 2021) leaves the weights alone and learns, beside each matrix
// `W`, a product of two thin ones:
//
// ```text
// y = x Wᵀ + s (x Aᵀ) Bᵀ        A [r, I],  B [O, r],  s = α / r
// ```
//
// That is `W + s B A` in place of `W`, a change of rank at most `r`. Why should so little be enough? This lesson looks
// first at what full fine-tuning does to the weights, then builds the adapter up: how it starts, who gets gradients,
// what it costs, what `r`, `α` and the scaling do, how adapters are switched, and what merging loses. Each claim is
// checked when the lesson runs.

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
#include "notebooks-cpp/word_task.h"
#include "optim/adamw.h"
#include "optim/clip.h"
#include "tensor/parallel.h"
#include "tensor/profile.h"

using namespace facet;

// %% [markdown]
// ## A base and two shifts
//
// The model reads a word of six letters and an equals sign and writes a word of six letters. What it should write is a
// rule, letter by letter. The base learns to copy; the shifts are to write the word backwards, which changes where
// attention looks, and to write every letter's successor, which changes what is said. `notebooks-cpp/word_task.h` makes the
// words: `ids` are a word, an equals sign and what is to be written, and labels carry loss behind the sign alone.

// %%
using nb::copied, nb::letters, nb::loss_of, nb::reversed, nb::Rule, nb::Spellings, nb::successor, nb::word_length, nb::words;

// %% [markdown]
// A Gemma of two layers and some twenty thousand weights, and the usual loop: loss, gradients, clipping, AdamW. The
// optimizer looks at the parameters that train and at no others, so the same loop trains a whole model or an adapter.

// %%
struct Run {
  std::vector<double> losses;
  size_t optimizer_bytes = 0;
};
Run train(Gemma& model, const Rule& rule, int steps, double lr, Key k) {
  const int64_t batch = nb::brief() ? 8 : 32;
  AdamW optimizer({{parameters(model)}}, {.beta2 = 0.98});
  const Tensor weights = Tensor::full({batch, 2 * word_length}, 1.0 / static_cast<double>(batch * word_length));
  Run run{{}, optimizer.state_bytes()};
  for (int step = 0; step < steps; ++step) {
    const Spellings w = words(rule, batch, fold_in(k, static_cast<uint32_t>(step)));
    const Tensor h = model.hidden(plain_tokens(w.ids));
    run.losses.push_back(linear_cross_entropy_backward(h, model.head().value(), w.labels, weights));
    const Clip clip = clip_global_norm(optimizer.parameters(), 1);
    optimizer.step(lr * std::min(1.0, (step + 1) / 20.0) * (1 - 1.0 * step / steps), clip.scale);
  }
  return run;
}

Tensor logits_of(Gemma& model, const Spellings& w) {
  const NoGrad off;
  return model.logits(model.hidden(plain_tokens(w.ids)));
}
// Share of the words with all six letters right. Given the right letters before it, the largest logit must be the right
// letter; six times in a row, that is what greedy writing would have written.
double share_right(Gemma& model, const Spellings& w) {
  const Tensor best = argmax(logits_of(model, w));  // [n, 12]
  int64_t right = 0;
  for (int64_t row = 0; row < w.ids.dim(0); ++row) {
    bool all = true;
    for (int64_t t = word_length; t < 2 * word_length; ++t) all = all && best.at({row, t}) == w.labels.at({row, t});
    right += all;
  }
  return static_cast<double>(right) / static_cast<double>(w.ids.dim(0));
}

// %% [markdown]
// ## Singular values in twenty lines
//
// Any matrix is a sum of directions, `M = Σ σ_k u_k v_kᵀ`, with orthonormal `u` and `v` and falling `σ`; cut after `r`
// terms, it is the best approximation of rank `r` there is (Eckart and Young). One-sided Jacobi finds it without any
// theory of eigenvalues: as long as two columns are not orthogonal, rotate them within their plane until they are.
// Then the columns are `σ_k u_k`, and the rotations have collected `v_k`.

// %%
using Columns = std::vector<std::vector<double>>;
double dot(const std::vector<double>& a, const std::vector<double>& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

struct Svd {
  std::vector<double> s;  // falling
  Columns u, v;           // u[k] and v[k] belong to s[k]
};
Svd svd(const Tensor& matrix) {  // [O, I]
  const int64_t rows = matrix.dim(0), columns = matrix.dim(1);
  Columns a, v;
  for (int64_t j = 0; j < columns; ++j) {
    a.push_back(matrix.slice(1, j, j + 1).to_vector());
    v.emplace_back(columns, 0.0)[j] = 1;
  }
  for (bool turned = true; turned;) {
    turned = false;
    for (int64_t p = 0; p < columns; ++p)
      for (int64_t q = p + 1; q < columns; ++q) {
        const double pp = dot(a[p], a[p]), qq = dot(a[q], a[q]), pq = dot(a[p], a[q]);
        if (std::abs(pq) <= 1e-13 * std::sqrt(pp * qq) || std::abs(pq) < 1e-30) continue;
        turned = true;
        const double z = (qq - pp) / (2 * pq), t = (z < 0 ? -1 : 1) / (std::abs(z) + std::sqrt(1 + z * z));
        const double cosine = 1 / std::sqrt(1 + t * t), sine = cosine * t;
        for (Columns* m : {&a, &v})
          for (size_t i = 0; i < (*m)[p].size(); ++i) {
            const double x = (*m)[p][i], y = (*m)[q][i];
            (*m)[p][i] = cosine * x - sine * y;
            (*m)[q][i] = sine * x + cosine * y;
          }
      }
  }
  std::vector<int64_t> order(columns);
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int64_t p, int64_t q) { return dot(a[p], a[p]) > dot(a[q], a[q]); });
  Svd out;
  for (int64_t j : order) {
    if (std::ssize(out.s) == std::min(rows, columns)) break;  // further ones are zero
    const double length = std::sqrt(dot(a[j], a[j]));
    out.s.push_back(length);
    for (double& x : a[j]) x /= std::max(length, 1e-300);
    out.u.push_back(a[j]);
    out.v.push_back(v[j]);
  }
  return out;
}

Tensor first_terms(const Svd& d, size_t r) {  // Σ over k < r
  const size_t rows = d.u[0].size(), columns = d.v[0].size();
  std::vector<float> m(rows * columns, 0);
  for (size_t k = 0; k < std::min(r, d.s.size()); ++k)
    for (size_t i = 0; i < rows; ++i)
      for (size_t j = 0; j < columns; ++j) m[i * columns + j] += static_cast<float>(d.s[k] * d.u[k][i] * d.v[k][j]);
  return Tensor::from(m, {static_cast<int64_t>(rows), static_cast<int64_t>(columns)}).to(nb::device());
}

// Share of Σ σ² in the first r directions.
double energy(const Svd& d, size_t r) {
  double head = 0, all = 0;
  for (size_t k = 0; k < d.s.size(); ++k) {
    all += d.s[k] * d.s[k];
    if (k < r) head += d.s[k] * d.s[k];
  }
  return head / all;
}

// An adapter is made on the CPU; then it goes where the model is.
void add_adapter(Gemma& model, Adapters& adapters, const std::string& name, const LoraOptions& o, Key k) {
  adapters.add(name, o, k);
  model.to(nb::device());
}

double largest(const Tensor& x) { return max(reshape(abs(x.detach()), {-1})).item(); }
double norm(const Tensor& x) { return std::sqrt(sum(square(x.detach().to(Device::cpu).to(DType::f64))).item()); }
bool same_bits(const Tensor& a, const Tensor& b) { return a.to_vector() == b.to_vector(); }

// %% active="cpp"
int main(int argc, char** argv) {
nb::start(argc, argv);

// %% [markdown]
// The base learns to copy. It has no idea of the other two rules: its loss on them is far worse than the `ln 12 = 2.48`
// of knowing nothing, because it is sure of something else.

// %%
NB_CELL
set_threads(1);  // steps this small are not worth sharing
const int steps = nb::steps(800, 400);
Gemma base(nb::small_gemma(letters + 1));
base.init(key(1));
base.to(nb::device());
train(base, copied, nb::steps(400, 300), 5e-3, key(2));

const int64_t tested = nb::brief() ? 8 : 256;
const Spellings copy_test = words(copied, tested, key(3)), reverse_test = words(reversed, tested, key(4)),
                next_test = words(successor, tested, key(5));
fmt::print("loss of the base:  copy {:.4f}   reverse {:.2f}   successor {:.2f}\n", loss_of(base, copy_test),
           loss_of(base, reverse_test), loss_of(base, next_test));
nb::check_learned(share_right(base, copy_test) > 0.95, "the base copies");
nb::check_learned(loss_of(base, reverse_test) > std::log(12.0), "and is worse than a guess at writing backwards");

// %% [markdown]
// ## What full fine-tuning changes
//
// Train all weights to write backwards, then look at the difference `dW` of every matrix, before and after. How many
// directions does it have? For comparison: a random matrix of the same shape, which has no structure at all.

// %%
NB_CELL
const auto full = nb::copy_of(base);
const Run full_run = train(*full, reversed, steps, 5e-3, key(6));
const double full_loss = loss_of(*full, reverse_test);
fmt::print("full fine-tuning: loss {:.4f}, {:.0f}% of the words right\n", full_loss,
           100 * share_right(*full, reverse_test));
nb::check_learned(full_loss < 0.15, "full fine-tuning learns to write backwards");

struct Change {
  std::string name;
  Svd parts;
};
std::vector<Change> changes;  // of every matrix; others (norms) have no rank to speak of
const auto before = parameters(base), after = parameters(*full);
for (size_t i = 0; i < before.size(); ++i)
  if (before[i]->value().rank() == 2)
    changes.push_back({before[i]->name, svd(after[i]->value().detach() - before[i]->value().detach())});

const Svd random_parts = svd(normal(key(7), {32, 32}));
std::vector<nb::Curve> spectra;
const auto spectrum = [&](const std::string& name, const Svd& d) {
  nb::Curve c{name, {}, {}};
  for (size_t k = 0; k < d.s.size(); ++k) c.x.push_back(static_cast<double>(k + 1)), c.y.push_back(d.s[k] / d.s[0]);
  spectra.push_back(c);
};
for (const Change& c : changes)
  if (c.name.starts_with("layers.1.self_attn")) spectrum(c.name.substr(19, 6), c.parts);
spectrum("random 32 × 32", random_parts);
nb::plot(spectra, {"Singular values of dW, the first taken as 1", "k", "σ_k / σ_1"});

// %% [markdown]
// The attention's query weights tell it best: a few directions hold most of the change, which is what it takes to look
// in another place. (`v` and `k` are 16 × 32, so their spectra end at 16.)

// %%
NB_CELL
const auto change_of = [&](const std::string& name) -> const Svd& {
  return std::find_if(changes.begin(), changes.end(), [&](const Change& c) { return c.name == name; })->parts;
};
const Svd& q_change = change_of("layers.1.self_attn.q_proj.weight");
std::vector<std::vector<std::string>> shares;
const auto share_row = [](const std::string& name, const Svd& d) {
  std::vector<std::string> row{name};
  for (size_t r : {1, 2, 4, 8, 16}) row.push_back(fmt::format("{:.0f}%", 100 * energy(d, r)));
  return row;
};
for (const Change& c : changes) shares.push_back(share_row(c.name, c.parts));
shares.push_back(share_row("random 32 x 32", random_parts));
nb::table({"share of |dW|^2 in the first", "1", "2", "4", "8", "16"}, shares);

nb::check_learned(energy(q_change, 8) > 0.75, "a quarter of the directions holds most of a query matrix's change");
nb::check(energy(random_parts, 8) < 0.65, "and less of a random matrix");
Tensor summed = Tensor::zeros({32, 32}, DType::f32, nb::device());
for (size_t i = 0; i < before.size(); ++i)
  if (before[i]->name == "layers.1.self_attn.q_proj.weight")
    summed = before[i]->value().detach() + first_terms(q_change, 32);
const Linear& full_q = full->blocks[1]->attention.q_proj;
const Tensor probe = normal(key(8), {4, 32}, DType::f32, nb::device());
nb::check(largest(linear(probe, summed) - full_q(probe)) < 1e-5, "W and all terms of dW give the trained matrix back");

// %% [markdown]
// How much of the change does the task need? Put the base's weights back and add only the first `r` directions of every
// `dW`. (Norms keep their trained values.)

// %%
NB_CELL
std::vector<double> kept{1, 2, 4, 8, 16, 32}, loss_of_kept;
for (double r : kept) {
  const auto cut = nb::copy_of(*full);
  for (Parameter* p : parameters(*cut))
    for (const Change& c : changes)
      if (c.name == p->name) {
        const Tensor left_out = first_terms(c.parts, 32) - first_terms(c.parts, static_cast<size_t>(r));
        p->reset(p->value().detach() - left_out, true);
      }
  loss_of_kept.push_back(loss_of(*cut, reverse_test));
}
nb::plot({{"first r directions of dW", kept, loss_of_kept}},
         {"Loss when only a part of the change is kept", "r", "loss", true, true});
nb::check_learned(loss_of_kept[4] < 0.3, "half of the directions do the task");
nb::check_learned(loss_of_kept[0] > 10 * loss_of_kept[4], "the first alone does not");

// %% [markdown]
// So the change is thinner than it could be, though far from rank 1. And it was found without anybody asking it to be
// thin. LoRA asks: it *searches* among changes of rank `r`, and we will see that it gets by with fewer directions than
// cutting down a finished change.
//
// ## How an adapter starts
//
// `A` starts random and `B` at zero. Then `s B A = 0`, and the adapted model is the base, bit by bit. Nothing is lost
// by putting an adapter on, and the first step starts from a good model.

// %%
NB_CELL
const auto adapted = nb::copy_of(base);
const Tensor base_logits = logits_of(base, reverse_test);
Adapters adapters(*adapted);
add_adapter(*adapted, adapters, "untrained", {.rank = 4, .alpha = 8}, key(9));

double a_norm = 0, b_norm = 0;
for (const auto& [path, f] : adapters.factors("untrained")) a_norm += norm(f->a.value()), b_norm += norm(f->b.value());
fmt::print("{} adapters; |A| adds up to {:.1f}, |B| to {:.1f}\n", adapters.factors("untrained").size(), a_norm, b_norm);
nb::check(a_norm > 1 && b_norm == 0, "A is random, B is zero");
nb::check(same_bits(logits_of(*adapted, reverse_test), base_logits), "at step 0 the logits are the base's, bit by bit");

// %% [markdown]
// Why not both zero? Let `G = dL/dW` be the gradient that full fine-tuning would use at this matrix. With
// `W' = W + s B A`, the chain rule gives
//
// ```text
// dL/dA = s Bᵀ G        dL/dB = s G Aᵀ
// ```
//
// With both zero, both gradients are zero, for ever. With one of them random, the other one moves at once, and from the
// second step on both do. The library's adapter never forms `B A`, nor `G`; here we form both and compare.

// %%
NB_CELL
const auto gaussian = [](uint64_t k, const Shape& shape) { return normal(key(k), shape).to(DType::f64); };
const Tensor x = gaussian(20, {5, 6}), wanted = gaussian(21, {5, 4}), w0 = gaussian(22, {4, 6});
struct Slopes {
  Tensor dense, a, b;  // dL/dW', dL/dA, dL/dB
};
const double s = 0.7;
const auto slopes = [&](const Tensor& a, const Tensor& b) {  // of L = Σ (y - wanted)²
  const Tensor sum_of_both = leaf(w0 + s * matmul(b, a));
  backward(sum(square(linear(x, sum_of_both) - wanted)));

  LoraWeight weight(std::make_unique<DenseWeight>(w0));
  auto owned = std::make_unique<LoraFactors>();
  owned->a = Parameter(a);
  owned->b = Parameter(b);
  owned->scale = s;
  LoraFactors& f = weight.adapters.add("one", std::move(owned));
  weight.adapters.use("one");
  backward(sum(square(weight.apply(x) - wanted)));
  return Slopes{grad_of(sum_of_both), f.a.grad(), f.b.grad()};
};
const Tensor a2 = gaussian(23, {2, 6}), b2 = gaussian(24, {4, 2});
const Tensor a_zero = Tensor::zeros({2, 6}, DType::f64), b_zero = Tensor::zeros({4, 2}, DType::f64);

const Slopes both = slopes(a2, b2), start = slopes(a2, b_zero), stuck = slopes(a_zero, b_zero);
const double a_error = largest(both.a - s * matmul(transpose(b2), both.dense));
const double b_error = largest(both.b - s * matmul(both.dense, transpose(a2)));
nb::check(a_error < 1e-12, "dL/dA is s Bᵀ G");
nb::check(b_error < 1e-12, "dL/dB is s G Aᵀ");
nb::check(largest(start.a) == 0 && largest(start.b) > 0.1, "with B = 0, A waits and B moves");
nb::check(largest(stuck.a) == 0 && largest(stuck.b) == 0, "with both zero, nothing ever moves");

// %% [markdown]
// ## Who gets gradients, and what that saves
//
// Adding an adapter freezes the base: its parameters are constants, so no gradient of theirs is computed, kept, clipped
// or averaged. Count the products of one matrix, `N` rows from `I` to `O`, in units of 2 operations:
//
// | | forward | dx | dW, or dA and dB | in all |
// |---|---|---|---|---|
// | full | NIO | NIO | NIO | 3 NIO |
// | LoRA | NIO + Nr(I+O) | NIO + Nr(I+O) | Nr(I+O) | 2 NIO + 3 Nr(I+O) |
//
// The weight gradient falls away; for small `r` that leaves two thirds. `count_products()` counts every product that
// the library computes, so the table can be held to the last operation.

// %%
NB_CELL
const auto counted = [](int64_t rows, int64_t in, int64_t out, int64_t r) {
  LoraWeight weight(std::make_unique<DenseWeight>(normal(key(30), {out, in})));
  if (r > 0) {
    auto f = std::make_unique<LoraFactors>();
    f->a = Parameter(normal(key(31), {r, in}));
    f->b = Parameter(normal(key(32), {out, r}));
    weight.adapters.add("one", std::move(f));
    weight.adapters.use("one");
    static_cast<DenseWeight&>(*weight.base).weight.set_trains(false);
  }
  count_products();
  const Tensor y = weight.apply(leaf(normal(key(33), {rows, in})));
  backward(y, Tensor::full(y.shape(), 1));
  return counted_products().flops;
};
const int64_t N = 40, I = 64, O = 96, r = 4;
nb::check(counted(N, I, O, 0) == 2 * 3 * N * I * O, "full: 3 NIO, exactly");
nb::check(counted(N, I, O, r) == 2 * (2 * N * I * O + 3 * N * r * (I + O)), "LoRA: 2 NIO + 3 Nr(I+O), exactly");

// %% [markdown]
// And one step of the whole model: products, parameters that train, and the moments that AdamW keeps.

// %%
NB_CELL
const auto step_products = [&](Gemma& model) {
  const Spellings w = words(reversed, 32, key(34));
  count_products();
  linear_cross_entropy_backward(model.hidden(plain_tokens(w.ids)), model.head().value(), w.labels);
  const int64_t flops = counted_products().flops;
  for (Parameter* p : parameters(model)) p->clear_grad();
  return static_cast<double>(flops);
};
const auto count_row = [](const std::string& name, double flops, Gemma& m, size_t bytes) {
  return std::vector{name, fmt::format("{:.1f}", flops / 1e6), fmt::to_string(count_parameters(m, true)),
                     fmt::to_string(bytes)};
};
const double full_products = step_products(*full), lora_products = step_products(*adapted);
const size_t lora_bytes = AdamW({{parameters(*adapted)}}).state_bytes();
nb::table({"one step", "MFLOP of products", "parameters that train", "bytes of moments"},
          {count_row("full", full_products, *full, full_run.optimizer_bytes),
           count_row("LoRA, r = 4", lora_products, *adapted, lora_bytes)});

const auto only_adapters = [](Gemma& m) {
  for (Parameter* p : parameters(m))
    if (p->trains() != is_adapter(p->name)) return false;
  return true;
};
nb::check(only_adapters(*adapted), "the adapter's A and B train, and nothing else");
nb::check(lora_products < 0.9 * full_products, "fewer products, although 4 of 32 is no small rank");
nb::check(lora_bytes == 8 * static_cast<size_t>(count_parameters(*adapted, true)),
          "two f32 moments per trained parameter");

// %% [markdown]
// The smaller the rank is against the width, the better the bargain: rank 16 in a model of width 1152 is a seventieth
// of it, here rank 4 is an eighth. The bytes are the larger gift. Gradients and moments of the base are never made.
//
// ## How much rank?
//
// One adapter for each rank over the same base, the same words in the same order.

// %%
NB_CELL
struct Trained {
  int64_t rank;
  std::unique_ptr<Gemma> model;
  Run run;
  double loss, right;
};
const auto adapt = [&](const Rule& rule, const Spellings& test, const LoraOptions& o) {
  Trained t{o.rank, nb::copy_of(base), {}, 0, 0};
  Adapters shift(*t.model);
  add_adapter(*t.model, shift, "shift", o, key(9));
  t.run = train(*t.model, rule, steps, 1.5e-2, key(6));
  t.loss = loss_of(*t.model, test);
  t.right = share_right(*t.model, test);
  return t;
};
std::vector<Trained> by_rank;
for (int64_t rank : {1, 2, 4, 8})
  by_rank.push_back(adapt(reversed, reverse_test, {.rank = rank, .alpha = 2.0 * static_cast<double>(rank)}));

std::vector<nb::Curve> learning;
std::vector<std::vector<std::string>> ranks;
const auto learned = [&](const std::string& name, const Run& run, Gemma& m, double loss, double right) {
  nb::Curve c{name, {}, {}};
  for (size_t i = 9; i < run.losses.size(); i += 10) {  // means of ten steps
    c.x.push_back(static_cast<double>(i + 1));
    c.y.push_back(std::accumulate(run.losses.begin() + static_cast<int64_t>(i) - 9,
                                  run.losses.begin() + static_cast<int64_t>(i) + 1, 0.0) /
                  10);
  }
  learning.push_back(c);
  ranks.push_back({name, fmt::to_string(count_parameters(m, true)), fmt::to_string(run.optimizer_bytes),
                   fmt::format("{:.4f}", loss), fmt::format("{:.0f}%", 100 * right)});
};
for (const Trained& t : by_rank) learned(fmt::format("r = {}", t.rank), t.run, *t.model, t.loss, t.right);
learned("full", full_run, *full, full_loss, share_right(*full, reverse_test));
nb::plot(learning, {"Learning to write backwards", "step", "loss", false, true});
nb::table({"", "parameters that train", "bytes of moments", "held-out loss", "words right"}, ranks);

nb::check_learned(by_rank[0].loss > 10 * full_loss, "rank 1 stays far behind full fine-tuning");
nb::check_learned(by_rank[3].loss < 0.5 * by_rank[0].loss, "rank 8 does much better than rank 1");
nb::check_learned(by_rank[1].loss < loss_of_kept[1],
          "rank 2 found by training beats the first two directions of a finished change");
nb::check(by_rank[3].run.optimizer_bytes == 8 * by_rank[0].run.optimizer_bytes, "cost is proportional to the rank");

// %% [markdown]
// Rank 8 beats rank 1 whatever the seed. Neighbours may change places: learning to look elsewhere goes in jumps, and
// when a run finds the next one is luck. A sweep over ranks with one seed each says less than its neat table
// suggests.
//
// The other shift asks for less. To say the successor of every letter, rank 1 in every matrix will do: how much rank a
// task needs is a property of the task, and of the base, rather than of the model's size.

// %%
NB_CELL
const Trained next_1 = adapt(successor, next_test, {.rank = 1, .alpha = 2});
fmt::print("rank 1:  successor {:.4f} ({:.0f}% of the words)   reverse {:.4f} ({:.0f}%)\n", next_1.loss,
           100 * next_1.right, by_rank[0].loss, 100 * by_rank[0].right);
nb::check_learned(next_1.loss < 0.2 && next_1.right > 0.8, "rank 1 is enough for the successor");

// %% [markdown]
// ## What α / r is for
//
// `s = α / r` is meant to let one tune the learning rate once and change `r` later. Does it? Take the first step, where
// `B = 0` and everything can be written down. Plain gradient descent with rate `η` moves `B` by `-η s G Aᵀ`, hence the
// weight by `-η s² G AᵀA`, and the loss, to first order, falls by
//
// ```text
// η s² |G Aᵀ|²     about  η s² · r / (3 I) · |G|²      (A uniform in ±1/√I has variance 1/(3I))
// ```
//
// With `s = α/r` this is proportional to `1/r`: **higher ranks learn slower**. With `s = α/√r` it does not depend on
// `r`; that is rsLoRA (Kalajdzievski 2023, `rslora = true`). Adam divides the size of the gradient away: every entry
// of `B` moves by `η`, and the loss falls by `η s |G Aᵀ|₁`, which grows like `s r`. So under Adam it is `α/r` that
// makes the first step independent of `r`, and `α/√r` that makes it grow like `√r`. The paper's argument is about
// whole runs at large ranks; ours covers the first step, and is worth knowing before one copies a learning rate from
// one to the other.

// %%
NB_CELL
const Tensor G = normal(key(40), {48, 256});  // any gradient will do
const std::vector<double> many_ranks{1, 2, 4, 8, 16, 32, 64};
nb::Curve sgd_lora{"SGD, α/r", many_ranks, {}}, sgd_rs{"SGD, α/√r", many_ranks, {}},
    adam_lora{"Adam, α/r", many_ranks, {}}, adam_rs{"Adam, α/√r", many_ranks, {}};
for (double rank : many_ranks) {
  double squares = 0, absolute = 0;
  const int draws = static_cast<int>(256 / rank);  // of A; fewer are needed where A has more rows
  for (int i = 0; i < draws; ++i) {
    const Tensor a =
        uniform(fold_in(key(41), static_cast<uint32_t>(i)), {static_cast<int64_t>(rank), 256}, -1.0 / 16, 1.0 / 16);
    const Tensor db = linear(G, a);  // G Aᵀ
    squares += sum(square(db)).item() / draws;
    absolute += sum(abs(db)).item() / draws;
  }
  const LoraOptions plain{.rank = static_cast<int64_t>(rank), .alpha = 1},
      rs{.rank = static_cast<int64_t>(rank), .alpha = 1, .rslora = true};
  sgd_lora.y.push_back(plain.scale() * plain.scale() * squares);
  sgd_rs.y.push_back(rs.scale() * rs.scale() * squares);
  adam_lora.y.push_back(plain.scale() * absolute);
  adam_rs.y.push_back(rs.scale() * absolute);
}
for (nb::Curve* c : {&sgd_lora, &sgd_rs, &adam_lora, &adam_rs})
  for (size_t i = c->y.size(); i-- > 0;) c->y[i] /= c->y[0];
nb::plot({sgd_lora, sgd_rs, adam_lora, adam_rs},
         {"How far the loss falls in the first step, rank 1 taken as 1", "r", "", true, true});
const auto is = [](double found, double expected) { return std::abs(found / expected - 1) < 0.2; };
nb::check(is(sgd_lora.y.back(), 1.0 / 64), "SGD: α/r slows rank 64 down to a 64th");
nb::check(is(sgd_rs.y.back(), 1), "SGD: with α/√r all ranks fall alike");
nb::check(is(adam_lora.y.back(), 1), "Adam: with α/r all ranks fall alike");
nb::check(is(adam_rs.y.back(), 8), "Adam: with α/√r rank 64 falls eight times as far");

// %% [markdown]
// ## Many adapters, one base
//
// An adapter is a list of small matrices beside weights that it does not touch. So a program can hold one base and
// many adapters, and switch by following another pointer: nothing is copied, merged or loaded. The base with its
// adapter off is also the cheapest possible *reference policy* for what comes in later lessons, since it costs no
// second model.

// %%
NB_CELL
const uint32_t hash_before = base_hash(*adapted);
add_adapter(*adapted, adapters, "reverse", {.rank = 8, .alpha = 16}, key(9));
train(*adapted, reversed, steps, 1.5e-2, key(6));
add_adapter(*adapted, adapters, "successor", {.rank = 2, .alpha = 4, .targets = {"gate", "up", "down"}},
            key(10));  // of another size, in other places
train(*adapted, successor, steps, 1.5e-2, key(6));

std::vector<std::vector<std::string>> answers;
const auto answers_with = [&](const std::string& name) {
  adapters.use(name);
  std::vector<double> right;
  std::vector<std::string> row{name.empty() ? "none" : name};
  for (const Spellings* test : {&copy_test, &reverse_test, &next_test}) {
    right.push_back(share_right(*adapted, *test));
    row.push_back(fmt::format("{:.0f}%", 100 * right.back()));
  }
  answers.push_back(row);
  return right;
};
const auto none_right = answers_with(""), reverse_right = answers_with("reverse"),
           next_right = answers_with("successor");
nb::table({"adapter", "copy", "reverse", "successor"}, answers);
nb::check_learned(none_right[0] > 0.95 && reverse_right[1] > none_right[1] + 0.3 && next_right[2] > 0.8,
          "each adapter makes another model of the one base");
nb::check(base_hash(*adapted) == hash_before, "all that training left the base as it was, by its hash");
{
  const AdapterOff off(adapters);
  nb::check(same_bits(logits_of(*adapted, reverse_test), base_logits),
            "and with the adapter off, its logits are the same bits");
}
nb::check(adapters.active() == "successor", "behind the scope of AdapterOff the adapter is on again");

// %% [markdown]
// ## Merging, and what it loses
//
// An adapter costs two thin products per matrix when the model answers. Who needs that time back adds `s B A` to the
// weights for good. In exact arithmetic nothing changes. In f32 every weight is rounded once, and subtracting `s B A`
// again does not return every bit: the error is a unit in the last place of the larger of the two, as with any sum.

// %%
NB_CELL
struct Target {
  Parameter* weight;
  Tensor change;  // s B A
};
const auto targets_of = [](Gemma& model, const std::vector<std::pair<std::string, LoraFactors*>>& factors) {
  std::vector<Target> targets;
  for (Parameter* p : parameters(model))
    for (const auto& [path, f] : factors)
      if (p->name == path + ".weight")
        targets.push_back({p, f->scale * matmul(f->b.value().detach(), f->a.value().detach())});
  return targets;
};
adapters.use("reverse");
const Tensor adapter_logits = logits_of(*adapted, reverse_test);

const auto merged = nb::copy_of(base);
const std::vector<Target> targets = targets_of(*merged, adapters.factors("reverse"));
for (const Target& t : targets) t.weight->reset(t.weight->value().detach() + t.change, true);
const double drift = largest(logits_of(*merged, reverse_test) - adapter_logits),
             size_of_logits = largest(adapter_logits);

int64_t elements = 0, differ = 0;
double worst_ulps = 0;
const auto originals = targets_of(*adapted, adapters.factors("reverse"));
for (size_t i = 0; i < targets.size(); ++i) {
  const auto was = originals[i].weight->value().to_vector(), with = targets[i].weight->value().to_vector();
  const auto again = (targets[i].weight->value().detach() - targets[i].change).to_vector();
  for (size_t k = 0; k < was.size(); ++k) {
    const float top = static_cast<float>(std::max(std::abs(was[k]), std::abs(with[k])));
    const double ulp = std::nextafter(top, 1e30f) - static_cast<double>(top);
    worst_ulps = std::max(worst_ulps, std::abs(again[k] - was[k]) / ulp);
    differ += again[k] != was[k];
    ++elements;
  }
}
fmt::print(
    "merged: logits move by {:.1e} of {:.0f}\nunmerged: {} of {} weights are not what they were, by {:.2f} ulp at "
    "most\n",
    drift, size_of_logits, differ, elements, worst_ulps);
nb::check(drift < 1e-4 * size_of_logits, "the merged model answers as the adapted one, to rounding");
nb::check(drift > 0, "though not bit by bit");
nb::check(differ > 0 && worst_ulps <= 1,
          "unmerging returns the weights within one unit in the last place, not all of them exactly");

// %% [markdown]
// A checkpoint in bf16 keeps 8 bits of each weight. Whatever `s B A` changes by less than half of the last bit, a
// small change of a large weight, is rounded away: merged weights there equal the base's. That is why merging starts
// from the best copy of the base that there is, adds in f32, and rounds once; and why an adapter kept apart is the
// more exact of the two.

// %%
NB_CELL
const auto bf16 = [](const Tensor& t) { return t.detach().to(DType::bf16).to(DType::f32); };
const auto lost_with =
    [&](double strength) {  // share of the weights that a merge of strength * s B A leaves as they were
      int64_t lost = 0;
      for (size_t i = 0; i < targets.size(); ++i) {
        const auto was = bf16(originals[i].weight->value()).to_vector();
        const auto now = bf16(bf16(originals[i].weight->value()) + strength * targets[i].change).to_vector();
        for (size_t k = 0; k < was.size(); ++k) lost += was[k] == now[k];
      }
      return static_cast<double>(lost) / static_cast<double>(elements);
    };
nb::Curve lost{"weights that did not move", {1, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001}, {}};
for (double strength : lost.x) lost.y.push_back(lost_with(strength));
nb::plot({lost}, {"Merging into bf16", "size of the adapter, ours taken as 1", "share of the weights", true});

for (const Target& t : targets) t.weight->reset(bf16(t.weight->value()), true);
const double bf16_drift = largest(logits_of(*merged, reverse_test) - adapter_logits);
fmt::print("logits move by {:.1e} merged in f32, {:.1e} merged and kept in bf16\n", drift, bf16_drift);
nb::check(bf16_drift > 100 * drift, "bf16 moves the logits more than a hundred times as far as f32");
nb::check(lost.y.back() > 0.5, "an adapter of a thousandth of this size leaves most bf16 weights where they were");
nb::check_learned(lost.y.front() < 0.1, "ours, which had a lot to change, does not");

// %% [markdown]
// ## DoRA in one cell
//
// DoRA (Liu et al. 2024) splits a weight into the length of each row and its direction. The direction is LoRA's, the
// lengths `m` are one more vector: row `o` of the weight is `m_o (W + s B A)_o / |(W + s B A)_o|`. It starts with `m`
// at the lengths of the base's rows, so that it, too, starts as the base, this time up to rounding. (Nothing keeps
// `m` above zero; a length that crosses it turns its row around.)

// %%
NB_CELL
const auto dora = nb::copy_of(base);
dora->to(Device::cpu);  // the lengths of its rows are taken when the adapter is made
Adapters dora_adapters(*dora);
add_adapter(*dora, dora_adapters, "reverse", {.rank = 1, .alpha = 2, .dora = true}, key(9));
const double dora_start = largest(logits_of(*dora, reverse_test) - base_logits);
const Run dora_run = train(*dora, reversed, steps, 1.5e-2, key(6));
fmt::print("rank 1:  LoRA {:.3f} with {} parameters   DoRA {:.3f} with {}\n", by_rank[0].loss,
           count_parameters(*by_rank[0].model, true), loss_of(*dora, reverse_test), count_parameters(*dora, true));

// What a layer multiplies with, seen from outside: its answer to the identity is Wᵀ.
std::vector<double> identity(32 * 32, 0);
for (size_t i = 0; i < 32; ++i) identity[i * 33] = 1;
const NoGrad looking;
const Tensor w_seen = transpose(dora->blocks[0]->attention.q_proj(Tensor::from(identity, {32, 32}).to(DType::f32).to(nb::device())));
const auto [dora_path, dora_q] = dora_adapters.factors("reverse")[0];
const Tensor row_lengths = sqrt(sum(square(w_seen), {1})), lengths = dora_q->magnitude.value().detach();
nb::check(dora_start < 1e-3, "DoRA starts as the base, up to rounding");
nb::check(dora_path == "layers.0.self_attn.q_proj", "(the first module is a query projection)");
nb::check(largest(row_lengths - abs(lengths)) < 1e-4, "after training, the rows of its weight have the lengths |m|");
nb::check_learned(dora_run.losses.back() < dora_run.losses.front(), "and it learned");

// %% [markdown]
// ## Where to read on
//
// - `nn/lora_weight.h` and `.cpp`: the adapter as a weight around another weight; layers know nothing of it
// - `nn/lora.h`: targets, ranks, several adapters over one model
// - `tests/models/gemma_lora_test.cpp`: the counts of this lesson, held by tests; files in PEFT's layout are in `models/gemma/peft.h`
// - `tensor/kernels/gemm.h`: the page of the products, which can add to what is there
// - `facet sft --adapter lora` trains one, `facet dpo` and `facet grpo` use "adapter off" as their reference
// - [Hu et al. 2021](https://arxiv.org/abs/2106.09685), section 4.1; [Liu et al. 2024](https://arxiv.org/abs/2402.09353), section 4: DoRA;
//   [Kalajdzievski 2023](https://arxiv.org/abs/2312.03732): the scale of large ranks
//
// Try it: start `B` random too. Which checks turn red? Give the adapter only `q` and `k` and see how far writing
// backwards gets, then only `gate`, `up` and `down`. Set `.rslora = true` and find the learning rate that rank 8 wants.

// %% active="cpp"
return nb::finish();
}

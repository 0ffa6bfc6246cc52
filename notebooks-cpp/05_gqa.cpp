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
// # 05 · Grouped-query attention
//
// A model that speaks computes one token at a time, and for each of them reads the keys and values of all tokens before
// it. Nothing else grows with the conversation. At a thousand tokens the weights are the larger part of what is read; at
// thirty thousand the cache is, and it has to fit, once for every conversation that is being held.
//
// The remedy is to have fewer of them. In multi-head attention each of `H` query heads has a key and a value head of its
// own. Shazeer ([2019](https://arxiv.org/abs/1911.02150)) let all of them share one; Ainslie et al.
// ([2023](https://arxiv.org/abs/2305.13245), section 2.2) share among groups: `K` key heads, each read by `G = H/K` query
// heads. `K = H` is the old attention, `K = 1` is Shazeer's. Gemma 3 270M and 1B have four heads and one key head.
//
// This lesson builds the sharing, follows the gradient through it, counts bytes, and takes a trained model with four key
// heads down to two and one. The page of the kernel is `tensor/kernels/attention.h`.

// %%
#include <algorithm>
#include <cmath>
#include <iostream>
#include <memory>
#include <numeric>

#include "autograd/ops.h"
#include "models/gemma/model.h"
#include "notebooks-cpp/nb.hpp"
#include "notebooks-cpp/numbers.h"
#include "notebooks-cpp/small_gemma.h"
#include "notebooks-cpp/word_task.h"
#include "optim/adamw.h"
#include "optim/clip.h"
#include "tensor/parallel.h"

using namespace facet;

// %% [markdown]
// A key head for every query head: query head `h` reads key head `h / (H/K)`, so neighbours share. Written as an index,
// the sharing is one `take`, and everything else is the attention of lesson 04.

// %%
Tensor own_head_for_each(const Tensor& shared, int64_t heads) {  // [B, S, K, Dh] -> [B, S, H, Dh]
  const int64_t group = heads / shared.dim(2);
  std::vector<int32_t> reads;
  for (int64_t h = 0; h < heads; ++h) reads.push_back(static_cast<int32_t>(h / group));
  return take(shared, Tensor::from(reads, {heads}).to(shared.device()), 2);
}
AttentionMask causal(int64_t rows, int64_t n, Device device) {
  AttentionMask mask;
  mask.q_positions = plain_tokens(Tensor::zeros({rows, n}, DType::i32)).positions.dense().to(device);
  return mask;
}

// %% [markdown]
// ## The task of the experiment
//
// Later a small model with four heads will learn to write a word of six letters backwards, which takes attention: each
// letter has to be fetched from another place. `notebooks-cpp/word_task.h` makes the words: an `ids` row is a word, an
// equals sign and what is to be written, and labels carry loss behind the sign alone.

// %%
using nb::letters, nb::loss_of, nb::Spellings, nb::word_length;
Spellings words(int64_t n, Key k) { return nb::words(nb::reversed, n, k); }
// Some steps of AdamW; `losses` gets the loss on `test` every few steps.
void train(Gemma& model, int steps, double lr, Key k, const Spellings& test, nb::Curve& losses) {
  constexpr int64_t batch = 32;
  AdamW optimizer({{parameters(model)}}, {.beta2 = 0.98});
  const Tensor weights = Tensor::full({batch, 2 * word_length}, 1.0 / (batch * word_length));
  for (int step = 0; step <= steps; ++step) {
    if (step % 10 == 0) losses.x.push_back(step), losses.y.push_back(loss_of(model, test));
    if (step == steps) break;
    const Spellings w = words(batch, fold_in(k, static_cast<uint32_t>(step)));
    linear_cross_entropy_backward(model.hidden(plain_tokens(w.ids)), model.head().value(), w.labels, weights);
    const Clip clip = clip_global_norm(optimizer.parameters(), 1);
    optimizer.step(lr * std::min(1.0, (step + 1) / 20.0) * (1 - 1.0 * step / steps), clip.scale);
  }
}

// %% active="cpp"
int main(int argc, char** argv) {
nb::start(argc, argv);

// %% [markdown]
// ## Sharing is attention with repeated keys
//
// The library's attention takes `q` with `H` heads and `k`, `v` with `K`, and repeats nothing in memory: the query heads of
// a group are worked on together, against one key head that is read once. What it must equal is attention whose keys
// were repeated beforehand.

// %%
NB_CELL
const int64_t B = 2, T = 12, H = 8, Dh = 16;
const Tensor q = nb::gaussian(1, {B, T, H, Dh});
const AttentionMask mask = causal(B, T, nb::device());
double repeated_error = 0;
for (int64_t K : {1, 2, 4, 8}) {
  const Tensor k = nb::gaussian(2, {B, T, K, Dh}), v = nb::gaussian(3, {B, T, K, Dh});
  const Tensor shared = attention(q, k, v, mask, 0.25), repeated = attention(q, own_head_for_each(k, H), own_head_for_each(v, H), mask, 0.25);
  repeated_error = std::max(repeated_error, nb::largest_difference(shared, repeated));
}
fmt::print("largest difference between shared and repeated key heads: {:.1e}\n", repeated_error);
nb::check(repeated_error < 1e-6, "for K = 1, 2, 4 and 8, shared keys give what repeated ones give");

// %% [markdown]
// Who reads whom, as a picture. Give each *key head* values that name it, 1 for the first, 2 for the second and so on.
// Whatever the probabilities are, the mean of equal values is that value, so every query head says whom it reads.

// %%
NB_CELL
const auto reader_of = [&](int64_t K) {
  std::vector<float> named;
  for (int64_t i = 0; i < B * T * K * Dh; ++i) named.push_back(static_cast<float>(i / Dh % K + 1));
  const Tensor v = Tensor::from(named, {B, T, K, Dh}).to(nb::device());
  const Tensor y = attention(q, nb::gaussian(4, {B, T, K, Dh}), v, mask, 0.25);
  std::vector<double> read;
  for (int64_t h = 0; h < H; ++h) read.push_back(std::round(y.at({0, T - 1, h, 0})));
  return read;
};
std::vector<double> readers;
bool in_groups = true;
for (int64_t K : {1, 2, 4, 8}) {
  const std::vector<double> read = reader_of(K);
  readers.insert(readers.end(), read.begin(), read.end());
  for (int64_t h = 0; h < H; ++h) in_groups = in_groups && read[h] == static_cast<double>(h / (H / K) + 1);
}
nb::heatmap(readers, H, {"The key head that each query head reads: one, two, four and eight of them", "query head", "K"});
nb::check(in_groups, "neighbouring query heads share: head h reads key head h / (H/K)");

// %% [markdown]
// **Pitfall: the other way to share.** Repeating the block of key heads as a whole makes head `h` read `h mod K`: tiling in
// place of repeating each. For `K = 1` and `K = H` the two agree, so a test on Gemma 3 1B, or on a model without groups,
// proves nothing. In between the weights meet strangers: on the reference model, with four heads over two, logits move
// by 14. (`docs/discrepancies.md` has this mistake and some thirty others as switches.) As with RoPE's pairs it is a
// convention: permute the query heads, that is rows of the q projection and columns of the output projection, and the
// other spelling computes the same.

// %%
NB_CELL
const auto by_modulo = [&](const Tensor& shared) {
  std::vector<int32_t> reads;
  for (int64_t h = 0; h < H; ++h) reads.push_back(static_cast<int32_t>(h % shared.dim(2)));
  return take(shared, Tensor::from(reads, {H}).to(shared.device()), 2);
};
std::vector<std::string> sharing_names;
nb::Bars moved{"h mod K instead of h / (H/K)", {}};
for (int64_t K : {1, 2, 4, 8}) {
  const Tensor k = nb::gaussian(2, {B, T, K, Dh}), v = nb::gaussian(3, {B, T, K, Dh});
  sharing_names.push_back(fmt::format("K = {}", K));
  moved.values.push_back(nb::largest_difference(attention(q, k, v, mask, 0.25), attention(q, by_modulo(k), by_modulo(v), mask, 0.25)));
}
nb::bars(sharing_names, {moved}, {"What the wrong spelling moves", "", "largest change of y"});
nb::check(moved.values[0] < 1e-6 && moved.values[3] < 1e-6, "with one key head, or one each, nobody notices");
nb::check(moved.values[1] > 1 && moved.values[2] > 1, "with two or four, everything changes");

const Tensor k4 = nb::gaussian(2, {B, T, 4, Dh}), v4 = nb::gaussian(3, {B, T, 4, Dh});
std::vector<int32_t> order, back(H);  // query heads so that those of one group come to stand 4 apart
for (int32_t h = 0; h < H; ++h) order.push_back(h % 4 * 2 + h / 4);
for (int32_t h = 0; h < H; ++h) back[order[h]] = h;
const auto reordered = [&](const Tensor& x, const std::vector<int32_t>& o) { return take(x, Tensor::from(o, {H}).to(x.device()), 2); };
const Tensor tiled = reordered(attention(reordered(q, order), by_modulo(k4), by_modulo(v4), mask, 0.25), back);
nb::check(nb::largest_difference(tiled, attention(q, k4, v4, mask, 0.25)) < 1e-6, "with its query heads permuted, tiling is the same model");

// %% [markdown]
// ## The gradient
//
// A key head that was read `G` times gets `G` gradients, and they add: the rule of the broadcast from lesson 01. In symbols,
// with `dk'` the gradient that each query head would send to a key head of its own,
//
// ```text
// dk[κ] = Σ over h with h / (H/K) = κ of dk'[h]            dq[h] as before
// ```
//
// The kernel never forms the `dk'`: a group's query heads are rows of one tile, and the sum is part of a matrix product.

// %%
NB_CELL
const int64_t small_H = 6, small_K = 2, n = 5;
const Tensor q64 = nb::gaussian64(5, {1, n, small_H, 4}), k64 = nb::gaussian64(6, {1, n, small_K, 4}), v64 = nb::gaussian64(7, {1, n, small_K, 4}),
             dy64 = nb::gaussian64(8, {1, n, small_H, 4});
const AttentionMask mask64 = causal(1, n, Device::cpu);
const Tensor k_shared = leaf(k64), v_shared = leaf(v64);
backward(attention(q64, k_shared, v_shared, mask64, 0.5), dy64);
const Tensor k_each = leaf(own_head_for_each(k64, small_H)), v_each = leaf(own_head_for_each(v64, small_H));
backward(attention(q64, k_each, v_each, mask64, 0.5), dy64);
const auto summed_over_groups = [&](const Tensor& each) {
  const Shape grouped{1, n, small_K, small_H / small_K, 4};
  return sum(reshape(each, grouped), {3});
};
nb::check(nb::largest_difference(grad_of(k_shared), summed_over_groups(grad_of(k_each))) < 1e-14 &&
              nb::largest_difference(grad_of(v_shared), summed_over_groups(grad_of(v_each))) < 1e-14,
          "the gradient of a shared head is the sum over its readers");
const auto loss_of_k = [&](const Tensor& t) { return sum(attention(q64, t, v64, mask64, 0.5) * dy64); };
nb::check(nb::slope_error(loss_of_k, k64) < 1e-9, "finite differences agree (f64, on the CPU)");

// %% [markdown]
// ## Bytes
//
// A token leaves `2 · K · Dh` numbers in every layer, a key and a value. A global layer keeps all of them, a local one
// those of its window. At 32,768 tokens in bf16, for the sizes of Gemma 3, in four steps: every query head with keys of
// its own and no windows; groups; windows in five layers of six; both.

// %%
NB_CELL
const double context = 32768;
const auto cache_mb = [&](const GemmaConfig& c, int64_t key_heads, bool windows) {
  double positions = 0;
  for (LayerKind kind : c.kinds) positions += windows && kind == LayerKind::local ? std::min<double>(context, static_cast<double>(c.window)) : context;
  return 2 * positions * static_cast<double>(key_heads * c.head_dim) * 2 / (1 << 20);
};
std::vector<std::string> sizes;
nb::Bars all_heads{"K = H, no windows", {}}, groups{"groups", {}}, with_windows{"windows", {}}, both{"both", {}};
std::vector<std::vector<std::string>> size_rows;
for (const char* name : {"gemma3-270m", "gemma3-1b", "gemma3-4b", "gemma3-12b", "gemma3-27b"}) {
  const GemmaConfig& c = preset(name);
  sizes.push_back(std::string(name).substr(7));
  all_heads.values.push_back(cache_mb(c, c.heads, false)), groups.values.push_back(cache_mb(c, c.kv_heads, false));
  with_windows.values.push_back(cache_mb(c, c.heads, true)), both.values.push_back(cache_mb(c, c.kv_heads, true));
  size_rows.push_back({sizes.back(), fmt::to_string(c.heads), fmt::to_string(c.kv_heads), fmt::to_string(c.head_dim),
                       fmt::format("{:.0f}", static_cast<double>(c.width) / static_cast<double>(c.heads)),
                       fmt::format("{:.0f}", all_heads.values.back()), fmt::format("{:.0f}", both.values.back())});
}
nb::table({"size", "H", "K", "Dh", "D / H", "cache of 32k tokens, MiB, K = H, no windows", "groups and windows"}, size_rows);
nb::bars(sizes, {all_heads, groups, with_windows, both}, {"Cache of one conversation of 32,768 tokens", "", "MiB"});
const GemmaConfig& one_b = preset("gemma3-1b");
nb::check(groups.values[1] * 4 == all_heads.values[1], "four query heads over one: a quarter of the bytes");
nb::check(groups.values[1] * (1 << 20) == context * static_cast<double>(one_b.kv_bytes_per_token(2)), "the config counts the same bytes per token");
nb::check(both.values[1] < all_heads.values[1] / 20, "with windows too, less than a twentieth");

// %% [markdown]
// Mind the column `Dh` against `D / H`: they are different numbers in every size but none of the code may care. A loader that
// computes `Dh = D / H`, as is right for GPT-2 and LLaMA, reads Gemma's projections with a wrong shape.
//
// The formula is not only ours to believe. Make a model's cache, for one row and 256 positions, and count what it took: a
// local layer is a ring as long as its window, and beside keys and values there are 4 bytes for each slot's position.

// %%
NB_CELL
GemmaConfig counted = nb::small_gemma(16);
counted.layers = 6;
counted.kinds = pattern(6, 6);
counted.window = 32;
double slots = 0;
for (LayerKind kind : counted.kinds) slots += kind == LayerKind::local ? 32 : 256;
std::vector<double> key_head_counts{1, 2, 4}, bytes_found, bytes_expected;
for (double heads : key_head_counts) {
  counted.kv_heads = static_cast<int64_t>(heads);
  Gemma model(counted);
  model.to(nb::device());
  bytes_found.push_back(static_cast<double>(model.new_cache(1, 256, 1).bytes()));
  bytes_expected.push_back(slots * (2 * heads * static_cast<double>(counted.head_dim) * 4 + 4));
}
const auto in_kib = [](std::vector<double> bytes) {
  for (double& b : bytes) b /= 1024;
  return bytes;
};
nb::plot({{"the library's cache", key_head_counts, in_kib(bytes_found), true}, {"slots · (2 K Dh · 4 + 4)", key_head_counts, in_kib(bytes_expected)}},
         {"Memory of a cache, f32", "key heads K", "KiB"});
nb::check(bytes_found == bytes_expected, "the library's cache takes the bytes of the formula, to the last one");

// %% [markdown]
// ## And time
//
// To write one token, attention multiplies each cached key with `G` queries and each value with `G` weights: per key head
// and position `4 G Dh` operations on `4 Dh` bytes (bf16). So it does `G` operations per byte that it reads. A Hopper GPU
// can do two hundred per byte before arithmetic becomes what it waits for; so decoding waits for memory, whatever `G` is,
// and its time is the bytes divided by the bandwidth. Sharing a key head among four is four times as fast, and the
// arithmetic, which is the same, comes along for free.

// %%
NB_CELL
std::vector<std::vector<std::string>> time_rows;
std::vector<double> read_ms;
for (int64_t key_heads : {one_b.heads, int64_t{2}, one_b.kv_heads}) {
  const double bytes = cache_mb(one_b, key_heads, true) * (1 << 20);
  double flops = 0;
  for (LayerKind kind : one_b.kinds) flops += 4.0 * static_cast<double>(one_b.heads * one_b.head_dim) * (kind == LayerKind::local ? 512 : context);
  read_ms.push_back(bytes / 4.8e12 * 1e3);
  time_rows.push_back({fmt::to_string(key_heads), fmt::format("{:.0f}", bytes / (1 << 20)), fmt::format("{:.1f}", flops / bytes),
                       fmt::format("{:.3f}", read_ms.back()), fmt::format("{:.4f}", flops / 990e12 * 1e3)});
}
nb::table({"K, Gemma 3 1B at 32k tokens", "MiB read per token", "operations per byte", "ms at 4.8 TB/s", "ms at 990 TFLOP/s"}, time_rows);
nb::check(std::abs(read_ms[0] / read_ms[2] - 4) < 1e-9, "a quarter of the key heads, a quarter of the time, by arithmetic");

// %% [markdown]
// ## What is lost
//
// Fewer keys say less. Ainslie et al. had models with one key head per query head and turned them into grouped ones: take
// the **mean** of the key and value projections of a group (section 2.1), and train on for a few percent of the steps. We
// do the same with a model that writes words backwards. Beside the mean, two other ways to start: keep the first of each
// group, or start the key heads anew.
//
// (This model is trained on the CPU whatever `--device` says: steps so small are faster there.)

// %%
NB_CELL
set_threads(1);
GemmaConfig four = nb::small_gemma(letters + 1);
four.kv_heads = four.heads;
Gemma teacher(four);
teacher.init(key(1));
const Spellings test = words(256, key(2));
nb::Curve learning{"four key heads", {}, {}};
train(teacher, nb::quick() ? 400 : 800, 5e-3, key(3), test, learning);
fmt::print("loss with four key heads: {:.4f}\n", learning.y.back());
nb::check(learning.y.back() < 0.5, "with a key head each, the model learns to write words backwards (a guess costs 2.48)");

enum class Start { mean, first, random };
const auto with_fewer = [&](int64_t key_heads, Start how) {
  GemmaConfig c = four;
  c.kv_heads = key_heads;
  auto model = std::make_unique<Gemma>(c);
  model->init(key(4));
  const auto from = parameters(teacher), to = parameters(*model);
  const int64_t group = four.heads / key_heads;
  for (size_t i = 0; i < from.size(); ++i) {
    const Tensor w = from[i]->value().detach();
    if (w.shape() == to[i]->value().shape()) to[i]->reset(w.clone(), true);
    else if (how != Start::random) {  // k_proj or v_proj: [H Dh, D] -> [K Dh, D]
      const Tensor heads = w.reshape({key_heads, group, four.head_dim, four.width});
      const Tensor one = how == Start::mean ? mean(heads, {1}) : heads.slice(1, 0, 1).clone();
      to[i]->reset(one.reshape({key_heads * four.head_dim, four.width}).clone(), true);
    }
  }
  return model;
};
struct Converted {
  double before = 0, after = 0;
};
std::vector<nb::Curve> recoveries;
std::vector<std::vector<std::string>> conversion_rows;
const int more_steps = nb::quick() ? 100 : 200;
const auto convert = [&](int64_t key_heads, Start how, const std::string& name) {
  const auto model = with_fewer(key_heads, how);
  nb::Curve c{fmt::format("K = {}, {}", key_heads, name), {}, {}};
  train(*model, more_steps, 3e-3, key(5), test, c);
  recoveries.push_back(c);
  conversion_rows.push_back({fmt::to_string(key_heads), name, fmt::format("{:.3f}", c.y.front()), fmt::format("{:.4f}", c.y.back())});
  return Converted{c.y.front(), c.y.back()};
};
const Converted mean_2 = convert(2, Start::mean, "mean"), first_2 = convert(2, Start::first, "first"),
                random_2 = convert(2, Start::random, "anew"), mean_1 = convert(1, Start::mean, "mean");
convert(1, Start::random, "anew");
nb::table({"key heads", "start", "loss at once", fmt::format("after {} steps", more_steps)}, conversion_rows);
nb::plot(recoveries, {"Training on with fewer key heads", "step", "loss", false, true});
nb::check(std::min(mean_2.after, first_2.after) < 0.8 * random_2.after, "two heads made of the trained ones do better than two new ones");
nb::check(mean_2.before > 3 * learning.y.back() && mean_1.before > 3 * learning.y.back(), "at first sharing costs a lot");
nb::check(mean_2.after < 0.5 * mean_2.before && mean_1.after < 0.5 * mean_1.before, "a quarter of the steps wins most of it back");

// %% [markdown]
// One seed and one small task say little about whether mean or first is the better start (in the paper's figure 4, on a
// real model, the order is mean, first, anew). What can be seen at any size: the query heads and everything around them were
// already right, so the model does not learn to spell again, it learns where to look.
//
// ## Where to read on
//
// - `tensor/kernels/attention.h`: query heads that share a key head are worked on together
// - `models/gemma/config.h`: `heads`, `kv_heads`, `head_dim`: three independent numbers
// - `nn/kv_cache.h`: rings, and what a window saves (lesson 13)
// - `docs/discrepancies.md`: `gqa_modulo` and its relatives, with the size of their effect
// - [Shazeer 2019](https://arxiv.org/abs/1911.02150), section 3; [Ainslie et al. 2023](https://arxiv.org/abs/2305.13245), sections 2.1 and 2.2
//
// Try it: in `own_head_for_each` read `h mod K` and see which checks turn red. Then merge key heads that are *alike*: order
// the four heads so that the two closest projections share a group. Is the loss at once any lower?

// %% active="cpp"
return nb::finish();
}

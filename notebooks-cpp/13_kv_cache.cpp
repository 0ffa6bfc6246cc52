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
// # 13 · The key/value cache
//
// A model that writes word by word reads everything again for every word. Or does it? In a causal model a token never sees what
// comes after it. So what was computed at earlier positions, the keys and values of every layer above all, cannot change
// when a word is added, and may be kept. That is the cache: the one optimisation without which nobody would wait for an answer.
//
// It is also where engines go wrong most often: a ring that forgets one token too early, a mask that counts slots
// instead of positions, a key rotated twice. So this lesson builds a cache by hand, holds it against the truth (one pass over everything), and
// then breaks it.

// %%
#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>

#include "autograd/ops.h"
#include "infer/generator.h"
#include "notebooks-cpp/nb.hpp"
#include "notebooks-cpp/numbers.h"
#include "notebooks-cpp/small_gemma.h"

using namespace facet;

// %% [markdown]
// ## A head with a memory
//
// One head, in doubles: queries, keys and values of size `Dh`, one each per position. `attend` is the textbook: scores
// with every key, softmax, the mean of the values. The memory is two lists.

// %%
using Row = std::vector<double>;

Row attend(const Row& q, const std::vector<Row>& keys, const std::vector<Row>& values) {
  std::vector<double> p;
  for (const Row& k : keys) p.push_back(std::inner_product(q.begin(), q.end(), k.begin(), 0.0) / std::sqrt(static_cast<double>(q.size())));
  const double top = *std::max_element(p.begin(), p.end());
  double sum = 0;
  for (double& s : p) sum += s = std::exp(s - top);
  Row y(values[0].size(), 0);
  for (size_t j = 0; j < p.size(); ++j)
    for (size_t d = 0; d < y.size(); ++d) y[d] += p[j] / sum * values[j][d];
  return y;
}

struct HandCache {
  std::vector<Row> keys, values;
  Row operator()(const Row& q, const Row& k, const Row& v) {  // of the newest token
    keys.push_back(k);
    values.push_back(v);
    return attend(q, keys, values);
  }
};

Row row_of(const Tensor& t, int64_t position) { return t.slice(1, position, position + 1).to_vector(); }  // t [1, T, 1, Dh]
Tensor positions_from(int64_t begin, int64_t end) {
  std::vector<int32_t> p(static_cast<size_t>(end - begin));
  std::iota(p.begin(), p.end(), static_cast<int32_t>(begin));
  return Tensor::from(p, {1, end - begin});
}

// %% [markdown]
// A model for the rest: small, random (the claims are about arithmetic, not about wisdom), with two local layers of window 8 and a
// global one. `all_at_once` is the truth.

// %%
GemmaConfig windowed() {
  GemmaConfig c = nb::small_gemma(50);
  c.layers = 3;
  c.kinds = pattern(3, 3);  // local, local, global
  c.window = 8;
  c.context = 256;
  return c;
}
Tokens some_tokens(int64_t begin, int64_t end) {  // of one long sequence, wherever it is cut
  const Tensor ids = randint(key(4), {1, 256}, 0, 50);
  Tokens t;
  t.ids = ids.slice(1, begin, end).clone();
  t.positions = positions_from(begin, end);
  return t;
}
Tensor all_at_once(Gemma& model, int64_t length) {
  const NoGrad off;
  return model.hidden(some_tokens(0, length));
}

// %% active="cpp"
int main(int argc, char** argv) {
nb::start(argc, argv);

// %% [markdown]
// ## Nothing earlier changes
//
// Position t of causal attention is a function of the query at t and of the keys and values up to t. Computed for all
// positions at once or for the newest one with a memory: the same sums, so the same result.

// %%
NB_CELL
const int64_t T = 40, Dh = 8;
const Tensor q = nb::gaussian64(1, {1, T, 1, Dh}), k = nb::gaussian64(2, {1, T, 1, Dh}), v = nb::gaussian64(3, {1, T, 1, Dh});
AttentionMask causal;
causal.q_positions = positions_from(0, T);
const Tensor whole = attention(q, k, v, causal, 1 / std::sqrt(static_cast<double>(Dh)));
HandCache memory;
double worst = 0;
for (int64_t t = 0; t < T; ++t)
  worst = std::max(worst, nb::largest_difference(memory(row_of(q, t), row_of(k, t), row_of(v, t)), row_of(whole, t)));
fmt::print("one position at a time against all at once: {:.1e} apart\n", worst);
nb::check(worst < 1e-14, "a head with a memory computes what the head without one does");

// %% [markdown]
// ## What it saves
//
// Without a memory, the n-th word costs a pass over n tokens, so a text of n words costs of the order of n² passes of one token, and n³ products of attention. With
// it, a word costs one token's products and one row of attention. Here are the floating-point operations of a real size, as the library counts them.

// %%
NB_CELL
const GemmaConfig& size_270m = preset("gemma3-270m");
std::vector<double> words, again, once;
const double per_token = 2.0 * static_cast<double>(size_270m.count_parameters());  // a product with every weight
const auto attention_flops = [&](double seen) {                                      // of one query, all layers
  double flops = 0;
  for (LayerKind kind : size_270m.kinds)
    flops += 4 * static_cast<double>(size_270m.heads * size_270m.head_dim) *
             (kind == LayerKind::local ? std::min(seen, static_cast<double>(size_270m.window)) : seen);
  return flops;
};
double pass = 0;  // over everything so far
for (int n = 1; n <= 2048; ++n) {
  pass += per_token + attention_flops(n);
  words.push_back(n);
  again.push_back(pass / 1e9);
  once.push_back((per_token + attention_flops(n)) / 1e9);
}
nb::plot({{"everything again", words, again}, {"with a cache", words, once}},
         {"Work for the n-th word, Gemma 3 270M", "n", "GFLOP", true, true});
const double whole_text = std::accumulate(again.begin(), again.end(), 0.0) / std::accumulate(once.begin(), once.end(), 0.0);
fmt::print("the 2,048th word: {:.0f} GFLOP against {:.2f}; the whole text: {:.0f} times as much\n", again.back(), once.back(), whole_text);
nb::check(whole_text > 900 && whole_text < 1100, "over a text of 2,048 words, about a thousand times the work: the mean length");
nb::check(once.back() < 1.15 * once.front(), "with a cache the last word costs about a tenth more than the first");

// %% [markdown]
// And in time, on this machine now, a small model. (No claim here looks at a clock.)

// %%
NB_CELL
Gemma model(windowed());
model.init(key(1));
model.to(nb::device());
const NoGrad no_gradients;
const int64_t longest = nb::quick() ? 64 : 192;
nb::Curve slow{"everything again", {}, {}}, fast{"with a cache", {}, {}};
const auto milliseconds = [](auto f) {
  const auto begin = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
};
KvCache timed = model.new_cache(1, longest, 1);
for (int64_t n = 1; n <= longest; ++n) {
  const double cached = milliseconds([&] { model.logits(model.hidden(some_tokens(n - 1, n), &timed)).to(Device::cpu); });
  fast.x.push_back(static_cast<double>(n)), fast.y.push_back(cached);
  if (n % 8) continue;
  const double all = milliseconds([&] { model.logits(model.hidden(some_tokens(0, n))).to(Device::cpu); });
  slow.x.push_back(static_cast<double>(n)), slow.y.push_back(all);
}
if (!nb::quick()) nb::plot({slow, fast}, {"Time for the n-th token, small model", "n", "ms"});  // no two runs draw it alike

// %% [markdown]
// ## The same bits
//
// Rounding might make the two differ in the last digits, and then the question "is it a bug or is it rounding?" would never end. In this
// library a row of a product does not depend on how many rows there are, and attention adds its keys in the order of their positions. So
// on the CPU a cached step has the bits of the full pass: at every position, whatever the pieces the tokens came in.

// %%
NB_CELL
const int64_t length = 100;
const Tensor truth = all_at_once(model, length);
std::vector<std::vector<std::string>> cuts;
double furthest = 0;
for (int64_t chunk : {1, 3, 16, 100}) {
  KvCache cache = model.new_cache(1, 256, chunk);
  double apart = 0;
  for (int64_t begin = 0; begin < length; begin += chunk) {
    const int64_t end = std::min(length, begin + chunk);
    const Tensor piece = model.hidden(some_tokens(begin, end), &cache);
    apart = std::max(apart, nb::largest_difference(piece, truth.slice(1, begin, end)));
  }
  furthest = std::max(furthest, apart);
  cuts.push_back({fmt::to_string(chunk), fmt::format("{:.1e}", apart)});
}
nb::table({"tokens at a time", "largest difference from one pass"}, cuts);
const double allowed = nb::device() == Device::cpu ? 0 : 1e-5;
nb::check(furthest <= allowed, "however the tokens arrive, hidden rows are those of one pass (on the CPU to the bit)");

// %% [markdown]
// ## Rings
//
// A local layer looks back W positions. Keeping more is waste, so its cache is a ring: position p goes to slot `p mod length`, over whoever was
// there. How long must it be? For single tokens W slots will do. But a chunk of C tokens is written as a whole before its first token looks: that one
// still wants W - 1 positions before it, while the last of the chunk has already been stored. So `W + C - 1`.
//
// Each line is a moment, each column a slot; the colour is the age of what lies there. The newest token walks through the ring and everything else
// stays where it is: nothing is ever moved.

// %%
NB_CELL
const int64_t W = 8, C = 3, ring = W + C - 1;
std::vector<double> frames;
LayerCache layer(1, ring, 1, Dh, DType::f32);
bool holds_the_window = true;
const int64_t moments = 8;
for (int64_t m = 0; m < moments; ++m) {
  const Tensor p = positions_from(m * C, (m + 1) * C);
  layer.reach(p);
  layer.write(normal(key(5), {1, C, 1, Dh}), normal(key(6), {1, C, 1, Dh}), p);
  const int64_t newest = (m + 1) * C - 1;
  const std::vector<double> held = layer.positions().to_vector();
  for (int64_t slot = 0; slot < ring; ++slot)
    frames.push_back(slot < std::ssize(held) && held[slot] >= 0 ? 1.0 + static_cast<double>(newest) - held[slot] : 0);
  for (int64_t wanted = std::max<int64_t>(0, m * C - (W - 1)); wanted <= newest; ++wanted)
    holds_the_window = holds_the_window && std::count(held.begin(), held.end(), static_cast<double>(wanted)) == 1;
}
nb::heatmap(frames, static_cast<int>(ring), {fmt::format("Age of what lies in each slot: window {}, chunks of {}", W, C), "slot", "chunk"});
nb::check(layer.length() == ring && holds_the_window, "after each chunk the ring holds all that its tokens may see, once");

// %% [markdown]
// Now the mistake: a ring of W slots and chunks of C tokens. With C = 1 all is well, which is why nobody notices in a demo. With C = 3, the
// first two tokens of each chunk miss keys.

// %%
NB_CELL
const int64_t far = 48;
const Tensor lq = nb::gaussian(7, {1, far, 1, Dh}).to(Device::cpu), lk = nb::gaussian(8, {1, far, 1, Dh}).to(Device::cpu),
             lv = nb::gaussian(9, {1, far, 1, Dh}).to(Device::cpu);
AttentionMask local;
local.q_positions = positions_from(0, far);
local.window = W;
const Tensor right = attention(lq, lk, lv, local, 0.35);
const auto error_of = [&](int64_t slots, int64_t chunk) {  // by position
  LayerCache cache(1, slots, 1, Dh, DType::f32);
  std::vector<double> error;
  for (int64_t begin = 0; begin < far; begin += chunk) {
    const Tensor p = positions_from(begin, begin + chunk);
    cache.reach(p);
    cache.write(lk.slice(1, begin, begin + chunk), lv.slice(1, begin, begin + chunk), p);
    AttentionMask mask;
    mask.q_positions = p;
    mask.k_positions = cache.positions();
    mask.window = W;
    const Tensor y = attention(lq.slice(1, begin, begin + chunk), cache.keys(), cache.values(), mask, 0.35);
    for (int64_t t = 0; t < chunk; ++t) error.push_back(nb::largest_difference(row_of(y, t), row_of(right, begin + t)));
  }
  return error;
};
const auto single = error_of(W, 1), enough = error_of(W + C - 1, C), too_short = error_of(W, C);
nb::Curve bad{"W slots, chunks of 3", {}, {}, true}, good{"W + 2 slots, chunks of 3", {}, {}, true};
for (size_t t = 0; t < too_short.size(); ++t) {
  bad.x.push_back(static_cast<double>(t)), bad.y.push_back(too_short[t]);
  good.x.push_back(static_cast<double>(t)), good.y.push_back(enough[t]);
}
nb::plot({bad, good}, {"Error of a local layer by position", "position", "largest difference"});
const auto most = [](const std::vector<double>& e) { return *std::max_element(e.begin(), e.end()); };
nb::check(most(single) == 0, "W slots are enough for one token at a time, to the bit");
nb::check(most(enough) == 0, "W + C - 1 slots are enough for chunks of C, to the bit");
nb::check(most(too_short) > 0.05, "W slots are not");
bool last_is_right = true, first_is_wrong = true;
for (int64_t t = W + 1; t < far; ++t) {
  if (t % C == C - 1) last_is_right = last_is_right && too_short[t] == 0;
  if (t % C == 0) first_is_wrong = first_is_wrong && too_short[t] > 0;
}
nb::check(last_is_right && first_is_wrong, "the last token of a chunk is right, the first is wrong: easy to miss");

// %% [markdown]
// ## Positions, not slots
//
// In a ring that has gone round, the newest key may lie in front of the oldest. A mask that compares slots is then wrong; so the cache
// stores each key's *position* beside it, and who sees whom is decided from positions alone. The slots may be shuffled at will.

// %%
NB_CELL
const Tensor order = permutation(key(10), far);
const Tensor shuffled_k = take(lk, order, 1), shuffled_v = take(lv, order, 1);
AttentionMask by_position = local;
by_position.k_positions = reshape(order, {1, far});
const Tensor same = attention(lq, shuffled_k, shuffled_v, by_position, 0.35);
const Tensor by_slot = attention(lq, shuffled_k, shuffled_v, local, 0.35);
fmt::print("shuffled slots: {:.1e} by positions, {:.2f} by slots\n", nb::largest_difference(same, right), nb::largest_difference(by_slot, right));
nb::check(nb::largest_difference(same, right) < 1e-6, "with positions, slots may lie in any order");
nb::check(nb::largest_difference(by_slot, right) > 0.1, "without, they may not");

// %% [markdown]
// Keys are stored after their rotation by position ([lesson 03](03_rope.cpp)). A key's angle is its own position's, and the score depends on the
// difference of two angles, so nothing has to be turned again when the ring moves on.
//
// ## How much memory
//
// Two rows (key and value) of `K × Dh` numbers for every layer and token. This is why heads share keys and values, and why five of six layers of Gemma 3 look back 512 or 1,024 positions only: their rings end there.

// %%
NB_CELL
std::vector<std::string> sizes;
nb::Bars full{"every layer keeps all", {}}, rings{"rings on local layers", {}};
const double context = 32'768;
for (const char* name : {"gemma3-270m", "gemma3-1b", "gemma3-4b", "gemma3-12b", "gemma3-27b"}) {
  const GemmaConfig& c = preset(name);
  const double a_layer = 2.0 * static_cast<double>(c.kv_heads * c.head_dim) * 2;  // bytes per token in bf16
  double bytes = 0;
  for (LayerKind kind : c.kinds) bytes += a_layer * (kind == LayerKind::local ? std::min(context, static_cast<double>(c.window)) : context);
  sizes.push_back(std::string(name).substr(7));
  full.values.push_back(static_cast<double>(c.kv_bytes_per_token(2)) * context / 1e9);
  rings.values.push_back(bytes / 1e9);
}
nb::bars(sizes, {full, rings}, {"Keys and values of one conversation of 32,768 tokens, bf16", "Gemma 3", "GB"});
nb::check(preset("gemma3-270m").kv_bytes_per_token(2) == 18'432 && preset("gemma3-1b").kv_bytes_per_token(2) == 26'624 &&
              preset("gemma3-27b").kv_bytes_per_token(2) == 507'904,
          "270M, 1B, 27B: 18,432, 26,624 and 507,904 bytes per token");
nb::check(rings.values[1] < 0.2 * full.values[1], "rings save more than four fifths at this length");
const KvCache small = model.new_cache(1, 256, C);
nb::check(small.layers[0].length() == W + C - 1 && small.layers[2].length() == 256, "the model makes rings for local layers, all positions for global ones");

// %% [markdown]
// ## Going back
//
// A chat takes back a stop token; a person edits the last question. `forget(row, from)` drops what lies at `from` and later. From a ring one cannot go back
// further than it remembers: what was overwritten is gone, and the honest answer is an error, not a model with holes in its memory.

// %%
NB_CELL
Generator generator(model, 1, 256, 4);
const auto feed = [&](int64_t begin, int64_t end) {
  std::vector<int32_t> ids;
  for (double id : some_tokens(begin, end).ids.to_vector()) ids.push_back(static_cast<int32_t>(id));
  generator.feed(0, ids);
};
const auto logits_now = [&] { return std::vector<double>(generator.logits(0).begin(), generator.logits(0).end()); };
feed(0, 60);
const auto first_time = logits_now();
feed(60, 62);
generator.forget(0, 59);
feed(59, 60);
nb::check(nb::largest_difference(logits_now(), first_time) <= allowed, "two tokens forward, three back, one again: as if nothing had happened");
bool refused = false;
try {
  generator.forget(0, 30);
} catch (const Error& e) {
  refused = true;
  fmt::print("going back to position 30: {}\n", e.what());
}
nb::check(refused, "further back than the rings remember is refused");
generator.forget(0);
feed(0, 60);
nb::check(nb::largest_difference(logits_now(), first_time) <= allowed, "starting anew always works");

// %% [markdown]
// ## Time is memory traffic
//
// With a cache, a token of one conversation needs every weight once and multiplies each with a single number: two operations for each weight
// read. Processors do a hundred times as many in the time of a read. So a single conversation's speed is the speed of memory, and many
// rows at once are nearly free. `facet bench infer` prints the share of the machine's memory speed that decoding reaches, `facet bench rollout` what more rows gain.
//
// ## What goes wrong
//
// - **Rotating cached keys again**, or caching them before the rotation and rotating by slot.
// - **A window off by one**: W positions *including* the query's own.
// - **Padding that is attended to.** Rows of a batch have unequal lengths; padding has position -1 and is seen by nobody.
// - **Computing the last token twice, or never.** The token just drawn is not in the cache yet; after a turn it must be fed with what follows.
//
// ## Where to read on
//
// - [nn/kv_cache.h](../nn/kv_cache.h): rings, rows, copies; [tensor/kernels/ring_write.h](../tensor/kernels/ring_write.h): the write
// - [tensor/kernels/attention.h](../tensor/kernels/attention.h): positions, windows, and why bits do not depend on slots
// - [infer/generator.h](../infer/generator.h): rows that come and go
// - Pope et al. 2022, [Efficiently scaling transformer inference, section 3](https://arxiv.org/abs/2211.05102): the arithmetic of decoding
// - Gemma 3 report, [section 2](https://arxiv.org/abs/2503.19786): five local layers to one global, and what that does to the cache
//
// Try it: set C = 1 in the frames above and watch the picture change. What is the shortest ring for a window of 8 when chunks of 5 are written but only the
// last token of each is wanted? Check it with `error_of`.

// %% active="cpp"
return nb::finish();
}

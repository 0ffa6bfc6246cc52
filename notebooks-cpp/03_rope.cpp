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
// # 03 · RoPE
//
// Attention compares a query with keys by their dot products and knows nothing of order: shuffle the keys together with
// their values, and the result is the same. Yet "dog bites man" is news only in another order. So positions must get into
// the vectors. Rotary position embedding ([Su et al. 2021](https://arxiv.org/abs/2104.09864), section 3.2) does it by
// *turning* them: cut a head into pairs, and turn pair `i` by an angle proportional to the position.
//
// ```text
// (a, b) at position p   ->   (a cos pθ - b sin pθ,  b cos pθ + a sin pθ)
// ```
//
// It has no parameters, keeps every length, and makes the dot product a function of the *distance* between query and
// key. This lesson derives it, looks at the wavelengths Gemma uses, and then at the ways to get it wrong: pairs taken
// otherwise, angles in too few bits, one base for all layers. The page of the kernel is `tensor/kernels/norm_rope.h`.

// %%
#include <cmath>
#include <complex>
#include <functional>
#include <iostream>
#include <numbers>
#include <numeric>

#include "autograd/ops.h"
#include "nn/positions.h"
#include "notebooks-cpp/nb.hpp"
#include "notebooks-cpp/numbers.h"
#include "tensor/kernels/copy.h"

using namespace facet;

// %% [markdown]
// By hand: one head, one position. The pairs are `(i, i + Dh/2)`, the halves of the head, and their frequencies fall
// from 1 to `1/base`, geometrically.

// %%
using Head = std::vector<double>;

double frequency(size_t i, size_t head_dim, double base) {
  return std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
}
Head turned(const Head& x, double position, double base) {
  const size_t half = x.size() / 2;
  Head y(x.size());
  for (size_t i = 0; i < half; ++i) {
    const double angle = position * frequency(i, x.size(), base);
    y[i] = x[i] * std::cos(angle) - x[i + half] * std::sin(angle);
    y[i + half] = x[i + half] * std::cos(angle) + x[i] * std::sin(angle);
  }
  return y;
}
double dot(const Head& a, const Head& b) { return std::inner_product(a.begin(), a.end(), b.begin(), 0.0); }

// %% [markdown]
// And by the library: `norm_rope` is the operation that a Gemma calls, a norm of every head and the turn. Without a
// weight it only turns. x is `[B, T, H, Dh]`, and the positions are integers beside it, `[B, T]`: they are data, not the
// place in the array.

// %%
Tensor rope(const Tensor& x, const std::vector<int32_t>& positions, const RopeTable& table) {
  if (x.device() == Device::gpu) table.reserve(*std::max_element(positions.begin(), positions.end()) + 1);
  return norm_rope(x, {}, 0, Tensor::from(positions, {x.dim(0), x.dim(1)}).to(x.device()), table);
}
std::vector<int32_t> places(int32_t n, int32_t from = 0) {
  std::vector<int32_t> p(n);
  std::iota(p.begin(), p.end(), from);
  return p;
}

// %% active="cpp"
int main(int argc, char** argv) {
nb::start(argc, argv);

// %% [markdown]
// ## From a wish to a rotation
//
// The wish: a map `f(x, p)` such that `f(q, m) · f(k, n)` depends on `q`, `k` and `m - n` only. Take a pair of entries
// as one complex number. The dot product of two pairs is the real part of `q k*`, and multiplying both with a phase
// gives
//
// ```text
// Re( q e^(imθ) · (k e^(inθ))* ) = Re( q k* e^(i(m-n)θ) )
// ```
//
// The phases meet as a difference, because conjugation flips a sign. That is all. One pair says where the other token
// is up to full turns; pairs of other frequencies say which turn. It is the principle of a clock's hands.

// %%
NB_CELL
const std::complex<double> q1(0.3, -1.2), k1(0.9, 0.5);
const double theta = 0.7;
double worst_pair = 0;
for (int m = 0; m < 20; ++m)
  for (int n = 0; n < 20; ++n) {
    const double score = std::real(q1 * std::polar(1.0, m * theta) * std::conj(k1 * std::polar(1.0, n * theta)));
    worst_pair = std::max(worst_pair, std::abs(score - std::real(q1 * std::conj(k1) * std::polar(1.0, (m - n) * theta))));
  }
nb::check(worst_pair < 1e-14, "the score of two turned pairs depends on the distance alone");

// %% [markdown]
// Now a head of 64 at 24 positions, by the library: the same query vector and the same key vector placed everywhere, and
// their scores. A matrix whose entries are the same along each diagonal is a function of the distance.

// %%
NB_CELL
const int64_t Dh = 64, T = 24;
const double local_base = 10'000, global_base = 1'000'000;
const RopeTable local(Dh, local_base), global(Dh, global_base);
const Tensor q = nb::gaussian(1, {1, 1, 1, Dh}), k = nb::gaussian(2, {1, 1, 1, Dh});
const auto everywhere = [&](const Tensor& x) { return expand(x, {1, T, 1, Dh}).dense(); };

const Tensor turned_q = rope(everywhere(q), places(T), local), turned_k = rope(everywhere(k), places(T), local);
const Head scores = einsum("bqhd,bkhd->bqk", {turned_q, turned_k}).to_vector();  // [T, T]
nb::heatmap(scores, T, {"q at i, k at j: one score for each distance", "position j of the key", "position i of the query"});

const Head qv = q.to_vector(), kv = k.to_vector();
double by_hand = 0, along_diagonals = 0, lengths = 0;
const Head values_q = turned_q.to_vector();
for (int64_t i = 0; i < T; ++i) {
  const Head hand = turned(qv, static_cast<double>(i), local_base);
  by_hand = std::max(by_hand, nb::largest_difference(hand, {values_q.begin() + i * Dh, values_q.begin() + (i + 1) * Dh}));
  lengths = std::max(lengths, std::abs(dot(hand, hand) / dot(qv, qv) - 1));
  for (int64_t j = 0; i > 0 && j > 0 && j < T; ++j)
    along_diagonals = std::max(along_diagonals, std::abs(scores[i * T + j] - scores[(i - 1) * T + j - 1]));
}
nb::check(by_hand < 1e-6, "the library turns as the loop does");
nb::check(lengths < 1e-14, "turning keeps lengths");
nb::check(along_diagonals < 1e-5, "scores depend on the distance alone");
nb::check(nb::largest_difference(rope(q, {0}, local), q) == 0, "position 0 is not turned at all");

// %% [markdown]
// The distance is what counts, so a document may begin anywhere. Move every position by 1000, and the scores stay.

// %%
NB_CELL
const Tensor far_q = rope(everywhere(q), places(T, 1000), local), far_k = rope(everywhere(k), places(T, 1000), local);
const Head far_scores = einsum("bqhd,bkhd->bqk", {far_q, far_k}).to_vector();
const double shift_error = nb::largest_difference(far_scores, scores);
fmt::print("scores of size {:.0f} move by {:.1e}\n", std::sqrt(dot(scores, scores) / static_cast<double>(scores.size())), shift_error);
nb::check(shift_error < 3e-5, "a thousand positions further the scores are the same");

// %% [markdown]
// ## Two older ways: add a vector
//
// Before RoPE, a vector for the position was *added* to what the token says. The first transformer
// ([Vaswani et al. 2017](https://arxiv.org/abs/1706.03762), section 3.5) took waves of fixed lengths, `sin(pθ_i)` and
// `cos(pθ_i)`; GPT-2 learns a row for every position. The waves have RoPE's frequencies, and the product of two rows is
// `Σ cos((p - q)θ_i)`, a function of the distance as well. What is not: the score of two *tokens*. Multiply out
// `(x + s_p) · (y + s_q)`, and beside `x · y` and `s_p · s_q` stand two products of a word with a place. Learned rows do
// not promise even that much, and for a position that was never seen there is no row at all.

// %%
NB_CELL
const Tensor waves = sinusoidal_positions(T, Dh);
nb::heatmap(waves.to_vector(), Dh, {"What is added at each position", "entry", "position"});
const Head between = matmul(waves, transpose(waves)).to_vector();
double waves_along = 0;
for (int64_t i = 1; i < T; ++i)
  for (int64_t j = 1; j < T; ++j) waves_along = std::max(waves_along, std::abs(between[i * T + j] - between[(i - 1) * T + j - 1]));
nb::check(waves_along < 1e-4, "the product of two rows of waves knows their distance alone");

// Two tokens, three places apart, at ever later places.
LearnedPositions learned(T, Dh);
copy(nb::gaussian(3, {T, Dh}).to(Device::cpu).view(), learned.weight.value().out());
const Tensor first_token = Tensor::from(std::vector<float>(qv.begin(), qv.end()), {1, 1, Dh}), second_token = Tensor::from(std::vector<float>(kv.begin(), kv.end()), {1, 1, Dh});
const auto at_place = [&](const Tensor& token, int32_t p) { return learned(token, Tensor::from(std::vector<int32_t>{p}, {1, 1})).to_vector(); };
const auto with_wave = [&](const Tensor& token, int32_t p) { return (token + waves.slice(0, p, p + 1)).to_vector(); };
nb::Curve turned_score{"turned (RoPE)", {}, {}}, wave_score{"waves added", {}, {}}, learned_score{"learned rows added", {}, {}};
for (int32_t p = 3; p < T; ++p) {
  for (nb::Curve* c : {&turned_score, &wave_score, &learned_score}) c->x.push_back(p);
  turned_score.y.push_back(scores[p * T + p - 3]);
  wave_score.y.push_back(dot(with_wave(first_token, p), with_wave(second_token, p - 3)));
  learned_score.y.push_back(dot(at_place(first_token, p), at_place(second_token, p - 3)));
}
nb::plot({turned_score, wave_score, learned_score}, {"One pair of tokens, three apart, at every place", "position of the query", "score"});
const auto spread = [](const nb::Curve& c) {
  const auto [least, most] = std::minmax_element(c.y.begin(), c.y.end());
  return *most - *least;
};
fmt::print("the score of the same two tokens varies by {:.1e} turned, {:.1f} with waves, {:.1f} with learned rows\n", spread(turned_score), spread(wave_score), spread(learned_score));
nb::check(spread(turned_score) < 1e-4 && spread(wave_score) > 1 && spread(learned_score) > 1, "only the turned score is the same at every place");
bool has_row = true;
try {
  at_place(first_token, T);
} catch (const Error&) {
  has_row = false;
}
nb::check(!has_row, "a learned table ends where training ended");

// %% [markdown]
// ## Wavelengths
//
// Pair `i` makes a full turn every `2π base^(2i/Dh)` tokens. Gemma 3 has heads of 256, so 128 pairs, and two bases:
// 10,000 in the local layers and 1,000,000 in the global ones. The fastest pair turns every 6 tokens in both. The
// slowest one turns every 58 thousand tokens in local layers, every 5.6 million in global ones.

// %%
NB_CELL
const size_t heads_of = 256;
const auto wavelength = [](size_t i, double base) { return 2 * std::numbers::pi / frequency(i, heads_of, base); };
nb::Curve waves_local{"local base", {}, {}}, waves_global{"global base", {}, {}}, window_line{"window, 512", {0, 127}, {512, 512}},
    context_line{"context, 32,768", {0, 127}, {32768, 32768}};
int slow_local = 0, slow_global = 0;
for (size_t i = 0; i < heads_of / 2; ++i) {
  waves_local.x.push_back(static_cast<double>(i)), waves_local.y.push_back(wavelength(i, local_base));
  waves_global.x.push_back(static_cast<double>(i)), waves_global.y.push_back(wavelength(i, global_base));
  slow_local += wavelength(i, local_base) > 32768;
  slow_global += wavelength(i, global_base) > 32768;
}
nb::plot({waves_local, waves_global, window_line, context_line}, {"Tokens for a full turn", "pair i", "tokens", false, true});
fmt::print("slowest pair: {:.0f} tokens locally, {:.0f} globally; pairs that never get around in 32,768 tokens: {} and {} of 128\n",
           waves_local.y.back(), waves_global.y.back(), slow_local, slow_global);
nb::check(std::abs(waves_local.y.back() / 58e3 - 1) < 0.02 && std::abs(waves_global.y.back() / 5.6e6 - 1) < 0.02,
          "58 thousand and 5.6 million tokens");
nb::check(slow_global > 5 * slow_local, "many more global pairs never complete a turn within the context");

// %% [markdown]
// Why does that matter? A pair that has not turned much cannot tell near from far, and that is a service: it carries
// *content* at any distance. With a small base, a head that looks for "the same word, wherever it was" is disturbed by
// the turning of all its pairs. Let query and key be the same random vector. Their score is `Σ |x_i|² cos(dθ_i)`; at
// distance 0 it is the squared length, and then it falls: first the fast pairs lose step, then ever slower ones
// (section 3.4.3 of the paper calls it long-term decay).

// %%
NB_CELL
const auto match = [&](double base) {
  nb::Curve c{fmt::format("base {:.0f}", base), {}, {}};
  for (double d = 1; d < 40000; d *= 1.08) {
    double sum = 0;
    for (size_t i = 0; i < heads_of / 2; ++i) sum += std::cos(std::round(d) * frequency(i, heads_of, base));
    c.x.push_back(std::round(d)), c.y.push_back(sum / (heads_of / 2));
  }
  return c;
};
const nb::Curve match_local = match(local_base), match_global = match(global_base);
nb::plot({match_local, match_global}, {"Score of a vector with itself, by distance", "distance in tokens", "", true});
const auto at_distance = [](const nb::Curve& c, double d) {
  return c.y[static_cast<size_t>(std::lower_bound(c.x.begin(), c.x.end(), d) - c.x.begin())];
};
nb::check(at_distance(match_global, 512) > at_distance(match_local, 512) + 0.1, "at 512 tokens the large base holds on to more of it");
nb::check(std::abs(at_distance(match_local, 30000)) < 0.1 && at_distance(match_global, 30000) > 0.12,
          "at 30,000 tokens the small base has lost it, the large one has not");

// %% [markdown]
// So the local layers, which see 512 tokens, keep the base that resolves short distances well, and the global ones get
// the large one. The sizes from 4B on stretch it once more: their global layers divide positions by 8, trained at
// 32 thousand tokens and then used at 128 thousand. Position 80 there is turned as position 10 was.

// %%
NB_CELL
const RopeTable stretched(Dh, global_base, 8);
const Tensor at_80 = rope(q, {80}, stretched), at_10 = rope(q, {10}, global);
nb::check(nb::largest_difference(at_80, at_10) == 0, "factor 8: position 80 is turned as position 10 without it");
nb::check(nb::largest_difference(rope(q, {80}, global), at_10) > 0.5, "leaving the factor out turns it elsewhere");

// %% [markdown]
// ## A head that looks three tokens back
//
// What can a model do with it? Build a head by hand whose query is the key, turned three positions back: then the score
// is largest where the key stands three tokens earlier, whatever the tokens say. Fast pairs make the peak sharp, slow
// ones make it unique.

// %%
NB_CELL
const Head three_back = turned(kv, -3, local_base);
const Tensor look_back = rope(everywhere(Tensor::from(std::vector<float>(three_back.begin(), three_back.end()), {1, 1, 1, Dh}).to(nb::device())),
                              places(T), local);
const Tensor raw = einsum("bqhd,bkhd->bqk", {look_back, turned_k}) * (4 / std::sqrt(static_cast<double>(Dh)));
Head causal = raw.to_vector();
for (int64_t i = 0; i < T; ++i)
  for (int64_t j = i + 1; j < T; ++j) causal[i * T + j] = -1e30;
const Head looked = softmax(Tensor::from(causal, {T, T})).to_vector();
nb::heatmap(looked, T, {"Attention of a head that looks three tokens back", "position j", "position i"});
bool three_each = true;
for (int64_t i = 3; i < T; ++i)
  three_each = three_each && std::max_element(looked.begin() + i * T, looked.begin() + (i + 1) * T) - looked.begin() - i * T == i - 3;
nb::check(three_each, "from the fourth token on, every query looks at the token three before it");

// %% [markdown]
// ## The gradient
//
// A rotation is linear, and its transpose is the rotation back. So the gradient is the incoming one turned by the
// opposite angle: nothing has to be saved but the positions.
//
// ```text
// y = R_p x        dx = R_pᵀ dy = R_(-p) dy
// ```

// %%
NB_CELL
const Tensor x64 = nb::gaussian64(3, {1, 3, 2, 8}), dy64 = nb::gaussian64(4, {1, 3, 2, 8});
const std::vector<int32_t> odd_places{5, 0, 17};
const RopeTable small_table(8, 100);
const Tensor x_leaf = leaf(x64);
backward(rope(x_leaf, odd_places, small_table), dy64);
const Head dx = grad_of(x_leaf).to_vector(), dy = dy64.to_vector();
double back_error = 0;
for (size_t row = 0; row < 6; ++row) {
  const Head back = turned({dy.begin() + row * 8, dy.begin() + (row + 1) * 8}, -odd_places[row / 2], 100);
  back_error = std::max(back_error, nb::largest_difference(back, {dx.begin() + row * 8, dx.begin() + (row + 1) * 8}));
}
nb::check(back_error < 1e-14, "dx is dy turned back");
nb::check(nb::slope_error([&](const Tensor& t) { return sum(rope(t, odd_places, small_table) * dy64); }, x64) < 1e-9,
          "finite differences agree");

// %% [markdown]
// ## Norm first, then turn
//
// Gemma 3 normalises every query and key head before it is turned, with a weight per entry (lesson 02). Turning keeps
// the length, so the norm itself could as well come later; the *weight* could not, since a weight on entry `i` is
// another one than on its partner, and the turn mixes the two. `norm_rope` does both in one pass, in the order of the
// model, and rounds once.

// %%
NB_CELL
const Tensor heads_in = nb::gaussian(5, {1, T, 2, Dh}), norm_weight = nb::gaussian(6, {Dh}) * 0.5;
const Tensor zero_weight = Tensor::zeros({Dh}, DType::f32, nb::device());
const Tensor position_tensor = Tensor::from(places(T), {1, T}).to(nb::device());
const auto both_orders = [&](const Tensor& w) {
  const Tensor in_one = norm_rope(heads_in, w, 1e-6, position_tensor, local);
  const Tensor norm_then_turn = rope(rms_norm(heads_in, w, 1e-6), places(T), local);
  const Tensor turn_then_norm = rms_norm(rope(heads_in, places(T), local), w, 1e-6);
  return std::pair{nb::largest_difference(in_one, norm_then_turn), nb::largest_difference(in_one, turn_then_norm)};
};
const auto [same_plain, swapped_plain] = both_orders(zero_weight);
const auto [same_weighted, swapped_weighted] = both_orders(norm_weight);
nb::check(same_plain < 2e-6 && same_weighted < 4e-6, "the fused operation is norm, then turn");
nb::check(swapped_plain < 2e-6 && swapped_weighted > 0.3, "the other order is the same only as long as the weight is");

// %% [markdown]
// ## Pitfall: which entries are a pair
//
// The paper pairs neighbours, `(2i, 2i + 1)`. Gemma's code, and transformers for LLaMA, pair halves, `(i, i + Dh/2)`. Both
// are RoPE, and a model trained with one can be run with the other **if the rows of its q and k projections are
// permuted**; LLaMA's files in GGUF are, Gemma's are not. Mixing them up gives fluent nonsense from the second token on.

// %%
NB_CELL
const auto interleaved = [](const Head& x, double position, double base) {
  Head y(x.size());
  for (size_t i = 0; i < x.size() / 2; ++i) {
    const std::complex<double> pair(x[2 * i], x[2 * i + 1]);
    const auto t = pair * std::polar(1.0, position * frequency(i, x.size(), base));
    y[2 * i] = t.real(), y[2 * i + 1] = t.imag();
  }
  return y;
};
const auto permuted = [](const Head& x) {  // halves side by side
  Head y(x.size());
  for (size_t i = 0; i < x.size() / 2; ++i) y[2 * i] = x[i], y[2 * i + 1] = x[i + x.size() / 2];
  return y;
};
nb::Curve halves{"halves (Gemma)", {}, {}}, neighbours{"neighbours, same weights", {}, {}}, fixed{"neighbours, weights permuted", {}, {}, true};
double permuted_error = 0;
for (int d = 0; d < 32; ++d) {
  const auto score = [&](const auto& f, const Head& a, const Head& b) { return dot(f(a, d, local_base), f(b, 0, local_base)); };
  for (nb::Curve* c : {&halves, &neighbours, &fixed}) c->x.push_back(d);
  halves.y.push_back(score(turned, qv, kv));
  neighbours.y.push_back(score(interleaved, qv, kv));
  fixed.y.push_back(score(interleaved, permuted(qv), permuted(kv)));
  permuted_error = std::max(permuted_error, std::abs(halves.y.back() - fixed.y.back()));
}
nb::plot({halves, neighbours, fixed}, {"The same q and k, paired in two ways", "distance", "score"});
nb::check(halves.y[0] == neighbours.y[0] && nb::largest_difference(halves.y, neighbours.y) > 1,
          "the wrong pairs agree at distance 0 and nowhere else");
nb::check(permuted_error < 1e-12, "with permuted weights the two are the same model");

// %% [markdown]
// ## Pitfall: angles in too few bits
//
// The fastest pair turns by one radian a token, so at position 30,000 its angle is 30,000 and only what is left after
// 4,775 full turns counts. An f32 has 24 bits: at that size its numbers are 0.002 apart. Four ways to get a cosine:
//
// - angles in f64, rounded once when the cosine is done: this library's table (`tensor/rope_table.h`)
// - frequencies and angles in f32: JAX and most others; exact where the frequency is, wrong by up to `2⁻²⁴ p` elsewhere
// - the cosine rounded to bf16: transformers, when the model runs in bf16; the same error at every position
// - the **position** in bf16: a mistake that several ports made, since 257 is not a number of bf16

// %%
NB_CELL
const auto bf16_of = [](double v) { return Tensor::scalar(v).to(DType::bf16).item(); };
nb::Curve table_error{"f64 angles (here)", {}, {}}, f32_error{"f32 angles", {}, {}},
    bf16_cosine{"bf16 cosine", {}, {}}, bf16_position{"bf16 position", {}, {}};
const RopeTable wide_table(heads_of, local_base);
wide_table.reserve(nb::device() == Device::gpu ? 40000 : 0);
for (double p = 1; p < 40000; p *= 1.3) {
  const auto position = static_cast<int32_t>(p);
  double worst[4] = {};
  // The library's own cosines: turn (1, 0) pairs and read the first half.
  std::vector<float> ones(heads_of, 0);
  std::fill_n(ones.begin(), heads_of / 2, 1.0F);
  const Head cosines = rope(Tensor::from(ones, {1, 1, 1, static_cast<int64_t>(heads_of)}).to(nb::device()), {position}, wide_table).to_vector();
  for (size_t i = 0; i < heads_of / 2; ++i) {
    const double f = frequency(i, heads_of, local_base), exact = std::cos(position * f);
    const float f32_angle = static_cast<float>(position) * static_cast<float>(f);
    const double found[4] = {cosines[i], std::cos(static_cast<double>(f32_angle)), bf16_of(exact), std::cos(bf16_of(position) * f)};
    for (int w = 0; w < 4; ++w) worst[w] = std::max(worst[w], std::abs(found[w] - exact));
  }
  nb::Curve* curves[4] = {&table_error, &f32_error, &bf16_cosine, &bf16_position};
  for (int w = 0; w < 4; ++w) curves[w]->x.push_back(position), curves[w]->y.push_back(worst[w]);
}
nb::plot({table_error, f32_error, bf16_cosine, bf16_position}, {"Largest error of a cosine", "position", "", true, true});
nb::check(*std::max_element(table_error.y.begin(), table_error.y.end()) < 1e-7, "the table is right to f32's last bit at every position");
nb::check(f32_error.y.back() > 1e-4 && bf16_position.y.back() > 0.5, "f32 angles lose digits as positions grow, bf16 positions lose everything");
nb::check(bf16_of(256) == bf16_of(257), "to bf16, tokens 256 and 257 stand on one place");

// %% [markdown]
// ## Pitfall: one base for all layers
//
// Gemma 2 has one base, Gemma 3 two. A loader that reads `rope_theta` and not `rope_local_base_freq` runs five layers in
// six with the wrong one. The model still speaks, since short distances are turned almost alike by the fast pairs; in
// the reference model the logits move by 1.8 when local angles are used everywhere and by 4.3 the other way round,
// where f32's noise is `1e-5`. Here is the effect on one score.

// %%
NB_CELL
nb::Curve with_local{"base 10,000", {}, {}}, with_global{"base 1,000,000", {}, {}};
for (int d = 0; d < 64; ++d) {
  for (nb::Curve* c : {&with_local, &with_global}) c->x.push_back(d);
  with_local.y.push_back(dot(turned(qv, d, local_base), kv));
  with_global.y.push_back(dot(turned(qv, d, global_base), kv));
}
nb::plot({with_local, with_global}, {"One query, one key, two bases", "distance", "score"});
nb::check(nb::largest_difference(with_local.y, with_global.y) > 3, "the wrong base gives another score at most distances");

// %% [markdown]
// ## Where to read on
//
// - `tensor/kernels/norm_rope.h`: the page of the kernel, both directions
// - `tensor/rope_table.h`: the angles, shared by all layers of one base
// - `nn/positions.h`: waves and learned rows
// - `models/gemma/config.h`: `rope_base_local`, `rope_base_global`, `rope_factor_global`; which layer has which
// - `tests/contracts/ops/norm_rope.cpp`: what every body must pass
// - `docs/discrepancies.md`: `rope_interleaved`, `rope_theta_all_local` and their kin, on whole models
// - [Su et al. 2021](https://arxiv.org/abs/2104.09864): 3.2 the derivation, 3.4.3 the decay;
//   [Chen et al. 2023](https://arxiv.org/abs/2306.15595), section 2.3: dividing positions
//
// Try it: make the head look three tokens *ahead* in text that is read backwards. Then give `turned` the factor 8 and
// the base `8^(Dh/(Dh-2))` times larger in turn, and compare the wavelengths: one stretches all pairs, the other leaves
// the fast ones alone.

// %% active="cpp"
return nb::finish();
}

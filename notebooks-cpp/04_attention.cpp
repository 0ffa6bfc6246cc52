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
// # 04 · Attention and its masks
//
// All other layers of a transformer look at one token at a time. Attention is where tokens meet: each one asks a question
// (its query), every token offers a key and a value, and the answer is the mean of the values, weighted by how well the
// keys fit ([Vaswani et al. 2017](https://arxiv.org/abs/1706.03762), section 3.2.1).
//
// ```text
// s_ij = scale · q_i · k_j        p_i = softmax over the visible j of s_ij        y_i = Σ_j p_ij v_j
// ```
//
// The word *visible* is half of this lesson. What a token may see decides whether a model can be trained in parallel,
// how much memory it needs to speak, and whether documents that share a row stay strangers. Most bugs of attention are
// bugs of its mask. The other half: the gradient, and how to compute it all without ever holding the matrix of scores.
// The page of the kernel is `tensor/kernels/attention.h`.

// %%
#include <algorithm>
#include <cmath>
#include <iostream>
#include <limits>
#include <numeric>

#include "autograd/ops.h"
#include "notebooks-cpp/nb.hpp"
#include "notebooks-cpp/numbers.h"
#include "tensor/gpu/pool.h"
#include "tensor/parallel.h"

using namespace facet;

// %% [markdown]
// One head with plain loops, in double precision. `seen[i][j]` is the mask, whatever rule made it. The soft-cap is Gemma
// 2's: scores are squeezed into ±cap, before the mask.

// %%
using Row = std::vector<double>;
using Matrix = std::vector<Row>;
using Seen = std::vector<std::vector<bool>>;

double dot(const Row& a, const Row& b) { return std::inner_product(a.begin(), a.end(), b.begin(), 0.0); }
Matrix zeros(size_t rows, size_t columns) { return Matrix(rows, Row(columns, 0)); }

struct Attended {
  Matrix y, p, c;  // result, probabilities, capped scores
};
Attended attend(const Matrix& q, const Matrix& k, const Matrix& v, const Seen& seen, double scale, double cap) {
  Attended a{zeros(q.size(), v[0].size()), zeros(q.size(), k.size()), zeros(q.size(), k.size())};
  for (size_t i = 0; i < q.size(); ++i) {
    double top = -std::numeric_limits<double>::infinity(), total = 0;
    for (size_t j = 0; j < k.size(); ++j) {
      const double s = scale * dot(q[i], k[j]);
      a.c[i][j] = cap > 0 ? cap * std::tanh(s / cap) : s;
      if (seen[i][j]) top = std::max(top, a.c[i][j]);
    }
    for (size_t j = 0; j < k.size(); ++j)
      if (seen[i][j]) total += a.p[i][j] = std::exp(a.c[i][j] - top);
    for (size_t j = 0; j < k.size(); ++j) {
      if (seen[i][j]) a.p[i][j] /= total;
      for (size_t d = 0; d < v[0].size(); ++d) a.y[i][d] += a.p[i][j] * v[j][d];
    }
  }
  return a;
}

// %% [markdown]
// And who sees whom, from positions and segments. Not from the place in the array: a cache that goes round, a padded
// batch and packed documents all put tokens in odd places, and the rule does not care.

// %%
struct Token {
  int32_t position, segment = 0;
};
Seen who_sees_whom(const std::vector<Token>& tokens, int64_t window) {
  Seen seen(tokens.size(), std::vector<bool>(tokens.size(), false));
  for (size_t i = 0; i < tokens.size(); ++i)
    for (size_t j = 0; j < tokens.size(); ++j) {
      const Token &query = tokens[i], &key = tokens[j];
      seen[i][j] = query.position >= 0 && key.position >= 0       // padding has position -1
                   && key.position <= query.position              // causal
                   && (window == 0 || query.position - key.position < window)
                   && key.segment == query.segment;
    }
  return seen;
}
std::vector<Token> in_order(int32_t n) {
  std::vector<Token> tokens;
  for (int32_t i = 0; i < n; ++i) tokens.push_back({i});
  return tokens;
}

// %% [markdown]
// Between the two worlds: rows of a tensor `[1, T, 1, Dh]`, and the library's mask of a list of tokens.

// %%
Matrix rows_of(const Tensor& t) {
  const Row all = t.to_vector();
  Matrix m;
  for (auto at = all.begin(); at != all.end(); at += t.dim(-1)) m.emplace_back(at, at + t.dim(-1));
  return m;
}
double largest_difference(const Matrix& a, const Matrix& b) {
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) worst = std::max(worst, nb::largest_difference(a[i], b[i]));
  return worst;
}
AttentionMask mask_of(const std::vector<Token>& tokens, int64_t window, Device device) {
  std::vector<int32_t> positions, segments;
  for (const Token& t : tokens) positions.push_back(t.position), segments.push_back(t.segment);
  const auto n = static_cast<int64_t>(tokens.size());
  AttentionMask mask;
  mask.q_positions = Tensor::from(positions, {1, n}).to(device);
  mask.q_segments = Tensor::from(segments, {1, n}).to(device);
  mask.window = window;
  return mask;
}

// %% active="cpp"
int main(int argc, char** argv) {
nb::start(argc, argv);

// %% [markdown]
// ## Why the scale
//
// The dot product of two vectors with `Dh` random entries of variance 1 has variance `Dh`. At `Dh = 256` scores of ±16
// are common, `e¹⁶` is nine million, and the softmax picks one key and is deaf to all others: its gradient is zero. With
// `scale = 1/√Dh` the scores have variance 1 at any width. Here is the largest probability among 64 random keys.

// %%
NB_CELL
nb::Curve unscaled{"scale 1", {}, {}}, scaled{"scale 1/√Dh", {}, {}};
for (int64_t d : {4, 16, 64, 256, 1024}) {
  const Tensor s = matmul(nb::gaussian(1, {64, d}), transpose(nb::gaussian(2, {64, d})));
  for (nb::Curve* c : {&unscaled, &scaled}) {
    const double factor = c == &scaled ? 1 / std::sqrt(static_cast<double>(d)) : 1;
    c->x.push_back(static_cast<double>(d));
    c->y.push_back(mean(max(softmax(s * factor), -1)).item());
  }
}
nb::plot({unscaled, scaled}, {"Largest of 64 probabilities, mean", "head size Dh", "", true});
nb::check(unscaled.y.back() > 0.9, "without the scale a wide head looks at one key only");
nb::check(scaled.y.back() < 0.2 && std::abs(scaled.y.back() - scaled.y[1]) < 0.05, "with it the width does not matter");

// %% [markdown]
// Gemma's sizes do not all use `Dh`: the 27B of Gemma 3 scales by `(5376/32)^-½ = 168^-½` with heads of 128. It is a number
// in the config (`query_scale_denominator`), never derived.
//
// ## The library's op is the formula
//
// `attention(q, k, v, mask, scale, cap)` against the loops, for a window, with and without a cap.

// %%
NB_CELL
const int64_t T = 16, Dh = 16;
const double scale = 0.25;
const Tensor q = nb::gaussian(3, {1, T, 1, Dh}) * 2, k = nb::gaussian(4, {1, T, 1, Dh}), v = nb::gaussian(5, {1, T, 1, Dh});
double op_error = 0;
for (double cap : {0.0, 1.5})
  for (int64_t window : {0, 5}) {
    const Attended hand = attend(rows_of(q), rows_of(k), rows_of(v), who_sees_whom(in_order(T), window), scale, cap);
    const Tensor y = attention(q, k, v, mask_of(in_order(T), window, nb::device()), scale, cap);
    op_error = std::max(op_error, largest_difference(rows_of(y), hand.y));
  }
nb::check(op_error < 2e-6, "the fused operation computes the formula, causal and with a window, with a cap and without");

// %% [markdown]
// ## A gallery of masks
//
// The fused operation never holds the probabilities. But we can make it tell: give it the unit vectors as values, and
// row `i` of the result *is* `p_i`. So these pictures are what the library computes, not what we think it does; each is
// checked against the rule above, zero by zero. (Drawn with a small scale and times the number of visible keys, so that
// rows with many keys are not pale.)

// %%
NB_CELL
std::vector<float> unit(T * T, 0);
for (int64_t i = 0; i < T; ++i) unit[i * T + i] = 1;
const Tensor unit_values = Tensor::from(unit, {1, T, 1, Dh}).to(nb::device());
const auto gallery = [&](const std::string& title, const std::vector<Token>& tokens, int64_t window) {
  const Matrix p = rows_of(attention(q, k, unit_values, mask_of(tokens, window, nb::device()), 0.05));
  const Seen seen = who_sees_whom(tokens, window);
  Row flat;
  bool agrees = true;
  for (int64_t i = 0; i < T; ++i)
    for (int64_t j = 0; j < T; ++j) {
      flat.push_back(p[i][j] * static_cast<double>(std::count(seen[i].begin(), seen[i].end(), true)));
      agrees = agrees && (p[i][j] > 0) == seen[i][j];
    }
  nb::heatmap(flat, T, {title, "key", "query"});
  return agrees;
};
std::vector<Token> packed, padded;
for (int32_t document = 0; int32_t length : {5, 4, 7}) {
  for (int32_t i = 0; i < length; ++i) packed.push_back({i, document});
  ++document;
}
for (int32_t i = 0; i < T; ++i) padded.push_back({i - 6 < 0 ? -1 : i - 6});
nb::check(gallery("Causal: everything up to itself", in_order(T), 0), "causal: a triangle");
nb::check(gallery("Window of 4: itself and the three before it", in_order(T), 4), "a window: a band");
nb::check(gallery("Packed: documents of 5, 4 and 7 tokens in one row", packed, 0), "packed documents: blocks");
nb::check(gallery("Padded on the left by 6", padded, 0), "padding: rows and columns of nothing");

// %% [markdown]
// The triangle is why a language model is trained in parallel: position `i` predicts the next token from what it would
// know when speaking, and all positions do so at once. The band is why it can speak cheaply: a layer with a window of
// 512 never needs more than 512 keys.
//
// **The window counts the token itself.** `W = 4` means the token and three before it: `i - j < W`. Ports that write
// `i - j <= W` see one more key. On the small reference model that moves logits by 8, where libraries that do it right
// agree to `1e-5`; it is the most common of all mask bugs, and a short test prompt never shows it.

// %%
NB_CELL
std::vector<std::string> query_names;
nb::Bars right_window{"i - j < 4", {}}, wrong_window{"i - j <= 4", {}};
const Seen four = who_sees_whom(in_order(10), 4), five = who_sees_whom(in_order(10), 5);
for (size_t i = 0; i < 10; ++i) {
  query_names.push_back(std::to_string(i));
  right_window.values.push_back(static_cast<double>(std::count(four[i].begin(), four[i].end(), true)));
  wrong_window.values.push_back(static_cast<double>(std::count(five[i].begin(), five[i].end(), true)));
}
nb::bars(query_names, {right_window, wrong_window}, {"Keys that a query sees", "position", ""});
const Matrix with_4 = rows_of(attention(q, k, v, mask_of(in_order(T), 4, nb::device()), scale)),
             with_5 = rows_of(attention(q, k, v, mask_of(in_order(T), 5, nb::device()), scale));
nb::check(right_window.values[9] == 4, "a window of 4 is four keys, its own among them");
nb::check(nb::largest_difference(with_4[3], with_5[3]) < 1e-6 && nb::largest_difference(with_4[4], with_5[4]) > 0.01,
          "an off-by-one is invisible up to position 3 and wrong from 4 on");

// %% [markdown]
// ## Five local layers and a global one
//
// A band per layer does not mean that news stops at its edge: what token `j` told token `i` in one layer, `i` passes on
// in the next. Every local layer adds `W - 1` tokens of reach. Gemma 3 has five of them, then one layer without a
// window; after that one, everything has reached everybody. Follow it with the tape: a stack of bare attention layers
// on the residual stream, and the question which inputs have a gradient from the last output.

// %%
NB_CELL
const int64_t long_row = 40, W = 6;
const Tensor stream = nb::gaussian(6, {1, long_row, 1, 8}) * 0.3;
const auto layer_mask = [&](int layer) { return mask_of(in_order(long_row), layer == 5 ? 0 : W, nb::device()); };
Row reach_picture, reached;
for (int layers = 1; layers <= 6; ++layers) {
  const Tensor x = leaf(stream);
  Tensor h = x;
  for (int layer = 0; layer < layers; ++layer) h = h + attention(h, h, h, layer_mask(layer), 0.02);
  backward(sum(slice(h, 1, long_row - 1, long_row)));
  double count = 0;
  for (const Row& slope : rows_of(grad_of(x))) {
    const bool touched = std::any_of(slope.begin(), slope.end(), [](double s) { return s != 0; });
    reach_picture.push_back(touched);
    count += touched;
  }
  reached.push_back(count);
}
nb::heatmap(reach_picture, long_row, {"What the last token knows of, after 1 to 6 layers (window 6, the sixth global)", "input position", "layers"});

Seen known = who_sees_whom(in_order(long_row), 1);  // a token knows itself
std::vector<Row> pictures;
for (int layer = 0; layer < 6; ++layer) {
  const Seen band = who_sees_whom(in_order(long_row), layer == 5 ? 0 : W);
  Seen next = known;
  for (size_t i = 0; i < known.size(); ++i)
    for (size_t through = 0; through < known.size(); ++through)
      for (size_t j = 0; j < known.size() && band[i][through]; ++j) next[i][j] = next[i][j] || known[through][j];
  known = next;
  pictures.emplace_back();
  for (const auto& row : known) pictures.back().insert(pictures.back().end(), row.begin(), row.end());
}
nb::heatmap(pictures[4], long_row, {"Who knows of whom after five local layers", "input position", "token"});
bool five_reach = true;
for (int layers = 1; layers <= 5; ++layers) five_reach = five_reach && reached[layers - 1] == static_cast<double>(layers * (W - 1) + 1);
nb::check(five_reach, "n local layers reach n (W - 1) + 1 tokens, no more and no fewer, by the gradient");
nb::check(reached[5] == static_cast<double>(long_row), "the global layer reaches all");
nb::check(Row(pictures[4].end() - long_row, pictures[4].end()) == Row(reach_picture.begin() + 4 * long_row, reach_picture.begin() + 5 * long_row),
          "passing news on by hand gives the same picture as the gradient");

// %% [markdown]
// In Gemma 3 270M, `W = 512`: five local layers reach 2556 tokens. A fact further away has to pass through a global layer,
// of which there are three in eighteen. Only those keep all keys of a long conversation, so that its cache is a sixth
// of what it would be, and a bit (lesson 05).
//
// ## Documents that share a row
//
// Training texts have all lengths. Padding them to the longest wastes most of the work; packing puts several into one
// row. Then positions begin anew in each document and `segments` keep them apart. It is only worth having if nothing
// leaks: each document must come out as if it were alone, and here it does so in every bit. (On a GPU tiles of keys begin
// at multiples of 64 *slots*, so a document that begins elsewhere is summed in another order, and agrees up to
// rounding.)

// %%
NB_CELL
const Matrix together = rows_of(attention(q, k, v, mask_of(packed, 0, nb::device()), scale));
double leak = 0;
for (int64_t begin = 0; int64_t length : {5, 4, 7}) {
  const auto alone = [&](const Tensor& t) { return t.slice(1, begin, begin + length); };
  const Matrix y = rows_of(attention(alone(q), alone(k), alone(v), mask_of(in_order(static_cast<int32_t>(length)), 0, nb::device()), scale));
  leak = std::max(leak, largest_difference(y, Matrix(together.begin() + begin, together.begin() + begin + length)));
  begin += length;
}
nb::check(leak <= (nb::device() == Device::cpu ? 0 : 1e-6), "a packed document is computed as if it were alone");

// %% [markdown]
// Forget the segments, and two things go wrong at once. Positions begin anew, so "earlier" no longer means "to the left":
// token 2 of the first document sees tokens 0, 1 and 2 of *all* documents, later ones included. Such a model trains well
// and does badly, since it was allowed to read answers.

// %%
NB_CELL
std::vector<Token> careless = packed;
for (Token& t : careless) t.segment = 0;
const Seen leaking = who_sees_whom(careless, 0);
int64_t to_the_right = 0, strangers = 0;
for (size_t i = 0; i < 16; ++i)
  for (size_t j = 0; j < 16; ++j) {
    to_the_right += leaking[i][j] && j > i;
    strangers += leaking[i][j] && packed[i].segment != packed[j].segment;
  }
fmt::print("without segments: {} pairs of strangers see each other, {} of them look to the right\n", strangers, to_the_right);
const Matrix leaked = rows_of(attention(q, k, v, mask_of(careless, 0, nb::device()), scale));
nb::check(strangers > 0 && to_the_right > 0 && largest_difference(leaked, together) > 0.1, "without segments documents leak, even from right to left");

// %% [markdown]
// ## Where a token lies means nothing
//
// Masks from positions buy one more thing: order in memory is free. Shuffle keys, values and their positions together,
// and the result is the same up to the order of sums. That is how a ring works that overwrites its oldest key (lesson
// 13): its slots are never in order, and nobody minds.

// %%
NB_CELL
std::vector<int32_t> order(T);
for (int32_t i = 0; i < T; ++i) order[i] = (i * 7 + 3) % static_cast<int32_t>(T);  // 7 and 16 have no common factor
const Tensor picked = Tensor::from(order, {T}).to(nb::device());
AttentionMask shuffled = mask_of(in_order(T), 5, nb::device());
shuffled.q_segments = {};
shuffled.k_positions = Tensor::from(order, {1, T}).to(nb::device());
const Tensor from_shuffled = attention(q, take(k, picked, 1), take(v, picked, 1), shuffled, scale);
const Tensor from_ordered = attention(q, k, v, mask_of(in_order(T), 5, nb::device()), scale);
nb::check(nb::largest_difference(from_shuffled, from_ordered) < 1e-6, "keys in any order give the same result, up to rounding");

// %% [markdown]
// ## A query that sees nothing
//
// Padding makes rows without a single visible key. Softmax of nothing is `0/0`. Libraries fill hidden scores with `-∞`,
// and such a row becomes NaN, which spreads through the residual stream to everybody; or with a large finite number, and
// the row becomes the mean of *all* values, the forbidden ones. Neither is harmless. Here such a row is zero, and so is
// its gradient.

// %%
NB_CELL
const double minus_infinity = -std::numeric_limits<double>::infinity();
const double filled_inf = softmax(Tensor::full({4}, minus_infinity, DType::f32, nb::device())).to_vector()[0],
             filled_finite = softmax(Tensor::full({4}, -2.3819763e38, DType::f32, nb::device())).to_vector()[0];
const Tensor padded_q = leaf(q);
const Tensor padded_y = attention(padded_q, k, v, mask_of(padded, 0, nb::device()), scale);
backward(sum(padded_y));
const Row first_y = rows_of(padded_y)[0], first_slope = rows_of(grad_of(padded_q))[0];
fmt::print("softmax of four hidden scores: {} filled with -inf, {} filled with -2.4e38; here y = {}\n", std::abs(filled_inf), filled_finite, first_y[0]);
nb::check(std::isnan(filled_inf) && filled_finite == 0.25, "-inf gives NaN, a finite fill a mean of what must not be seen");
nb::check(dot(first_y, first_y) == 0 && dot(first_slope, first_slope) == 0, "the library gives zeros, and a zero gradient");

// %% [markdown]
// ## The gradient
//
// Go back step by step, for one query `i`, with `c` the capped score:
//
// ```text
// y  = Σ_j p_j v_j        dv_j += p_j dy              dp_j = dy · v_j
// p  = softmax(c)         dc_j = p_j (dp_j - Σ_m p_m dp_m)
// c  = cap tanh(s/cap)    ds_j = dc_j (1 - (c_j/cap)²)
// s  = scale q · k_j      dq += scale ds_j k_j        dk_j += scale ds_j q
// ```
//
// The sum over `m` looks as if it needed all of row `i`. It does not: `Σ_m p_m (dy · v_m) = dy · Σ_m p_m v_m = dy · y`. One
// number per query, from the result alone. That is what lets the backward pass go through keys in pieces.

// %%
NB_CELL
const std::vector<Token> some_tokens{{0}, {1}, {2}, {-1}, {0, 1}, {1, 1}, {2, 1}};
const auto n = static_cast<int64_t>(some_tokens.size());
const Tensor q64 = nb::gaussian64(7, {1, n, 1, 4}), k64 = nb::gaussian64(8, {1, n, 1, 4}), v64 = nb::gaussian64(9, {1, n, 1, 4}),
             dy64 = nb::gaussian64(10, {1, n, 1, 4});
const double cap = 1.2;
const AttentionMask mask64 = mask_of(some_tokens, 2, Device::cpu);

const Matrix qs = rows_of(q64), ks = rows_of(k64), vs = rows_of(v64), dys = rows_of(dy64);
const Attended forward = attend(qs, ks, vs, who_sees_whom(some_tokens, 2), scale, cap);
Matrix dq = zeros(n, 4), dk = zeros(n, 4), dv = zeros(n, 4);
for (size_t i = 0; i < qs.size(); ++i) {
  const double delta = dot(dys[i], forward.y[i]);
  for (size_t j = 0; j < ks.size(); ++j) {
    const double p = forward.p[i][j], c = forward.c[i][j];
    const double ds = p * (dot(dys[i], vs[j]) - delta) * (1 - c * c / (cap * cap));
    for (size_t d = 0; d < 4; ++d) {
      dv[j][d] += p * dys[i][d];
      dq[i][d] += scale * ds * ks[j][d];
      dk[j][d] += scale * ds * qs[i][d];
    }
  }
}
const Tensor q_leaf = leaf(q64), k_leaf = leaf(k64), v_leaf = leaf(v64);
backward(attention(q_leaf, k_leaf, v_leaf, mask64, scale, cap), dy64);
nb::check(largest_difference(rows_of(grad_of(q_leaf)), dq) < 1e-14 && largest_difference(rows_of(grad_of(k_leaf)), dk) < 1e-14 &&
              largest_difference(rows_of(grad_of(v_leaf)), dv) < 1e-14,
          "the library's dq, dk and dv are the formulas");
const auto loss_of = [&](const Tensor& a, const Tensor& b, const Tensor& c) { return sum(attention(a, b, c, mask64, scale, cap) * dy64); };
const double finite_q = nb::slope_error([&](const Tensor& t) { return loss_of(t, k64, v64); }, q64),
             finite_k = nb::slope_error([&](const Tensor& t) { return loss_of(q64, t, v64); }, k64),
             finite_v = nb::slope_error([&](const Tensor& t) { return loss_of(q64, k64, t); }, v64);
nb::check(std::max({finite_q, finite_k, finite_v}) < 1e-9, "finite differences agree (f64, on the CPU)");

// %% [markdown]
// ## One key at a time
//
// Softmax divides by a sum over all keys, and guards against overflow by the largest score, so it seems to need two passes
// over a row. It needs one. Keep the largest score `m` so far, the sum `l` of `exp(s - m)` and the weighted values `o`; when a
// larger score turns up, multiply `l` and `o` by `exp(m - m')` and go on (Milakov and Gimelshein 2018). Memory: three
// things per query, however long the row.

// %%
NB_CELL
const auto one_at_a_time = [](const Row& query, const Matrix& keys, const Matrix& values, double factor) {
  double m = -std::numeric_limits<double>::infinity(), l = 0;
  Row o(values[0].size(), 0);
  for (size_t j = 0; j < keys.size(); ++j) {
    const double s = factor * dot(query, keys[j]), larger = std::max(m, s), shrink = std::exp(m - larger), weight = std::exp(s - larger);
    l = shrink * l + weight;
    for (size_t d = 0; d < o.size(); ++d) o[d] = shrink * o[d] + weight * values[j][d];
    m = larger;
  }
  for (double& x : o) x /= l;
  return o;
};
const Matrix q_rows = rows_of(q), k_rows = rows_of(k), v_rows = rows_of(v);
Row big_query = q_rows[T - 1];
for (double& x : big_query) x *= 1000;  // scores in the thousands: exp would overflow
const Seen everything(T, std::vector<bool>(T, true));
const Matrix big{big_query, q_rows[T - 1]};
const Matrix two_passes = attend(big, k_rows, v_rows, everything, scale, 0).y;
nb::check(nb::largest_difference(one_at_a_time(big[0], k_rows, v_rows, scale), two_passes[0]) < 1e-12 &&
              nb::largest_difference(one_at_a_time(big[1], k_rows, v_rows, scale), two_passes[1]) < 1e-12,
          "one pass over the keys gives the softmax of two passes, even for scores in the thousands");

// %% [markdown]
// FlashAttention ([Dao 2023](https://arxiv.org/abs/2307.08691), section 3.1) is this with *blocks* of keys in place of
// single ones, so that each step is a matrix product. In backward it computes the probabilities again from `lse = m + log l`
// instead of keeping them. Measure what each way holds at its peak: primitives that write `T × T` scores, and the fused
// operation.

// %%
NB_CELL
set_threads(1);  // each thread at work has scratch of its own, and how many meet in so short an operation is chance
const auto peak_kb = [&](const auto& f) {
  nb::device() == Device::gpu ? gpu::pool_reset_peak() : pool_reset_peak();
  const double before = static_cast<double>(pool_stats(nb::device()).live_bytes);
  f();
  return (static_cast<double>(pool_stats(nb::device()).peak_bytes) - before) / 1024;
};
nb::Curve primitive{"primitives", {}, {}}, fused{"fused", {}, {}};
for (int64_t length = 32; length <= (nb::quick() ? 256 : 1024); length *= 2) {
  const Tensor x = nb::gaussian(11, {1, length, 1, 16});
  const AttentionMask mask = mask_of(in_order(static_cast<int32_t>(length)), 0, nb::device());
  const NoGrad off;
  primitive.y.push_back(peak_kb([&] {
    const Tensor seen = less_equal(reshape(mask.q_positions, {1, length}), reshape(mask.q_positions, {length, 1}));
    const Tensor s = einsum("bihd,bjhd->ij", {x, x}) * scale;
    const Tensor hidden = Tensor::full({1}, -1e30, DType::f32, nb::device());
    const Tensor y = einsum("ij,bjhd->bihd", {softmax(where(seen, s, hidden)), x});
  }));
  fused.y.push_back(peak_kb([&] { const Tensor y = attention(x, x, x, mask, scale); }));
  for (nb::Curve* c : {&primitive, &fused}) c->x.push_back(static_cast<double>(length));
}
nb::plot({primitive, fused}, {"Memory of one head at its peak", "tokens", "KiB", true, true});
const size_t longest = fused.y.size() - 1;
nb::check(primitive.y[longest] > 3.3 * primitive.y[longest - 1], "twice the tokens, nearly four times the memory of the primitives");
nb::check(fused.y[longest] < 2.6 * fused.y[longest - 1] && fused.y[longest] < 0.2 * primitive.y[longest], "about twice that of the fused one, and far less of it");

// %% [markdown]
// ## Where to read on
//
// - `tensor/kernels/attention.h`: the page of the kernel: blocks, order of sums, what is rounded where
// - `autograd/ops.h`: `AttentionMask`, the rule of visibility in four lines
// - `tensor/cpu/attention_forward.cpp`, `tensor/gpu/attention_forward.cu`: the bodies
// - `tests/contracts/ops/attention.cpp`: what every body must pass
// - `docs/discrepancies.md`: `window_plus_1`, `no_window`, `softcap_after_mask` and their kin, on whole models
// - [Vaswani et al. 2017](https://arxiv.org/abs/1706.03762), 3.2; [Dao et al. 2022](https://arxiv.org/abs/2205.14135), section 3;
//   [Gemma 3](https://arxiv.org/abs/2503.19786), section 2, for five local layers to a global one
//
// Try it: move the window's test to `<=` in `who_sees_whom` and see which pictures turn red. Then make a prefix mask, in
// which the first five tokens see each other both ways: which of the rules has to give?

// %% active="cpp"
return nb::finish();
}

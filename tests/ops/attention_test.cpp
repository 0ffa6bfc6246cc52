#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cmath>

#include "autograd/ops.h"
#include "tensor/cpu/tier.h"
#include "tensor/kernels/attention.h"
#include "tensor/kernels/copy.h"
#include "tensor/parallel.h"
#include "tests/support/composite_attention.h"
#include "tests/support/contract.h"
#include "tests/support/goldens.h"

using namespace facet;
using namespace facet::test;

namespace {

Tensor ints(const std::vector<int32_t>& values, const Shape& shape) { return Tensor::from(values, shape); }
/// 0, 1, .. in every row, from `start`.
Tensor counting(int64_t B, int64_t T, int start = 0) {
  std::vector<int32_t> p;
  for (int64_t b = 0; b < B; ++b)
    for (int64_t t = 0; t < T; ++t) p.push_back(static_cast<int32_t>(start + t));
  return ints(p, {B, T});
}
AttentionMask causal(int64_t B, int64_t T, int64_t window = 0) {
  AttentionMask m;
  m.q_positions = counting(B, T);
  m.window = window;
  return m;
}

struct Case {
  Tensor q, k, v, dy;
  Case(uint64_t seed, int64_t B, int64_t T, int64_t S, int64_t H, int64_t K, int64_t D, DType dtype = DType::f64) {
    Random r(seed);
    q = r.normal({B, T, H, D}).to(dtype);
    k = r.normal({B, S, K, D}).to(dtype);
    v = r.normal({B, S, K, D}).to(dtype);
    dy = r.normal({B, T, H, D}).to(dtype);
  }
};
struct Result {
  Tensor y, dq, dk, dv;
};
Result run(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& dy, const AttentionMask& m, double scale, double cap = 0) {
  const Tensor lq = leaf(q), lk = leaf(k), lv = leaf(v);
  const Tensor y = attention(lq, lk, lv, m, scale, cap);
  backward(y, dy);
  return {y.detach(), grad_of(lq), grad_of(lk), grad_of(lv)};
}
Result run(const Case& c, const AttentionMask& m, double scale, double cap = 0) { return run(c.q, c.k, c.v, c.dy, m, scale, cap); }
Result slow(const Case& c, const AttentionMask& m, double scale, double cap = 0) {
  SlowAttentionGrad g;
  const SlowAttention s = slow_attention(c.q, c.k, c.v, m, scale, cap, c.dy, &g);
  return {s.y, g.dq, g.dk, g.dv};
}
void check_close(const Result& a, const Result& b, double rtol, double atol) {
  CHECK(close(a.y, b.y, rtol, atol));
  CHECK(close(a.dq, b.dq, rtol, atol));
  CHECK(close(a.dk, b.dk, rtol, atol));
  CHECK(close(a.dv, b.dv, rtol, atol));
}
void check_same(const Result& a, const Result& b) {
  CHECK(bitwise_equal(a.y, b.y));
  CHECK(bitwise_equal(a.dq, b.dq));
  CHECK(bitwise_equal(a.dk, b.dk));
  CHECK(bitwise_equal(a.dv, b.dv));
}
bool all_zero(const Tensor& t) {
  for (double x : t.to_vector())
    if (x != 0) return false;
  return true;
}

}  // namespace

TEST_CASE("attention: contract", "[contract]") { check_contracts("attention"); }

TEST_CASE("attention: jax goldens") {
  check_op_goldens("attention", {"q", "k", "v"}, [](const OpCase& c, const Tensors& x) -> Tensors {
    AttentionMask m;
    m.q_positions = c.in("q_pos");
    std::vector<double> position = c.in("k_pos").to_vector(), valid = c.in("k_valid").to_vector();
    std::vector<int32_t> slots;
    for (size_t i = 0; i < position.size(); ++i) slots.push_back(valid[i] != 0 ? static_cast<int32_t>(position[i]) : -1);
    m.k_positions = ints(slots, c.in("k_pos").shape());
    m.window = static_cast<int64_t>(c.attribute("window", 0));
    return {attention(x[0], x[1], x[2], m, c.attribute("scale"), c.attribute("cap", 0))};
  });
}

TEST_CASE("attention: long sequences in several turns and pieces") {
  for (const auto& [S, T] : {std::pair<int64_t, int64_t>{300, 300}, {400, 150}, {40, 290}, {2500, 3}}) {
    Case c(7, 1, T, S, 4, 2, 20, DType::f32);
    AttentionMask m;
    m.q_positions = counting(1, T, static_cast<int>(S - T));
    m.k_positions = counting(1, S);
    INFO("S " << S << " T " << T);
    check_close(run(c, m, 0.2), slow(c, m, 0.2), 1e-4, 2e-6);
    Case b(8, 1, T, S, 4, 2, 20, DType::bf16);
    const Result got = run(b, m, 0.2), expected = slow(b, m, 0.2);
    CHECK(nmse_within(got.y, expected.y, 1e-5));
    CHECK(nmse_within(got.dq, expected.dq, 5e-5));
    CHECK(nmse_within(got.dk, expected.dk, 5e-5));
    CHECK(nmse_within(got.dv, expected.dv, 5e-5));
  }
}

TEST_CASE("attention: bf16 destinations are rounded once however many turns write them") {
  const int64_t T = 400;
  Case c(9, 1, T, T, 2, 1, 16, DType::bf16);
  const AttentionMask m = causal(1, T);
  const Result exact = slow(c, m, 0.25);
  AttentionInputs x;
  x.q = c.q.view(), x.k = c.k.view(), x.v = c.v.view();
  x.q_positions = x.k_positions = m.q_positions.view();
  x.scale = 0.25;
  Tensor y = Tensor::empty(c.q.shape(), DType::bf16), lse = Tensor::empty({1, 2, T});
  attention_forward(x, y.out(), lse.out());
  Tensor dq = Tensor::zeros(c.q.shape(), DType::bf16), dk = Tensor::full(c.k.shape(), 1, DType::bf16), dv = Tensor::empty(c.k.shape(), DType::bf16);
  attention_backward(x, y.view(), lse.view(), c.dy.view(), dq.out(), dk.out(true), dv.out());
  CHECK(nmse_within(dq, exact.dq, 5e-5));
  CHECK(nmse_within(dv, exact.dv, 5e-6));
  std::vector<double> shifted = exact.dk.to_vector();
  for (double& d : shifted) d += 1;
  CHECK(nmse_within(dk, Tensor::from(shifted, c.k.shape()), 1e-5));

  Tensor only_v = Tensor::empty(c.k.shape(), DType::f32);  // null outputs are skipped
  attention_backward(x, y.view(), lse.view(), c.dy.view(), Out{}, Out{}, only_v.out());
  CHECK(nmse_within(only_v, exact.dv, 1e-10));
}

TEST_CASE("attention: causality is exact, padded batches included") {
  const int64_t T = 37;
  Case c(11, 2, T, T, 4, 2, 9, DType::f32);
  std::vector<int32_t> p;
  for (int b = 0; b < 2; ++b)
    for (int t = 0; t < T; ++t) p.push_back(b == 0 ? t : t < 5 ? -1 : t - 5);  // row 1 is left padded
  AttentionMask m;
  m.q_positions = ints(p, {2, T});
  const int seen = 20;  // the gradient of token 20 alone
  Tensor dy = Tensor::zeros(c.dy.shape());
  for (int64_t i = 0; i < 2; ++i)
    for (int64_t h = 0; h < 4; ++h)
      for (int64_t d = 0; d < 9; ++d) dy.out().as<float>()[((i * T + seen) * 4 + h) * 9 + d] = 1 + static_cast<float>(d);
  const Result r = run(c.q, c.k, c.v, dy, m, 0.3);
  for (const Tensor& g : {r.dk, r.dv}) {
    CHECK(all_zero(g.slice(1, seen + 1, T)));
    CHECK(all_zero(g.slice(0, 1, 2).slice(1, 0, 5)));
    CHECK_FALSE(all_zero(g.slice(1, seen, seen + 1)));
  }
  CHECK(all_zero(r.dq.slice(1, 0, seen)));
  CHECK(all_zero(r.dq.slice(1, seen + 1, T)));
}

TEST_CASE("attention: window lengths around the edge") {
  for (int64_t w : {1, 7, 16, 64})
    for (int64_t T : {w - 1, w, w + 1, 2 * w + 3}) {
      if (T < 1) continue;
      Case c(100 + w + T, 1, T, T, 2, 1, 6);
      INFO("window " << w << " T " << T);
      check_close(run(c, causal(1, T, w), 0.4), slow(c, causal(1, T, w), 0.4), 1e-10, 1e-12);
    }
  const Case c(5, 1, 90, 90, 2, 1, 6);
  Tensor dy = Tensor::zeros(c.dy.shape(), DType::f64);
  for (int i = 0; i < 12; ++i) dy.out().as<double>()[80 * 12 + i] = 1;
  const Result r = run(c.q, c.k, c.v, dy, causal(1, 90, 16), 0.4);
  CHECK(all_zero(r.dv.slice(1, 0, 65)));  // position 80 sees 65 .. 80
  CHECK_FALSE(all_zero(r.dv.slice(1, 65, 66)));
}

TEST_CASE("attention: packed segments equal separate sequences, and never mix") {
  const int64_t a = 21, b = 50, T = a + b;
  for (DType t : {DType::f64, DType::f32}) {
    Case c(21, 1, T, T, 4, 1, 10, t);
    std::vector<int32_t> p, s;
    for (int64_t i = 0; i < T; ++i) {
      p.push_back(static_cast<int32_t>(i < a ? i : i - a));
      s.push_back(i < a ? 3 : 8);
    }
    AttentionMask m;
    m.q_positions = ints(p, {1, T});
    m.q_segments = ints(s, {1, T});
    const Result packed = run(c, m, 0.3);
    const auto part = [&](int64_t begin, int64_t end) {
      const auto cut = [&](const Tensor& x) { return x.slice(1, begin, end); };
      return run(cut(c.q), cut(c.k), cut(c.v), cut(c.dy).clone(), causal(1, end - begin), 0.3);
    };
    const auto cut = [](const Result& r, int64_t begin, int64_t end) {
      return Result{r.y.slice(1, begin, end), r.dq.slice(1, begin, end), r.dk.slice(1, begin, end), r.dv.slice(1, begin, end)};
    };
    const double tolerance = t == DType::f64 ? 1e-12 : 3e-6;
    check_close(cut(packed, 0, a), part(0, a), tolerance, tolerance);
    check_close(cut(packed, a, T), part(a, T), tolerance, tolerance);
    std::vector<double> values = c.dy.to_vector();
    std::fill(values.begin(), values.begin() + a * 40, 0.0);  // only the second segment is asked
    const Tensor dy = Tensor::from(values, c.dy.shape()).to(t);
    const Result r = run(c.q, c.k, c.v, dy, m, 0.3);
    CHECK(all_zero(r.dq.slice(1, 0, a)));
    CHECK(all_zero(r.dk.slice(1, 0, a)));
    CHECK(all_zero(r.dv.slice(1, 0, a)));
  }
}

TEST_CASE("attention: slot order means nothing, empty slots do not count") {
  const int64_t S = 130;
  Case c(31, 1, 3, S, 4, 2, 12, DType::f32);
  std::vector<int32_t> p(S);
  for (int64_t s = 0; s < S; ++s) p[s] = static_cast<int32_t>(s);
  AttentionMask m;
  m.q_positions = ints({127, 128, 129}, {1, 3});
  m.k_positions = ints(p, {1, S});
  m.window = 100;
  const Result straight = run(c, m, 0.3);
  // A ring of 150 slots: position s sits in slot (7 s + 3) mod 150, the others hold rubbish.
  const int64_t R = 150;
  std::vector<double> k(R * 24, 1e3), v(R * 24, 1e3);
  const std::vector<double> ks = c.k.to_vector(), vs = c.v.to_vector();
  std::vector<int32_t> slots(R, -1);
  for (int64_t s = 0; s < S; ++s) {
    const int64_t slot = (7 * s + 3) % R;
    slots[slot] = static_cast<int32_t>(s);
    std::copy_n(&ks[s * 24], 24, &k[slot * 24]);
    std::copy_n(&vs[s * 24], 24, &v[slot * 24]);
  }
  m.k_positions = ints(slots, {1, R});
  const Result ring = run(c.q, Tensor::from(k, {1, R, 2, 12}).to(DType::f32), Tensor::from(v, {1, R, 2, 12}).to(DType::f32), c.dy, m, 0.3);
  CHECK(close(ring.y, straight.y, 1e-5, 1e-6));
  CHECK(close(ring.dq, straight.dq, 1e-5, 1e-5));
  for (int64_t s = 0; s < S; ++s) {
    const int64_t slot = (7 * s + 3) % R;
    REQUIRE(close(ring.dk.slice(1, slot, slot + 1), straight.dk.slice(1, s, s + 1), 1e-4, 1e-5));
    REQUIRE(close(ring.dv.slice(1, slot, slot + 1), straight.dv.slice(1, s, s + 1), 1e-4, 1e-5));
  }
}

TEST_CASE("attention: rows that see nothing are zeros, in every dtype") {
  for (DType t : {DType::f64, DType::f32, DType::bf16}) {
    Case c(41, 2, 6, 6, 2, 1, 5, t);
    AttentionMask m;
    m.q_positions = ints({-1, -1, 0, 1, 2, 3, -1, -1, -1, -1, -1, -1}, {2, 6});
    const Result r = run(c, m, 0.5);
    CHECK(all_zero(r.y.slice(1, 0, 2)));
    CHECK(all_zero(r.y.slice(0, 1, 2)));
    CHECK(all_zero(r.dq.slice(0, 1, 2)));
    CHECK(all_zero(r.dk.slice(0, 1, 2)));
    CHECK(all_zero(r.dv.slice(0, 1, 2)));
    for (const Tensor& g : {r.y, r.dq, r.dk, r.dv})
      for (double x : g.to_vector()) REQUIRE(std::isfinite(x));
    CHECK(close(r.y.slice(1, 2, 3).slice(0, 0, 1).slice(2, 0, 1), c.v.slice(1, 2, 3).slice(0, 0, 1), 1e-6));  // sees itself alone
  }
  AttentionMask m;  // queries at real positions whose keys are all empty
  Case c(42, 1, 3, 4, 2, 2, 8, DType::f32);
  m.q_positions = counting(1, 3);
  m.k_positions = ints({-1, -1, -1, -1}, {1, 4});
  const Result r = run(c, m, 0.5);
  CHECK((all_zero(r.y) && all_zero(r.dq) && all_zero(r.dk) && all_zero(r.dv)));
  Case none(43, 2, 3, 0, 2, 1, 4, DType::f32);  // no keys at all
  m.q_positions = counting(2, 3);
  m.k_positions = Tensor::empty({2, 0}, DType::i32);
  CHECK(all_zero(run(none, m, 0.5).y));
  CHECK(all_zero(run(none, m, 0.5).dq));
}

TEST_CASE("attention: left padding = right padding") {
  const int64_t T = 12, real = 9;
  Case c(51, 1, T, T, 4, 2, 11, DType::f32);
  const auto moved = [&](const Tensor& x) {  // right padded -> left padded
    std::vector<double> v = x.to_vector();
    std::rotate(v.begin(), v.begin() + real * x.dim(2) * x.dim(3), v.end());
    return Tensor::from(v, x.shape()).to(x.dtype());
  };
  std::vector<int32_t> left, right;
  for (int t = 0; t < T; ++t) {
    right.push_back(t < real ? t : -1);
    left.push_back(t < T - real ? -1 : t - static_cast<int>(T - real));
  }
  AttentionMask l, r;
  l.q_positions = ints(left, {1, T});
  r.q_positions = ints(right, {1, T});
  l.window = r.window = 4;
  const Result a = run(c, r, 0.3), b = run(moved(c.q), moved(c.k), moved(c.v), moved(c.dy), l, 0.3);
  check_close({moved(a.y), moved(a.dq), moved(a.dk), moved(a.dv)}, b, 1e-6, 1e-6);
}

TEST_CASE("attention: grouped heads read head h / (H/K)") {
  for (int64_t K : {1, 2, 4, 8}) {
    Case c(61 + K, 2, 19, 19, 8, K, 8);
    const AttentionMask m = causal(2, 19);
    check_close(run(c, m, 0.35), slow(c, m, 0.35), 1e-10, 1e-12);
  }
  const Case c(66, 1, 3, 3, 200, 1, 4);  // more heads share a key head than a block has columns
  check_close(run(c, causal(1, 3), 0.35), slow(c, causal(1, 3), 0.35), 1e-10, 1e-12);
}

TEST_CASE("attention: completions of one prompt in a row equal rows of their own, and never see each other") {
  const int64_t prompt = 70, branches = 5, each = 33, T = 2 * (prompt + branches * each);
  for (const auto& [t, window, cap] : {std::tuple{DType::f64, 0, 0.0}, {DType::f32, 0, 5.0}, {DType::f64, 40, 0.0}}) {
    Case c(57, 1, T, T, 4, 2, 12, t);
    std::vector<int32_t> p, s;
    for (int32_t trunk = 1; trunk <= 2; ++trunk) {  // two prompts one after the other
      for (int32_t i = 0; i < prompt; ++i) p.push_back(i), s.push_back(trunk << 16);
      for (int32_t b = 1; b <= branches; ++b)
        for (int32_t i = 0; i < each; ++i) p.push_back(static_cast<int32_t>(prompt) + i), s.push_back(trunk << 16 | b);
    }
    AttentionMask m;
    m.q_positions = ints(p, {1, T});
    m.q_segments = ints(s, {1, T});
    m.window = window;
    const Result packed = run(c, m, 0.3, cap);
    const double tolerance = t == DType::f64 ? 1e-11 : 3e-5;
    for (const int64_t first : {int64_t{0}, T / 2}) {
      std::vector<double> dk(static_cast<size_t>(prompt * 2 * 12)), dv = dk;  // of the prompt, over all branches
      for (int64_t b = 0; b < branches; ++b) {
        const int64_t begin = first + prompt + b * each;
        const auto row = [&](const Tensor& x) {  // prompt and one branch side by side
          std::vector<double> v = x.slice(1, first, first + prompt).to_vector();
          const std::vector<double> own = x.slice(1, begin, begin + each).to_vector();
          v.insert(v.end(), own.begin(), own.end());
          return Tensor::from(v, {1, prompt + each, x.dim(2), x.dim(3)}).to(x.dtype());
        };
        Tensor dy = row(c.dy);
        if (b > 0) fill(dy.slice(1, 0, prompt).out(), 0);  // the prompt's own queries count once
        const Result alone = run(row(c.q), row(c.k), row(c.v), dy, causal(1, prompt + each, window), 0.3, cap);
        const auto last = [&](const Tensor& x) { return x.slice(1, prompt, prompt + each); };
        const auto here = [&](const Tensor& x) { return x.slice(1, begin, begin + each); };
        check_close({here(packed.y), here(packed.dq), here(packed.dk), here(packed.dv)},
                    {last(alone.y), last(alone.dq), last(alone.dk), last(alone.dv)}, tolerance, tolerance);
        CHECK(bitwise_equal(here(packed.y).clone(), last(alone.y).clone()));
        CHECK(bitwise_equal(packed.y.slice(1, first, first + prompt).clone(), alone.y.slice(1, 0, prompt).clone()));
        const std::vector<double> k = alone.dk.slice(1, 0, prompt).to_vector(), v = alone.dv.slice(1, 0, prompt).to_vector();
        for (size_t i = 0; i < dk.size(); ++i) dk[i] += k[i], dv[i] += v[i];
      }
      CHECK(close(packed.dk.slice(1, first, first + prompt), Tensor::from(dk, {1, prompt, 2, 12}), tolerance, tolerance));
      CHECK(close(packed.dv.slice(1, first, first + prompt), Tensor::from(dv, {1, prompt, 2, 12}), tolerance, tolerance));
    }
    // Only branch 3 of the first prompt is asked: nothing reaches the other branches or the other prompt.
    const int64_t begin = prompt + 2 * each, end = begin + each;
    Tensor dy = Tensor::zeros(c.dy.shape(), t);
    fill(dy.slice(1, begin, end).out(), 1);
    const Result one = run(c.q, c.k, c.v, dy, m, 0.3, cap);
    for (const Tensor& g : {one.dk, one.dv}) {
      CHECK(all_zero(g.slice(1, prompt, begin)));
      CHECK(all_zero(g.slice(1, end, T)));
      CHECK_FALSE(all_zero(g.slice(1, prompt - 1, prompt)));
    }
  }
}

TEST_CASE("attention: branches in any order, with gaps, or without keys of their own see what they should") {
  const auto check = [](const std::vector<std::array<int32_t, 3>>& parts, std::vector<int32_t> asking) {  // segment, first position, tokens
    std::vector<int32_t> p, s;
    for (const auto& [segment, first, n] : parts)
      for (int32_t i = 0; i < n; ++i) p.push_back(first + i), s.push_back(segment);
    const auto S = static_cast<int64_t>(p.size()), T = asking.empty() ? S : static_cast<int64_t>(asking.size());
    const Case c(59, 1, T, S, 2, 1, 6, DType::f64);
    AttentionMask m;
    m.k_positions = ints(p, {1, S});
    m.k_segments = ints(s, {1, S});
    m.q_positions = asking.empty() ? m.k_positions : Tensor::full({1, T}, 200, DType::i32);
    m.q_segments = asking.empty() ? m.k_segments : ints(asking, {1, T});
    check_close(run(c, m, 0.4), slow(c, m, 0.4), 1e-10, 1e-12);
  };
  const int32_t a = 1 << 16, b = 2 << 16;
  check({{a, 0, 20}, {a + 1, 20, 7}, {a + 2, 20, 70}, {b, 0, 75}, {b + 1, 75, 3}, {b + 2, 75, 5}}, {});
  check({{a, 0, 20}, {a + 1, 20, 7}, {b, 0, 9}, {b + 1, 9, 3}, {a + 2, 20, 5}}, {});  // back to a trunk left before
  check({{a, 0, 20}, {a + 2, 20, 7}, {a + 1, 20, 7}, {a + 2, 20, 7}}, {});
  check({{a, 0, 20}, {a + 1, 20, 7}, {a + 2, 25, 7}}, {});
  check({{a, 0, 20}, {a + 1, 20, 7}}, {a, a + 1, a + 2});
}

TEST_CASE("attention: number 0 is a document, no trunk of the documents below 65536") {
  Case c(58, 1, 6, 6, 2, 1, 8, DType::f32);
  AttentionMask m = causal(1, 6);
  m.q_segments = ints({0, 0, 7, 7, 65535, 65536}, {1, 6});
  const Result r = run(c, m, 0.3), expected = slow(c, m, 0.3);
  check_close(r, expected, 1e-5, 1e-6);
  CHECK(close(r.y.slice(1, 2, 3), c.v.slice(1, 2, 3).expand({1, 1, 2, 8}), 1e-6, 1e-6));  // alone in its document
}

TEST_CASE("attention: a row has the same bits with one query, a few or many, in a cache, a ring or a packed row") {
  MachineScope restore;
  struct Size { int64_t T, H, K, Dh, window; double cap; DType dtype; int every; };
  const int best = static_cast<int>(cpu::best_tier());
  for (int tier = 0; tier <= best; ++tier) {
    cpu::set_tier(static_cast<cpu::Tier>(tier));
    for (const Size& s : {Size{130, 4, 1, 24, 0, 0, DType::f32, 1}, {600, 6, 2, 17, 100, 0, DType::f32, 0}, {70, 8, 1, 40, 7, 0, DType::bf16, 1},
                          {1100, 3, 1, 5, 0, 0, DType::f32, 0}, {140, 2, 2, 9, 30, 3, DType::f64, 1}, {520, 1, 1, 7, 0, 0, DType::f64, 0}}) {
      if (tier != best && !s.every) continue;
      INFO("tier " << tier << " T " << s.T << " H " << s.H << " Dh " << s.Dh);
      const int64_t T = s.T;
      const Case c(73, 2, T, T, s.H, s.K, s.Dh, s.dtype);
      const Tensor whole = attention(c.q, c.k, c.v, causal(2, T, s.window), 0.2, s.cap);
      // Keys [keep, end) in slots of their own choice; slot[i]: the position in slot i, -1: nobody's.
      const auto check = [&](int64_t begin, int64_t end, const std::vector<int32_t>& slot, bool document) {
        const auto S = static_cast<int64_t>(slot.size());
        const auto lay_out = [&](const Tensor& x) {
          const Tensor y = Tensor::zeros({2, S, x.dim(2), x.dim(3)}, x.dtype());
          for (int64_t i = 0; i < S; ++i)
            if (const int64_t p = slot[static_cast<size_t>(i)]; p >= 0) copy(x.slice(1, p, p + 1).view(), y.slice(1, i, i + 1).out());
          return y;
        };
        std::vector<int32_t> k_positions, k_segments;
        for (int64_t i = 0; i < 2 * S; ++i) {
          const int32_t p = slot[static_cast<size_t>(i % S)];
          k_positions.push_back(p >= 0 ? p : document ? static_cast<int32_t>(i % S) : -1);  // others' keys, or empty
          k_segments.push_back(p >= 0 ? 5 : 4);
        }
        AttentionMask m;
        m.window = s.window;
        m.q_positions = counting(2, end - begin, static_cast<int>(begin));
        m.k_positions = ints(k_positions, {2, S});
        if (document) m.q_segments = Tensor::full({2, end - begin}, 5, DType::i32), m.k_segments = ints(k_segments, {2, S});
        const Tensor y = attention(c.q.slice(1, begin, end), lay_out(c.k), lay_out(c.v), m, 0.2, s.cap);
        return bitwise_equal(y, whole.slice(1, begin, end).clone());
      };
      for (int64_t n : {1, 3, 40})
        for (int64_t begin : {int64_t{0}, T / 3, T - n}) {
          INFO("queries " << begin << " .. " << begin + n);
          std::vector<int32_t> slots(static_cast<size_t>(T + 90), -1);  // a cache with empty slots behind, one with padding before
          for (int64_t p = 0; p < begin + n; ++p) slots[static_cast<size_t>(p)] = static_cast<int32_t>(p);
          CHECK(check(begin, begin + n, slots, false));
          std::rotate(slots.begin(), slots.end() - 11, slots.end());
          CHECK(check(begin, begin + n, slots, false));
          CHECK(check(begin, begin + n, slots, true));  // between documents
          const int64_t ring = std::min(s.window > 0 ? s.window + n - 1 : begin + n, begin + n);
          slots.assign(static_cast<size_t>(ring), -1);
          for (int64_t p = begin + n - ring; p < begin + n; ++p) slots[static_cast<size_t>(p % ring)] = static_cast<int32_t>(p);
          CHECK(check(begin, begin + n, slots, false));
        }
    }
  }
}

TEST_CASE("attention: a row does not depend on its company") {
  const int64_t T = 150;
  const Case c(71, 1, T, T, 4, 1, 24, DType::f32);
  const AttentionMask m = causal(1, T);
  const Tensor whole = attention(c.q, c.k, c.v, m, 0.2);
  for (int64_t begin : {0, 37, 64, 100}) {
    AttentionMask part;
    part.k_positions = m.q_positions;
    part.q_positions = m.q_positions.slice(1, begin, begin + 33);
    const Tensor y = attention(c.q.slice(1, begin, begin + 33), c.k, c.v, part, 0.2);
    CHECK(bitwise_equal(y, whole.slice(1, begin, begin + 33).clone()));
  }
  for (int64_t t : {0, 5, 63, 64, 149}) {  // one query at a time, as in decoding
    AttentionMask one;
    one.k_positions = m.q_positions;
    one.q_positions = m.q_positions.slice(1, t, t + 1);
    const Tensor y = attention(c.q.slice(1, t, t + 1), c.k, c.v, one, 0.2);
    CHECK(bitwise_equal(y, whole.slice(1, t, t + 1).clone()));
  }
}

TEST_CASE("attention: q, k and v may be windows on one tensor") {
  const int64_t B = 2, T = 23, H = 4, K = 2, D = 6;
  Random r(81);
  const Tensor fused = r.normal({B, T, H + 2 * K, D}).to(DType::f32);
  const Tensor q = fused.slice(2, 0, H), k = fused.slice(2, H, H + K), v = fused.slice(2, H + K, H + 2 * K);
  const Tensor dy = r.normal({B, T, H, D}).to(DType::f32);
  const AttentionMask m = causal(B, T, 9);
  check_same(run(q, k, v, dy, m, 0.4), run(q.clone(), k.clone(), v.clone(), dy, m, 0.4));
  const Tensor cache = r.normal({B, K, 40, D}).to(DType::f32);  // heads before slots
  const Tensor kc = cache.permute({0, 2, 1, 3}).slice(1, 0, T);
  check_same(run(q, kc, kc, dy, m, 0.4), run(q.clone(), kc.clone(), kc.clone(), dy, m, 0.4));
  const Tensor x = leaf(r.normal({B, T, H, D}).to(DType::f64));  // one tensor three times: its gradients add up
  Case c(82, B, T, T, H, H, D);
  const Tensor y = attention(x, x, x, m, 0.4);
  backward(y, c.dy);
  SlowAttentionGrad g;
  slow_attention(x, x, x, m, 0.4, 0, c.dy, &g);
  std::vector<double> sum = g.dq.to_vector(), dk = g.dk.to_vector(), dv = g.dv.to_vector();
  for (size_t i = 0; i < sum.size(); ++i) sum[i] += dk[i] + dv[i];
  CHECK(close(grad_of(x), Tensor::from(sum, x.shape()), 1e-9, 1e-11));
}

TEST_CASE("attention: same bits on any number of threads when work is split every way") {
  MachineScope restore;
  struct Size { int64_t B, T, S, H, K, D; };
  for (const Size& s : {Size{3, 200, 200, 4, 2, 24}, Size{1, 520, 520, 4, 1, 32}, Size{2, 1, 3000, 4, 2, 40}}) {
    Case c(91, s.B, s.T, s.S, s.H, s.K, s.D, DType::f32);
    AttentionMask m;
    m.q_positions = counting(s.B, s.T, static_cast<int>(s.S - s.T));
    m.k_positions = counting(s.B, s.S);
    set_threads(1);
    const Result one = run(c, m, 0.2);
    for (int n : {2, 4, 8}) {
      set_threads(n);
      check_same(run(c, m, 0.2), one);
    }
  }
}

TEST_CASE("attention: large and lopsided scores stay finite") {
  Case c(95, 1, 40, 40, 2, 1, 16, DType::f32);
  for (double scale : {0.0, 1e-20, 30.0, 1e4}) {
    const Result r = run(c, causal(1, 40), scale);
    for (const Tensor& g : {r.y, r.dq, r.dk, r.dv})
      for (double x : g.to_vector()) REQUIRE(std::isfinite(x));
    CHECK(close(r.y, slow(c, causal(1, 40), scale).y, 1e-2, 1e-3));
  }
}

TEST_CASE("attention: memory grows with T, not with T x T") {
  const auto peak = [](int64_t T) {
    Case c(97, 1, T, T, 2, 1, 8, DType::f32);
    AttentionMask m = causal(1, T, 64);
    const size_t before = pool_stats().live_bytes;
    pool_reset_peak();
    run(c, m, 0.3);
    return static_cast<double>(pool_stats().peak_bytes - before);
  };
  peak(2048);
  const double small = peak(2048), large = peak(8192);
  CHECK(large <= 4.2 * small);
  CHECK(large < 8192.0 * 8192 * 4 / 8);
}

TEST_CASE("attention: wrong calls are refused with names and shapes") {
  Case c(99, 2, 4, 4, 4, 2, 6, DType::f32);
  const AttentionMask m = causal(2, 4);
  const auto refused = [&](const Tensor& q, const Tensor& k, const Tensor& v, const AttentionMask& mask, const std::string& text,
                           double cap = 0) {
    CHECK_THROWS_WITH(attention(q, k, v, mask, 1, cap), Catch::Contains("attention: ") && Catch::Contains(text));
  };
  refused(c.q, c.k, {}, m, "v is absent");
  refused(c.q.reshape({2, 4, 24}), c.k, c.v, m, "[2, 4, 24]");
  refused(c.q, c.k, c.v.slice(1, 0, 3), m, "v [2, 3, 2, 6]");
  refused(c.q.slice(0, 0, 1), c.k, c.v, m, "batch");
  refused(c.q.slice(2, 0, 3), c.k, c.v, m, "3 query heads");
  refused(c.q.to(DType::f64), c.k, c.v, m, "f64, f32, f32");
  refused(c.q.transpose(2, 3).clone().transpose(2, 3), c.k, c.v, m, "dense along its last dimension");
  refused(c.q, c.k, c.v, {}, "q_positions");
  refused(c.q, c.k, c.v, causal(2, 3), "i32[2, 4]");
  AttentionMask wrong = m;
  wrong.k_positions = Tensor::zeros({2, 4});
  refused(c.q, c.k, c.v, wrong, "f32[2, 4]");
  wrong = m;
  wrong.k_segments = counting(2, 4);
  refused(c.q, c.k, c.v, wrong, "no q_segments");
  refused(c.q.slice(1, 0, 1), c.k, c.v, causal(2, 1), "k_positions may only be left out");
  wrong = m;
  wrong.window = -1;
  refused(c.q, c.k, c.v, wrong, "window -1");
  refused(c.q, c.k, c.v, m, "cap -2", -2);
}

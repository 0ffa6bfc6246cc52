#include <cmath>
#include <iterator>

#include "autograd/ops.h"
#include "tests/contracts/ops/list.h"
#include "tests/support/composite_attention.h"

namespace facet::test {
namespace {

Tensor ints(const std::vector<int32_t>& values, const Shape& shape) { return Tensor::from(values, shape); }
/// 0, 1, .. in every row, from `start`.
Tensor counting(int64_t B, int64_t T, int start = 0) {
  std::vector<int32_t> p;
  for (int64_t b = 0; b < B; ++b)
    for (int64_t t = 0; t < T; ++t) p.push_back(static_cast<int32_t>(start + t));
  return ints(p, {B, T});
}

// The twin on the tape, so that contracts compare gradients with it.
struct SlowGrad {
  Tensor q, k, v;
  AttentionMask mask;
  double scale, cap;
  void operator()(Grads dy, Sinks dx) {
    SlowAttentionGrad g;
    slow_attention(q, k, v, mask, scale, cap, dy[0], &g);
    dx[0].pass(g.dq);
    dx[1].pass(g.dk);
    dx[2].pass(g.dv);
  }
};
Tensor twin(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionMask& m, double scale, double cap) {
  Tensor y = slow_attention(q, k, v, m, scale, cap).y;
  if (tracing(q, k, v)) attach("twin", {&y}, {&q, &k, &v}, SlowGrad{q.detach(), k.detach(), v.detach(), m, scale, cap});
  return y;
}

// A mask as contract inputs: q and k positions, q and k segments, {window, causal, cap in tenths, segments used}.
AttentionMask mask_of(const Tensors& x) {
  AttentionMask m;
  m.q_positions = x[3];
  m.k_positions = x[4];
  if (x[7].at({3}) != 0) {
    m.q_segments = x[5];
    m.k_segments = x[6];
  }
  m.window = static_cast<int64_t>(x[7].at({0}));
  m.causal = x[7].at({1}) != 0;
  return m;
}
double cap_of(const Tensors& x) { return x[7].at({2}) / 10; }

// q, k and v as parts of one row, as a joined projection makes them: their gradients go straight into the row's.
Contract attention_of_parts() {
  struct Sample { int64_t B, T; int32_t H, K, D, window; };
  static const Sample samples[] = {{1, 2, 1, 1, 1, 0}, {2, 5, 4, 1, 3, 0}, {1, 7, 4, 4, 14, 3}, {2, 13, 4, 1, 24, 5}, {1, 17, 3, 3, 7, 0}, {1, 140, 2, 1, 6, 0}, {1, 9, 8, 2, 33, 0}, {2, 67, 2, 1, 64, 20}};
  Contract c;
  c.name = "attention: parts of a row";
  c.kind = Arithmetic::attention;
  c.samples = static_cast<int>(std::size(samples));
  c.inputs = [](Random& r, int i) -> Tensors {
    const Sample& s = samples[i];
    return {r.normal({s.B, s.T, (s.H + 2 * s.K) * s.D}), counting(s.B, s.T), ints({s.H, s.K, s.D, s.window}, {4})};
  };
  const auto of_parts = [](const auto& f) {
    return [f](const Tensors& x) {
      const int64_t B = x[0].dim(0), T = x[0].dim(1);
      const auto setting = [&](int64_t i) { return static_cast<int64_t>(x[2].at({i})); };
      const int64_t H = setting(0), K = setting(1), D = setting(2);
      const auto part = split(x[0], {H * D, K * D, K * D}, -1);
      AttentionMask m;
      m.q_positions = x[1];
      m.window = setting(3);
      return f(reshape(part[0], {B, T, H, D}), reshape(part[1], {B, T, K, D}), reshape(part[2], {B, T, K, D}), m, 1 / std::sqrt(static_cast<double>(D)), 0.0);
    };
  };
  c.fused = of_parts([](const auto&... x) { return attention(x...); });
  c.composite = of_parts([](const auto&... x) { return twin(x...); });
  c.host = {2};
  return c;
}

}  // namespace

Contracts attention_contracts() {
  struct Sample { int64_t B, T, S, H, K, D; int32_t window, causal, cap, segments; };
  static const Sample samples[] = {
      {1, 2, 2, 1, 1, 1, 0, 1, 0, 0},    {2, 5, 5, 4, 1, 3, 0, 1, 0, 0},    {1, 7, 7, 4, 4, 14, 3, 1, 0, 0},   {2, 6, 9, 6, 3, 12, 0, 0, 0, 0},
      {1, 3, 11, 4, 2, 16, 4, 1, 15, 0}, {2, 8, 8, 2, 1, 17, 0, 1, 20, 1},  {1, 13, 13, 4, 1, 24, 5, 1, 0, 1},  {1, 2, 70, 2, 2, 31, 0, 1, 0, 0},
      {1, 67, 67, 1, 1, 5, 20, 1, 0, 0}, {1, 9, 9, 8, 2, 33, 0, 0, 10, 1},  {1, 4, 4, 2, 1, 257, 2, 1, 0, 0},   {2, 17, 17, 3, 3, 7, 0, 1, 30, 0},
      {1, 1, 40, 4, 1, 24, 8, 1, 0, 0},  {1, 140, 140, 2, 1, 6, 0, 1, 0, 0},
      {1, 15, 15, 4, 1, 24, 0, 1, 0, 2},  {2, 90, 90, 2, 1, 10, 30, 1, 20, 2}, {1, 3, 90, 2, 1, 18, 0, 1, 0, 2}};
  Contract c;
  c.name = "attention";
  c.kind = Arithmetic::attention;
  c.samples = static_cast<int>(std::size(samples));
  c.inputs = [](Random& r, int i) -> Tensors {
    const Sample& s = samples[i];
    std::vector<int32_t> qs, ks;
    for (int64_t b = 0; b < s.B; ++b) {
      const auto number = [&](int64_t part) {  // three documents, or a trunk and its branches 1 and 2
        return static_cast<int32_t>(part + (s.segments == 2 ? 65536 * (1 + b) : 0));
      };
      for (int64_t t = 0; t < s.T; ++t) qs.push_back(number(t * 3 / s.T));
      for (int64_t t = 0; t < s.S; ++t) ks.push_back(number(t * 3 / s.S));
    }
    return {r.normal({s.B, s.T, s.H, s.D}),
            r.normal({s.B, s.S, s.K, s.D}),
            r.normal({s.B, s.S, s.K, s.D}),
            counting(s.B, s.T, static_cast<int>(s.S - s.T)),
            counting(s.B, s.S),
            ints(qs, {s.B, s.T}),
            ints(ks, {s.B, s.S}),
            ints({s.window, s.causal, s.cap, s.segments}, {4})};
  };
  c.fused = [](const Tensors& x) { return attention(x[0], x[1], x[2], mask_of(x), 1 / std::sqrt(x[0].dim(3)), cap_of(x)); };
  c.composite = [](const Tensors& x) { return twin(x[0], x[1], x[2], mask_of(x), 1 / std::sqrt(x[0].dim(3)), cap_of(x)); };
  c.host = {7};
  return {c, attention_of_parts()};
}

}  // namespace facet::test

// The slow twin of attention: plain loops in double that build all T x S probabilities.
#pragma once
#include <cmath>
#include <vector>

#include "autograd/ops.h"

namespace facet::test {

struct SlowAttention {
  Tensor y;      ///< f64 [B, T, H, Dh]
  Tensor probs;  ///< f64 [B, H, T, S]
};
struct SlowAttentionGrad {
  Tensor dq, dk, dv;  ///< f64, shapes of q, k, v
};

/// visible[(b * T + i) * S + j], straight from the rule.
inline std::vector<bool> visibility(const AttentionMask& mask, int64_t B, int64_t T, int64_t S) {
  const auto or_else = [](const Tensor& a, const Tensor& b) { return a ? a.to_vector() : b ? b.to_vector() : std::vector<double>(); };
  const std::vector<double> qp = mask.q_positions.to_vector(), kp = or_else(mask.k_positions, mask.q_positions);
  const std::vector<double> qs = or_else(mask.q_segments, {}), ks = or_else(mask.k_segments, mask.q_segments);
  std::vector<bool> visible;
  const auto see = [](double query, double key) {  // a branch, trunk * 65536 + n, sees its trunk too
    return query == key || (query >= 65536 && key == std::floor(query / 65536) * 65536);
  };
  for (int64_t b = 0; b < B; ++b)
    for (int64_t i = b * T; i < (b + 1) * T; ++i)
      for (int64_t j = b * S; j < (b + 1) * S; ++j)
        visible.push_back(qp[i] >= 0 && kp[j] >= 0 && (!mask.causal || kp[j] <= qp[i]) &&
                          (mask.window == 0 || qp[i] - kp[j] < static_cast<double>(mask.window)) && (qs.empty() || see(qs[i], ks[j])));
  return visible;
}

/// With dy (f64-convertible, shape of q) also fills *grad.
inline SlowAttention slow_attention(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionMask& mask, double scale,
                                    double cap = 0, const Tensor& dy = {}, SlowAttentionGrad* grad = nullptr) {
  const int64_t B = q.dim(0), T = q.dim(1), H = q.dim(2), D = q.dim(3), S = k.dim(1), K = k.dim(2), G = H / K;
  const std::vector<double> qs = q.to_vector(), ks = k.to_vector(), vs = v.to_vector();
  const std::vector<double> dys = grad ? dy.to_vector() : std::vector<double>();
  const std::vector<bool> visible = visibility(mask, B, T, S);
  std::vector<double> y(qs.size()), probs(B * H * T * S), dq(qs.size()), dk(ks.size()), dv(ks.size());
  for (int64_t b = 0; b < B; ++b)
    for (int64_t h = 0; h < H; ++h)
      for (int64_t i = 0; i < T; ++i) {
        const int64_t qi = ((b * T + i) * H + h) * D;
        double* p = &probs[((b * H + h) * T + i) * S];
        std::vector<double> slope(S, 1.0), dp(S);
        double top = -INFINITY, sum = 0;
        for (int64_t j = 0; j < S; ++j) {
          const int64_t kj = ((b * S + j) * K + h / G) * D;
          double s = 0;
          for (int64_t d = 0; d < D; ++d) s += qs[qi + d] * ks[kj + d];
          s *= scale;
          if (cap > 0) {
            const double t = std::tanh(s / cap);
            s = cap * t;
            slope[j] = 1 - t * t;
          }
          p[j] = visible[(b * T + i) * S + j] ? s : -INFINITY;
          top = std::max(top, p[j]);
        }
        for (int64_t j = 0; j < S; ++j) sum += p[j] = p[j] == -INFINITY ? 0 : std::exp(p[j] - top);
        double delta = 0;
        for (int64_t j = 0; j < S; ++j) {
          if (sum > 0) p[j] /= sum;
          const int64_t vj = ((b * S + j) * K + h / G) * D;
          for (int64_t d = 0; d < D; ++d) y[qi + d] += p[j] * vs[vj + d];
          if (!grad) continue;
          for (int64_t d = 0; d < D; ++d) {
            dp[j] += dys[qi + d] * vs[vj + d];
            dv[vj + d] += p[j] * dys[qi + d];
          }
          delta += p[j] * dp[j];
        }
        if (!grad) continue;
        for (int64_t j = 0; j < S; ++j) {
          const int64_t kj = ((b * S + j) * K + h / G) * D;
          const double ds = p[j] * (dp[j] - delta) * slope[j] * scale;
          for (int64_t d = 0; d < D; ++d) {
            dq[qi + d] += ds * ks[kj + d];
            dk[kj + d] += ds * qs[qi + d];
          }
        }
      }
  if (grad) *grad = {Tensor::from(dq, q.shape()), Tensor::from(dk, k.shape()), Tensor::from(dv, k.shape())};
  return {Tensor::from(y, q.shape()), Tensor::from(probs, {B, H, T, S})};
}

}  // namespace facet::test

// One attention of some sizes with random operands, and the work it takes.
#pragma once
#include <algorithm>
#include <vector>

#include "bench/support/race.h"
#include "tensor/kernels/attention.h"

namespace facet::bench {

struct AttentionSizes {
  const char* name;
  int64_t B, T, S, H, K, Dh, window;
  DType dtype = DType::f32;
  int64_t trunk = 0, branch = 0;  ///< tokens of a prompt and of each of its completions, in one row; 0: a plain sequence
};

struct AttentionCase {
  Tensor q, k, v, dy, y, lse, dq, dk, dv, q_positions, k_positions, segments;
  AttentionInputs x;
  double pairs = 0;

  explicit AttentionCase(const AttentionSizes& p)
      : q(noise({p.B, p.T, p.H, p.Dh}, p.dtype)), k(noise({p.B, p.S, p.K, p.Dh}, p.dtype)), v(noise({p.B, p.S, p.K, p.Dh}, p.dtype)),
        dy(noise(q.shape(), p.dtype)), y(Tensor::empty(q.shape(), p.dtype)), lse(Tensor::empty({p.B, p.H, p.T})),
        dq(Tensor::empty(q.shape(), p.dtype)), dk(Tensor::empty(k.shape(), p.dtype)), dv(Tensor::empty(k.shape(), p.dtype)) {
    std::vector<int32_t> qp, kp, number;
    for (int64_t b = 0; b < p.B; ++b) {
      for (int64_t t = 0; t < p.T; ++t) {
        const bool branches = p.trunk > 0 && t >= p.trunk;
        qp.push_back(static_cast<int32_t>(branches ? p.trunk + (t - p.trunk) % p.branch : p.S - p.T + t));
        number.push_back(static_cast<int32_t>(65536 + (branches ? 1 + (t - p.trunk) / p.branch : 0)));
        const int64_t sees = qp.back() + 1;
        pairs += static_cast<double>(p.H) * static_cast<double>(p.window ? std::min(p.window, sees) : sees);
      }
      for (int64_t s = 0; s < p.S; ++s) kp.push_back(p.trunk > 0 ? qp[static_cast<size_t>(b * p.T + s)] : static_cast<int32_t>(s));
    }
    q_positions = Tensor::from(qp, {p.B, p.T});
    k_positions = Tensor::from(kp, {p.B, p.S});
    x.q = q.view(), x.k = k.view(), x.v = v.view();
    x.q_positions = q_positions.view(), x.k_positions = k_positions.view();
    if (p.trunk > 0) {
      segments = Tensor::from(number, {p.B, p.T});
      x.q_segments = x.k_segments = segments.view();
    }
    x.window = p.window;
    x.scale = 1 / 16.0;
  }
  void forward() { attention_forward(x, y.out(), lse.out()); }
  void backward() { attention_backward(x, y.view(), lse.view(), dy.view(), dq.out(), dk.out(), dv.out()); }
};

}  // namespace facet::bench

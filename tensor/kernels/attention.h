// attention: y = softmax(cap(scale q k^T) + mask) v, one block of queries against one block of keys at a time (FlashAttention-2,
// Dao 2023, arXiv 2307.08691). Nothing of size T x S is ever held: memory is linear in T and S.
//
//   s[i,j] = scale <q[i], k[j]>                         c[i,j] = cap tanh(s[i,j] / cap), or s[i,j] without a cap
//   p[i,j] = visible(i,j) ? exp(c[i,j] - lse[i]) : 0    lse[i] = log sum_{visible j} exp(c[i,j])
//   y[i]   = sum_j p[i,j] v[j]
//
// Forward, online: with m the largest c seen so far, l = sum exp(c - m) and o = sum exp(c - m) v, a new block of keys gives
//   m' = max(m, max_j c_j),  a = exp(m - m'),  l = a l + sum_j exp(c_j - m'),  o = a o + sum_j exp(c_j - m') v_j
// and in the end y = o / l, lse = m + log l. A row that sees no key has l = 0: y = 0, lse = -inf, no gradient, never NaN.
//
// Backward, p recomputed from lse:
//   delta[i] = <dy[i], y[i]>                            (= sum_j p[i,j] dp[i,j])
//   dp[i,j]  = <dy[i], v[j]>                            dv[j] += p[i,j] dy[i]
//   ds[i,j]  = p (dp - delta[i]) (1 - (c / cap)^2)      dq[i] += scale ds k[j],   dk[j] += scale ds q[i]
//
// Who sees whom is a matter of positions and segments, never of slot order:
//   visible(i,j) = k_position[j] >= 0  and  k_position[j] <= q_position[i] (causal)  and  q_position[i] - k_position[j] < window
//                  (window > 0)  and  k_segment[j] == q_segment[i] (if given)  and  q_position[i] >= 0.
// For each query that is an interval of key positions, lo <= k_position <= hi. Blocks of keys whose smallest and largest position
// (and segment) exclude every query of the block cost nothing; blocks visible as a whole are not tested element by element.
//
// Shapes: q, y, dy, dq [B, T, H, Dh]; k, v, dk, dv [B, S, K, Dh]; lse [B, H, T]; query head h reads head h / (H/K), and the H/K heads
// that share one are worked on together. Any strides as long as the last dimension of q, k, v, y, dy, dq, dk, dv is dense: the inputs
// may be windows on one fused qkv row or on a cache. Any Dh >= 1.
//
// Dtypes: q, k, v, y, dy all f32, bf16 or f64; lse f32 (f64 for f64); dq, dk, dv in that dtype or, for bf16, f32. Rounding: computes in
// f32 (f64 for f64); q is scaled and rounded once before the product; y and the gradients are rounded once when stored.
// y and lse are written ("="; a null lse is skipped); dq, dk, dv respect accumulate and may be null. No output aliases an input.
//
// Repeatable: the division into blocks, and the order in which partial sums meet, depend on the shape alone. In the forward pass a
// row of y does not even depend on the other rows: its sums run over the same blocks of keys whoever shares its block of queries
// (two ways to add within a block: up to 16 queries per key head, as in decoding, go by another loop than more do).
#pragma once
#include "tensor/cpu/tier.h"
#include "tensor/view.h"

namespace facet {

struct AttentionInputs {
  View q, k, v;
  View q_positions, k_positions;  ///< i32 [B, T], [B, S]
  View q_segments, k_segments;    ///< i32 [B, T], [B, S]; both or neither
  int64_t window = 0;             ///< 0: unlimited
  bool causal = true;
  double scale = 1;
  double cap = 0;                 ///< 0: none
};

namespace cpu {
extern const Kernel<void(const AttentionInputs& x, Out y, Out lse)> attention_forward;
extern const Kernel<void(const AttentionInputs& x, View y, View lse, View dy, Out dq, Out dk, Out dv)> attention_backward;
}  // namespace cpu
using cpu::attention_backward;
using cpu::attention_forward;

}  // namespace facet

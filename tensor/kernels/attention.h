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
//                  (window > 0)  and  the segments agree (if given)  and  q_position[i] >= 0.
// Segments agree when k_segment[j] == q_segment[i]; numbers below 65536 are documents of their own. From 65536 on a number is
// trunk << 16 | branch: a query also sees the keys of its trunk, those of branch 0 (q_segment & ~0xffff). So one row holds a prompt
// once and its completions as branches whose positions go on from it; they do not see each other, and the prompt's gradient is the
// sum over them.
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
// Repeatable: the division into blocks, and the order in which partial sums meet, depend on shapes, positions and segments alone. In
// the forward pass a row of y and its lse do not even depend on the other rows, on S, on slots or on how many queries there are
// (decoding and training run different loops): the bits follow from the query, from the visible keys and values and their positions,
// and from the tier.
//   s[i,j]  one term of Dh after the other, each fused into the sum where the tier can
//   l       within a block of 64 positions by position modulo the vector's lanes, those sums by halves; blocks one after the other
//   o       one key after the other
//   pieces of 512 positions start from nothing and join in order: m' = max, l and o of the one with the smaller m times exp(m - m').
// Blocks and pieces begin at multiples of 64 and 512 positions, wherever those lie in k, and a ring is walked from its oldest key on.
// Hidden keys, and blocks and pieces without a visible key, add exactly nothing (their k and v must be finite, as a cache's are). So
// a query has the same bits in a row of its own, in a packed row, over a cache and over a ring that has gone round, as long as the keys
// of a sequence lie in the order of their positions, without gaps. So has a branch: where it leaves its trunk within a block of 64, it
// takes the trunk's part of the block along (if q and k share their segments, segments ascend in the row, and all branches go on where
// the trunk ends; else, and from position 512 on, it equals a row of its own up to rounding). Positions in disorder cost speed, each
// break in the sequence a step, and are right up to rounding too.
//
// On the GPU: the same shapes, strides, masks, null and accumulating outputs; f32 and bf16. Scores are scaled in f32 after the product. In
// bf16 p and ds are rounded to bf16 as factors (l sums p unrounded), all sums are f32; f32 multiplies in f32, never TF32. There are no float
// atomics, so every run gives the same bits. A row of y and its lse depend on the query, its visible keys and values, their slots, Dh, the
// dtype and, up to eight queries, on T; not on the batch, on other rows, on hidden keys or on S. Slots do count here (tiles of 64 begin
// at multiples of 64, decoding's pieces of 128 likewise), so a packed row, a ring and a cache agree with a row of their own up to rounding.
// Tiles of keys that no query of a tile sees are not read; the heads that share a key head form one tile, so a window's band is narrow.
//   forward    HBM: q, y, k, v once. L2: k, v of the visible tiles per 128 rows. At T = 2048, H = 4, K = 1, Dh = 256, window 512: 10.5 MB, 3 us
//              at 3.3 TB/s, and 38 MB of L2, against 4.7 GFLOP, 16 us at 300 TFLOP/s (predicted): bound by the tensor cores.
//   backward   q, k, v, dy twice, y once, the gradients once; seven products where the textbook has five (no atomics, no T x S memory).
//   decoding   k and v once: 2 S Dh elements per key head, 1 MB and 0.3 us at S = 1024, Dh = 256, K = 1 in bf16; for up to 8 rows T H/K.
#pragma once
#include "tensor/cpu/tier.h"
#include "tensor/kernels/door.h"
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
  bool plain = false;             ///< known on the host: positions are 0, 1, 2, ... in every row, for queries and keys alike; a library may
                                  ///< then take over. Never needed for the result
};

namespace cpu {
extern const Kernel<void(const AttentionInputs& x, Out y, Out lse)> attention_forward;
extern const Kernel<void(const AttentionInputs& x, View y, View lse, View dy, Out dq, Out dk, Out dv)> attention_backward;
}  // namespace cpu
namespace gpu {
void attention_forward(const AttentionInputs& x, Out y, Out lse);
void attention_backward(const AttentionInputs& x, View y, View lse, View dy, Out dq, Out dk, Out dv);
}  // namespace gpu
FACET_INLINE void attention_forward(const AttentionInputs& x, Out y, Out lse) {
  on_gpu("attention_forward", x.q, x.k, x.v, x.q_positions, x.k_positions, x.q_segments, x.k_segments, y, lse)
      ? gpu::attention_forward(x, y, lse)
      : cpu::attention_forward(x, y, lse);
}
FACET_INLINE void attention_backward(const AttentionInputs& x, View y, View lse, View dy, Out dq, Out dk, Out dv) {
  on_gpu("attention_backward", x.q, x.k, x.v, x.q_positions, x.k_positions, x.q_segments, x.k_segments, y, lse, dy, dq, dk, dv)
      ? gpu::attention_backward(x, y, lse, dy, dq, dk, dv)
      : cpu::attention_backward(x, y, lse, dy, dq, dk, dv);
}

}  // namespace facet

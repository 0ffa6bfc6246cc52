// logit_rows: the two passes of a loss head over a block of logits, in place, and a draw from them.
//
// A loss that depends on a row of logits z only through three numbers,
//     L = f(lse, label, mean),   lse = log sum_v exp(z_v),   label = z_y,   mean = sum_v z_v / V,
// has the gradient
//     dL/dz_v = f_lse * exp(z_v - lse) + f_label * [v = y] + f_mean / V.
// Cross-entropy with label smoothing and z-loss, log-probabilities and the policy losses made of them are of this kind.
//
//   logit_stats  z [C, V]: replaces the products x by the logits z = cap * tanh(x / cap) * scale (cap 0: z = x * scale) and
//                writes stats [C, 4] = {max, sum_v exp(z_v - max), z_y, mean}; so lse = max + log(sum). mean is 0 unless asked.
//                When stats has a fifth column, it gets the entropy, -sum_v p_v log p_v = log(sum) - sum_v p_v (z_v - max) with
//                p_v = exp(z_v - lse); the other four are the same bits with and without it.
//   logit_grad   z [C, V]: replaces the logits by dL/dx from coef [C, 4] = {max, f_lse / sum, f_label, f_mean / V}, the last
//                three already times `scale`. bound = cap * scale: the soft-cap's derivative is 1 - (z / bound)^2; 0: none.
//                With a window dz of its own, the gradient goes there and z stays: of z's dtype, or bf16 under f32.
//   logit_draw   z [C, V] and stats as logit_stats leaves them, u f32 [C] in [0, 1): ids i32 [C] gets the first v with
//                exp(z_0 - max) + ... + exp(z_v - max) > u * sum; where rounding leaves none, the last v of positive weight.
//
// z f32, bf16 or f64 (on the GPU f32 or bf16), rows dense, row stride free; stats and coef of the accumulation type, rows dense; labels
// i32 [C] with 0 <= y < V. What was rounded into a bf16 z is what stats and gradient are made of. NaN in a row makes its stats NaN.
//
// CPU: sums run in blocks of 4,096 columns whose totals are added in f64; each row is computed by one thread.
// GPU: sums run in segments of 16,384 columns, maximum and sum in one pass; their totals are added in f64. A label that is out of range reads
// as NaN and gets no gradient.
#pragma once
#include "tensor/cpu/tier.h"
#include "tensor/kernels/door.h"
#include "tensor/view.h"

namespace facet {
namespace cpu {
extern const Kernel<void(Out z, View labels, double cap, double scale, bool mean, Out stats)> logit_stats;
extern const Kernel<void(Out z, View labels, View coef, double bound, Out dz)> logit_grad;
extern const Kernel<void(View z, View stats, View u, Out ids)> logit_draw;
}  // namespace cpu
namespace gpu {
void logit_stats(Out z, View labels, double cap, double scale, bool mean, Out stats);
void logit_grad(Out z, View labels, View coef, double bound, Out dz);
void logit_draw(View z, View stats, View u, Out ids);
}  // namespace gpu
FACET_INLINE void logit_stats(Out z, View labels, double cap, double scale, bool mean, Out stats) {
  on_gpu("logit_stats", z, labels, stats)
      ? gpu::logit_stats(z, labels, cap, scale, mean, stats)
      : cpu::logit_stats(z, labels, cap, scale, mean, stats);
}
FACET_INLINE void logit_grad(Out z, View labels, View coef, double bound, Out dz = {}) {
  on_gpu("logit_grad", z, labels, coef, dz) ? gpu::logit_grad(z, labels, coef, bound, dz) : cpu::logit_grad(z, labels, coef, bound, dz);
}
FACET_INLINE void logit_draw(View z, View stats, View u, Out ids) {
  on_gpu("logit_draw", z, stats, u, ids) ? gpu::logit_draw(z, stats, u, ids) : cpu::logit_draw(z, stats, u, ids);
}
}  // namespace facet

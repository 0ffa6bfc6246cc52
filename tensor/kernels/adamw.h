// adamw: Adam with decoupled weight decay (Loshchilov & Hutter, arXiv 1711.05101), one pass over a parameter.
//
//   g <- grad_scale * g
//   m <- beta1 m + (1 - beta1) g,   v <- beta2 v + (1 - beta2) g^2
//   p <- p - lr * ( m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t) + eps_root) + eps) + weight_decay * p )
//
// p f32, f64 or bf16; m and v f32 (f64 for f64); g in the dtype of m. All dense and of one size. A bf16 p needs `master`, the f32
// value that is really updated; p becomes master rounded to nearest even (updates below half an ulp of bf16 add up in master).
// Otherwise master is null. In place by nature: p, master, m and v are read and written, and none may overlap another or g.
// Rounding: f32 throughout (f64 for f64), the step's constants are computed in f64 and rounded once. 28 bytes a parameter in f32.
//
// sum_of_squares: sums[i] = sum of x^2 over the i-th block of squares_block elements of a dense x (f32 or f64); sums f64. Adding
// them up in order gives the same bits on any number of threads.
#pragma once
#include "tensor/cpu/tier.h"
#include "tensor/kernels/door.h"
#include "tensor/view.h"

namespace facet {

struct AdamwStep {
  double lr = 0, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, eps_root = 0, weight_decay = 0;
  double grad_scale = 1;
  int64_t t = 1;  ///< this update's number, from 1
};

inline constexpr int64_t squares_block = 32768;

namespace cpu {
extern const Kernel<void(Out p, Out master, View g, Out m, Out v, const AdamwStep& step)> adamw;
extern const Kernel<void(View x, Out sums)> sum_of_squares;
}  // namespace cpu
namespace gpu {
void adamw(Out p, Out master, View g, Out m, Out v, const AdamwStep& step);
void sum_of_squares(View x, Out sums);
}  // namespace gpu
FACET_INLINE void adamw(Out p, Out master, View g, Out m, Out v, const AdamwStep& step) {
  on_gpu("adamw", p, master, g, m, v) ? gpu::adamw(p, master, g, m, v, step) : cpu::adamw(p, master, g, m, v, step);
}
FACET_INLINE void sum_of_squares(View x, Out sums) {
  on_gpu_any_dtype("sum_of_squares", x, sums) ? gpu::sum_of_squares(x, sums) : cpu::sum_of_squares(x, sums);
}
}  // namespace facet

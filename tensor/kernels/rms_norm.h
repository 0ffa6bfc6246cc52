// rms_norm (Zhang and Sennrich 2019), as Gemma writes it: weights are stored around zero.
//
//   rstd[n] = 1 / sqrt(mean_d(x[n, d]^2) + eps)
//   y[n, d] (+)= x[n, d] * rstd[n] * (1 + w[d])
//
//   g[n, d]  = dy[n, d] * (1 + w[d])
//   dx[n, d] (+)= rstd[n] * (g[n, d] - x[n, d] * rstd[n]^2 * mean_d(g[n, d] * x[n, d]))
//   dw[d]    (+)= sum_n dy[n, d] * x[n, d] * rstd[n]
//
// Shapes: x, y, dy, dx [.., D]; w, dw [D]; rstd [N] with N the product of x's leading sizes.
// Dtypes: x, y, dy, dx of one dtype T (f32, bf16, f64); rstd and dw in the accumulation type of T (f32, f64); w any floating
// dtype. Everything is computed in the accumulation type, 1 + w included, and rounded once on the way out.
// Layouts: rows of x, dy and dx are contiguous, their leading strides free; rows of y contiguous and at one distance; w any stride; dw, rstd dense.
// Null rstd, dx or dw: that output is skipped. No aliasing.
// Order of sums: lanes of the tier within a row; dw in at most 64 fixed blocks of rows, added in order.
#pragma once
#include "tensor/cpu/tier.h"
#include "tensor/kernels/door.h"

namespace facet {
namespace cpu {
extern const Kernel<void(View x, View w, double eps, Out y, Out rstd)> rms_norm;
extern const Kernel<void(View dy, View x, View w, View rstd, Out dx, Out dw)> rms_norm_backward;
}  // namespace cpu
namespace gpu {
void rms_norm(View x, View w, double eps, Out y, Out rstd);
void rms_norm_backward(View dy, View x, View w, View rstd, Out dx, Out dw);
}  // namespace gpu
FACET_INLINE void rms_norm(View x, View w, double eps, Out y, Out rstd) {
  on_gpu("rms_norm", x, w, y, rstd) ? gpu::rms_norm(x, w, eps, y, rstd) : cpu::rms_norm(x, w, eps, y, rstd);
}
FACET_INLINE void rms_norm_backward(View dy, View x, View w, View rstd, Out dx, Out dw) {
  on_gpu("rms_norm_backward", dy, x, w, rstd, dx, dw)
      ? gpu::rms_norm_backward(dy, x, w, rstd, dx, dw)
      : cpu::rms_norm_backward(dy, x, w, rstd, dx, dw);
}
}  // namespace facet

// layer_norm (Ba, Kiros and Hinton 2016), as SigLIP and GPT-2 write it.
//
//   mean[n] = mean_d(x[n, d]);  rstd[n] = 1 / sqrt(mean_d((x[n, d] - mean[n])^2) + eps);  h[n, d] = (x[n, d] - mean[n]) * rstd[n]
//   y[n, d] (+)= h[n, d] * w[d] + b[d]
//
//   g[n, d]  = dy[n, d] * w[d]
//   dx[n, d] (+)= rstd[n] * (g[n, d] - mean_d(g[n, d]) - h[n, d] * mean_d(g[n, d] * h[n, d]))
//   dw[d]    (+)= sum_n dy[n, d] * h[n, d];   db[d] (+)= sum_n dy[n, d]
//
// Shapes: x, y, dy, dx [.., D]; w, b, dw, db [D]; mean, rstd [N] with N the product of x's leading sizes.
// Dtypes: x, y, dy, dx of one dtype T (f32, bf16, f64); mean, rstd, dw, db in the accumulation type of T; w, b any floating dtype.
// Everything is computed in the accumulation type and rounded once on the way out. The variance is that of the centred values.
// Layouts: rows of x and dy are contiguous, their leading strides free; w, b any stride; y, dx, dw, db, mean, rstd dense.
// Null mean, rstd, dx, dw or db: that output is skipped. No aliasing.
// Order of sums: lanes of the tier within a row; dw, db in at most 64 fixed blocks of rows, added in order.
#pragma once
#include "tensor/cpu/tier.h"
#include "tensor/kernels/door.h"

namespace facet {
namespace cpu {
extern const Kernel<void(View x, View w, View b, double eps, Out y, Out mean, Out rstd)> layer_norm;
extern const Kernel<void(View dy, View x, View w, View mean, View rstd, Out dx, Out dw, Out db)> layer_norm_backward;
}  // namespace cpu
namespace gpu {
void layer_norm(View x, View w, View b, double eps, Out y, Out mean, Out rstd);
void layer_norm_backward(View dy, View x, View w, View mean, View rstd, Out dx, Out dw, Out db);
}  // namespace gpu
FACET_INLINE void layer_norm(View x, View w, View b, double eps, Out y, Out mean, Out rstd) {
  on_gpu("layer_norm", x, w, b, y, mean, rstd)
      ? gpu::layer_norm(x, w, b, eps, y, mean, rstd)
      : cpu::layer_norm(x, w, b, eps, y, mean, rstd);
}
FACET_INLINE void layer_norm_backward(View dy, View x, View w, View mean, View rstd, Out dx, Out dw, Out db) {
  on_gpu("layer_norm_backward", dy, x, w, mean, rstd, dx, dw, db)
      ? gpu::layer_norm_backward(dy, x, w, mean, rstd, dx, dw, db)
      : cpu::layer_norm_backward(dy, x, w, mean, rstd, dx, dw, db);
}
}  // namespace facet

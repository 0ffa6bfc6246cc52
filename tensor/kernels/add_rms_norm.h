// add_rms_norm: a residual sum and the rms_norm of it, in one pass over memory; what is added may be normed first.
//
//   m = rms_norm(h, w_h, eps)       tensor/kernels/rms_norm.h, rounded to the dtype; w_h absent: m = h
//   r = x + m                       rounded
//   y = rms_norm(r, w, eps)         from the rounded r
//
// The same bits as rms_norm, add and rms_norm one after the other. Gradient: d = dr + (the dx of rms_norm_backward for r) is dx; dh is d too,
// or with w_h the dx of rms_norm_backward for h and dy = d. That kernel adds to what is there, so there is none of its own.
//
// Shapes: x, h, r, y [.., D]; w_h, w [D]; rstd_h, rstd [N], N the product of x's leading sizes. Dtypes: x, h, r, y of one dtype T (f32, bf16,
// f64), rstd_h and rstd in the accumulation type of T; w_h, w any floating dtype. Layouts: rows of x and h contiguous, leading strides free; w_h,
// w any stride; rows of y contiguous and at one distance; r, rstd_h, rstd dense. Always "=". Null rstd_h, rstd: skipped. No aliasing.
#pragma once
#include "tensor/cpu/tier.h"
#include "tensor/kernels/door.h"

namespace facet {
namespace cpu {
extern const Kernel<void(View x, View h, View w_h, View w, double eps, Out r, Out y, Out rstd_h, Out rstd)> add_rms_norm;
}  // namespace cpu
namespace gpu {
void add_rms_norm(View x, View h, View w_h, View w, double eps, Out r, Out y, Out rstd_h, Out rstd);
}  // namespace gpu
FACET_INLINE void add_rms_norm(View x, View h, View w_h, View w, double eps, Out r, Out y, Out rstd_h, Out rstd) {
  on_gpu("add_rms_norm", x, h, w_h, w, r, y, rstd_h, rstd)
      ? gpu::add_rms_norm(x, h, w_h, w, eps, r, y, rstd_h, rstd)
      : cpu::add_rms_norm(x, h, w_h, w, eps, r, y, rstd_h, rstd);
}
}  // namespace facet

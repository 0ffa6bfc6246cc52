// add_rms_norm: a residual sum and the rms_norm of it, in one pass over memory.
//
//   r = x + h                       rounded to its dtype
//   y = rms_norm(r, w, eps)         tensor/kernels/rms_norm.h, from the rounded r
//
// The same bits as add followed by rms_norm. Gradient: d = dr + (the dx of rms_norm_backward for r), which is dx and dh alike; that kernel
// adds it to dr, so there is none of its own.
//
// Shapes: x, h, r, y [.., D]; w [D]; rstd [N], N the product of x's leading sizes. Dtypes: x, h, r, y of one dtype T (f32, bf16, f64), rstd in
// the accumulation type of T; w any floating dtype. Layouts: rows of x and h contiguous, leading strides free; w any stride; r, y, rstd
// dense. Always "=". Null rstd: skipped. No aliasing.
#pragma once
#include "tensor/cpu/tier.h"
#include "tensor/kernels/door.h"

namespace facet {
namespace cpu {
extern const Kernel<void(View x, View h, View w, double eps, Out r, Out y, Out rstd)> add_rms_norm;
}  // namespace cpu
namespace gpu {
void add_rms_norm(View x, View h, View w, double eps, Out r, Out y, Out rstd);
}  // namespace gpu
FACET_INLINE void add_rms_norm(View x, View h, View w, double eps, Out r, Out y, Out rstd) {
  on_gpu("add_rms_norm", x, h, w, r, y, rstd) ? gpu::add_rms_norm(x, h, w, eps, r, y, rstd) : cpu::add_rms_norm(x, h, w, eps, r, y, rstd);
}
}  // namespace facet

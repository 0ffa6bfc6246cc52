// adapter_gradients: what the second matrix of a low-rank adapter makes of a gradient, both products over dy at once.
//
//   y += t B^T                        t = scale * x A^T, r columns; B [O, r]
//   dt   = scale * dy B               the gradient of x A^T
//   dB (+)= dy^T t
//
// Shapes: dy [N, O], b [O, r], t [N, r], dt [N, r], db [O, r]; null dt or db are skipped (their other factor, b or t, may be null then).
// Dtypes: dy, t and dt of one dtype T (f32, bf16, f64), b too, or bf16 under f32; db f32, of f64 f64.
// Rounding: sums in f32 (f64), one rounding of each result; dt is multiplied by scale before it.
// Layouts: any strides. dt may lie in the same buffer as dy, between its rows, but shares no element with it; db aliases nothing.
// dt is always "=", db "=" or "+=".
//
// On the GPU one pass over dy for bf16 with rows on multiples of 16 bytes and up to 32 columns of t, where that moves fewer bytes than reading
// dy twice (tensor/gpu/adapter_gradients.cu), else two products (gemm.h). Which, and the order of sums in the pass, are decided by shapes,
// strides, dtypes and alignment: the same call gives the same bits in every run. In the pass a row's bits depend on the number of rows.
#pragma once
#include "tensor/kernels/door.h"
#include "tensor/view.h"

namespace facet {
namespace cpu {
void adapter_gradients(View dy, View b, View t, double scale, Out dt, Out db);
}  // namespace cpu
namespace gpu {
void adapter_gradients(View dy, View b, View t, double scale, Out dt, Out db);
}  // namespace gpu
FACET_INLINE void adapter_gradients(View dy, View b, View t, double scale, Out dt, Out db) {
  on_gpu("adapter_gradients", dy, b, t, dt, db) ? gpu::adapter_gradients(dy, b, t, scale, dt, db) : cpu::adapter_gradients(dy, b, t, scale, dt, db);
}
}  // namespace facet

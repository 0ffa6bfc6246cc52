// linear_geglu: the two products of a gated feed-forward block and what is made of them.
//
//   y = geglu(x w_gate^T, x w_up^T)         tensor/kernels/gemm.h, tensor/kernels/geglu.h
//
// The same bits as linear followed by geglu: the products are rounded to T before. No gradient: it serves passes that record none.
//
// Shapes: x [N, I], w_gate and w_up [F, I], y [N, F]. Dtypes: x and y of one dtype T (f32, bf16, f64), the weights too, or bf16 under f32.
// Layouts: x, weights any strides; y dense. Always "=". No aliasing. On the GPU up to 16 rows against dense bf16 weights are one kernel,
// anything else the products and geglu.
#pragma once
#include "tensor/kernels/door.h"
#include "tensor/view.h"

namespace facet {
namespace cpu {
void linear_geglu(View x, View w_gate, View w_up, Out y);
}  // namespace cpu
namespace gpu {
void linear_geglu(View x, View w_gate, View w_up, Out y);
}  // namespace gpu
FACET_INLINE void linear_geglu(View x, View w_gate, View w_up, Out y) {
  on_gpu("linear_geglu", x, w_gate, w_up, y) ? gpu::linear_geglu(x, w_gate, w_up, y) : cpu::linear_geglu(x, w_gate, w_up, y);
}
}  // namespace facet

// geglu (Shazeer 2020) with the tanh form of GELU:
//
//   y (+)= gelu_tanh(gate) * up,  gelu_tanh(g) = 0.5 g (1 + tanh(sqrt(2/pi) (g + 0.044715 g^3)))
//
//   dgate (+)= dy * up * gelu_tanh'(gate);  dup (+)= dy * gelu_tanh(gate)      one pass, recomputed from gate and up
//
// Shapes: all [.., F]. Dtypes: all of one dtype (f32, bf16, f64), computed in the accumulation type, rounded once.
// Layouts: rows contiguous, leading strides free (halves of one fused projection and of its gradient need no copy, and there may be room behind
// the rows of y). Null dgate or dup: skipped. No aliasing.
#pragma once
#include "tensor/cpu/tier.h"
#include "tensor/kernels/door.h"

namespace facet {
namespace cpu {
extern const Kernel<void(View gate, View up, Out y)> geglu;
extern const Kernel<void(View dy, View gate, View up, Out dgate, Out dup)> geglu_backward;
}  // namespace cpu
namespace gpu {
void geglu(View gate, View up, Out y);
void geglu_backward(View dy, View gate, View up, Out dgate, Out dup);
}  // namespace gpu
FACET_INLINE void geglu(View gate, View up, Out y) {
  on_gpu("geglu", gate, up, y) ? gpu::geglu(gate, up, y) : cpu::geglu(gate, up, y);
}
FACET_INLINE void geglu_backward(View dy, View gate, View up, Out dgate, Out dup) {
  on_gpu("geglu_backward", dy, gate, up, dgate, dup)
      ? gpu::geglu_backward(dy, gate, up, dgate, dup)
      : cpu::geglu_backward(dy, gate, up, dgate, dup);
}
}  // namespace facet

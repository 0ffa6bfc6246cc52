// copy: y (+)= x, converting dtypes, any strides; x broadcasts to y by stride 0. fill: y = value.
// Rounding: f32 -> bf16 to nearest even; anything -> i32 truncates. x may alias y only when they are the same window.
#pragma once
#include "tensor/kernels/door.h"
#include "tensor/view.h"

namespace facet {
namespace cpu {
void copy(View x, Out y);
void fill(Out y, double value);
}  // namespace cpu
namespace gpu {
void copy(View x, Out y);
void fill(Out y, double value);
}  // namespace gpu
FACET_INLINE void copy(View x, Out y) {
  on_gpu_any_dtype("copy", x, y) ? gpu::copy(x, y) : cpu::copy(x, y);
}
FACET_INLINE void fill(Out y, double value) {
  on_gpu_any_dtype("fill", y) ? gpu::fill(y, value) : cpu::fill(y, value);
}
}  // namespace facet

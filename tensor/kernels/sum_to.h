// sum_to: y (+)= x summed over the dimensions in which y has size 1 or is missing (aligned at the last dimension): the gradient
// of broadcasting, and what sum and mean are made of. f32, bf16 or f64 in x; y any of them. Any strides.
//
// Sums are kept in the accumulation type and rounded once into y. Long sums are cut into strips that depend on shape and strides
// alone; partial sums are combined in order: the same bits on any number of threads. Error about sqrt(n / 1000) units.
// y may not alias x.
#pragma once
#include "tensor/kernels/door.h"
#include "tensor/view.h"

namespace facet {
namespace cpu {
void sum_to(View x, Out y);
}  // namespace cpu
namespace gpu {
void sum_to(View x, Out y);
}  // namespace gpu
FACET_INLINE void sum_to(View x, Out y) {
  on_gpu_any_dtype("sum_to", x, y) ? gpu::sum_to(x, y) : cpu::sum_to(x, y);
}
}  // namespace facet

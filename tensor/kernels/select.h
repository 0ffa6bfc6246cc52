// Extremes and running sums along the last dimension; any strides; f32, bf16, f64.
//
//   max        y [.., 1] = max_j x_j; NaN if there is one
//   max_grad   dx_j (+)= dy / (number of maxima) where x_j = y, else 0
//   argmax     y [.., 1] i32: the first maximum; the first NaN if there is one
//   top_k      values [.., k], indices i32 [.., k]: largest first, ties by index; NaN counts as largest
//   cumsum     y_j = x_0 + ... + x_j, or x_j + ... + x_{n-1} when `reverse` (the gradient of the other); summed in the
//              accumulation type, rounded at the store
#pragma once
#include "tensor/kernels/door.h"
#include "tensor/view.h"

namespace facet {
namespace cpu {
void max(View x, Out y);
void max_grad(View dy, View x, View y, Out dx);
void argmax(View x, Out y);
void top_k(View x, Out values, Out indices);
void cumsum(View x, bool reverse, Out y);
}  // namespace cpu
namespace gpu {
void max(View x, Out y);
void max_grad(View dy, View x, View y, Out dx);
void argmax(View x, Out y);
void top_k(View x, Out values, Out indices);
void cumsum(View x, bool reverse, Out y);
}  // namespace gpu
FACET_INLINE void max(View x, Out y) {
  on_gpu("max", x, y) ? gpu::max(x, y) : cpu::max(x, y);
}
FACET_INLINE void max_grad(View dy, View x, View y, Out dx) {
  on_gpu("max_grad", dy, x, y, dx) ? gpu::max_grad(dy, x, y, dx) : cpu::max_grad(dy, x, y, dx);
}
FACET_INLINE void argmax(View x, Out y) {
  on_gpu("argmax", x, y) ? gpu::argmax(x, y) : cpu::argmax(x, y);
}
FACET_INLINE void top_k(View x, Out values, Out indices) {
  on_gpu("top_k", x, values, indices) ? gpu::top_k(x, values, indices) : cpu::top_k(x, values, indices);
}
FACET_INLINE void cumsum(View x, bool reverse, Out y) {
  on_gpu("cumsum", x, y) ? gpu::cumsum(x, reverse, y) : cpu::cumsum(x, reverse, y);
}
}  // namespace facet

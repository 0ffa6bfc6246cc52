// Extremes and running sums along the last dimension; any strides; f32, bf16, f64.
//
//   max        y [.., 1] = max_j x_j; NaN if there is one
//   max_grad   dx_j (+)= dy / (number of maxima) where x_j = y, else 0
//   argmax     y [.., 1] i32: the first maximum; the first NaN if there is one
//   top_k      values [.., k], indices i32 [.., k]: largest first, ties by index; NaN counts as largest
//   cumsum     y_j = x_0 + ... + x_j, or x_j + ... + x_{n-1} when `reverse` (the gradient of the other); summed in the
//              accumulation type, rounded at the store
#pragma once
#include "tensor/view.h"

namespace facet {
namespace cpu {
void max(View x, Out y);
void max_grad(View dy, View x, View y, Out dx);
void argmax(View x, Out y);
void top_k(View x, Out values, Out indices);
void cumsum(View x, bool reverse, Out y);
}  // namespace cpu
using cpu::argmax;
using cpu::cumsum;
using cpu::max;
using cpu::max_grad;
using cpu::top_k;
}  // namespace facet

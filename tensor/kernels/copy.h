// copy: y (+)= x, converting dtypes, any strides; x broadcasts to y by stride 0. fill: y = value.
// Rounding: f32 -> bf16 to nearest even; anything -> i32 truncates. x may alias y only when they are the same window.
#pragma once
#include "tensor/view.h"

namespace facet {
namespace cpu {
void copy(View x, Out y);
void fill(Out y, double value);
}  // namespace cpu
using cpu::copy;
using cpu::fill;
}  // namespace facet

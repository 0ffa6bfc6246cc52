// What operations check about their arguments before they compute. All throw Error(Kind::usage) naming the operation, the
// argument, what was expected and what was found.
#pragma once
#include "tensor/tensor.h"

namespace facet {

void check_floating(const char* op, const char* name, const Tensor&);  ///< present; f32, bf16 or f64
void check_i32(const char* op, const char* name, const Tensor&);       ///< present; i32
/// x [.., I] and a weight [O, I] of a projection: one floating dtype, or a bf16 weight under f32.
void check_projection(const char* op, const Tensor& x, const char* name, const Tensor& w);
void check_same_dtype(const char* op, const char* a_name, const Tensor& a, const char* b_name, const Tensor& b);

}  // namespace facet

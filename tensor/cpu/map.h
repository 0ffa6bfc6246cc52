// How an elementwise kernel walks memory. The formula sees only stretches of neighbouring elements; strides, broadcasting,
// threads and strided destinations are handled here, once for all formulas.
#pragma once
#include "tensor/cpu/tier.h"
#include "tensor/kernels/elementwise.h"
#include "tensor/view.h"

namespace facet::cpu {

/// y[i] (+)= f(x[0][i], x[1][i], x[2][i]; s) for i < n. y may be one of the x.
using RowFn = void (*)(int64_t n, const void* const* x, double s, void* y, bool accumulate);

/// At most three operands, each broadcastable to y; elements of any size. `cost` is the work of one element.
void map(RowFn f, std::initializer_list<View> x, double s, Out y, int64_t cost = 1);

// The formulas, compiled in tiers.
extern const Kernel<RowFn(Unary, DType)> unary_row;
extern const Kernel<RowFn(Unary, DType)> unary_grad_row;               // x = dy, saved
extern const Kernel<RowFn(Binary, DType)> binary_row;                  // x = a, b
extern const Kernel<RowFn(Binary, int which, DType)> binary_grad_row;  // x = dy, a, b
extern const Kernel<RowFn(Compare, DType)> compare_row;
extern const Kernel<RowFn(DType)> where_row;

}  // namespace facet::cpu

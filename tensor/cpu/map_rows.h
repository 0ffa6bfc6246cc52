// How a kernel along the last dimension walks memory: it sees whole rows of neighbouring elements; strided rows are copied in
// and out, and threads share the rows.
#pragma once
#include <initializer_list>

#include "tensor/cpu/tier.h"
#include "tensor/view.h"

namespace facet::cpu {

struct Row {
  const void* x[3];
  void* y[2];
  int64_t n;        ///< elements of x[0]
  int64_t k;        ///< elements of y[0]
  bool accumulate;  ///< of y[0]
};
using RowsFn = void (*)(const Row&);

/// Operands agree in all dimensions but the last; lengths may differ there.
void map_rows(RowsFn f, std::initializer_list<View> x, std::initializer_list<Out> y);

// Bodies compiled in tiers; tensor/kernels/softmax.h has the formulas.
extern const Kernel<RowsFn(DType)> softmax_row;           // x -> y
extern const Kernel<RowsFn(DType)> softmax_grad_row;      // dy, y -> dx
extern const Kernel<RowsFn(DType)> log_softmax_row;       // x -> y, lse
extern const Kernel<RowsFn(DType)> log_softmax_grad_row;  // dy, x, lse -> dx
extern const Kernel<RowsFn(DType)> logsumexp_row;         // x -> lse
extern const Kernel<RowsFn(DType)> logsumexp_grad_row;    // x (its dtype rules), dy, lse -> dx

}  // namespace facet::cpu

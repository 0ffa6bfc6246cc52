#include "tensor/kernels/linear_geglu.h"

#include "autograd/inference_ops.h"
#include "autograd/ops/check.h"
#include "autograd/ops/rows.h"

namespace facet {
Tensor linear_geglu(const Tensor& x, const Tensor& w_gate, const Tensor& w_up) {
  const OpScope scope("linear_geglu");
  check_projection("linear_geglu", x, "w_gate", w_gate);
  check_projection("linear_geglu", x, "w_up", w_up);
  if (!(w_gate.shape() == w_up.shape()) || w_gate.dtype() != w_up.dtype())
    fail(Kind::usage, "linear_geglu: w_gate {} {} and w_up {} {}: expected the same of both", name_of(w_gate.dtype()), to_string(w_gate.shape()),
         name_of(w_up.dtype()), to_string(w_up.shape()));
  Shape shape = x.shape();
  shape[-1] = w_gate.dim(0);
  Tensor y = Tensor::empty(shape, x.dtype(), x.device());
  const Tensor rows = as_rows(x.view()) ? x.detach() : x.detach().dense();
  linear_geglu(as_rows(rows.view()), w_gate.view(), w_up.view(), as_rows(y.out()));
  attach_no_gradient("linear_geglu", {&y}, {&x, &w_gate, &w_up});
  return y;
}

}  // namespace facet

#include "tensor/kernels/linear_geglu.h"

#include "autograd/inference_ops.h"
#include "autograd/ops/rows.h"

namespace facet {
namespace {

void check(const Tensor& x, const char* name, const Tensor& w) {
  if (!x || !w || x.rank() < 1 || w.rank() != 2 || x.dim(-1) != w.dim(1))
    fail(Kind::usage, "linear_geglu: x {} and {} {}: expected x [.., I] and {} [F, I]", to_string(x.shape()), name, to_string(w.shape()), name);
  const bool widened = x.dtype() == DType::f32 && w.dtype() == DType::bf16;
  if (x.dtype() == DType::i32 || (x.dtype() != w.dtype() && !widened))
    fail(Kind::usage, "linear_geglu: x is {}, {} is {}: expected one floating dtype, or bf16 weights under f32; cast one of them", name_of(x.dtype()),
         name, name_of(w.dtype()));
}

}  // namespace

Tensor linear_geglu(const Tensor& x, const Tensor& w_gate, const Tensor& w_up) {
  check(x, "w_gate", w_gate);
  check(x, "w_up", w_up);
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

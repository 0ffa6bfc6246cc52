#include "autograd/ops.h"
#include "autograd/ops/rows.h"
#include "tensor/kernels/gemm.h"

namespace facet {
namespace {

void check(const Tensor& y, const Tensor& x, const Tensor& w) {
  check_floating("add_linear", "y", y);
  check_floating("add_linear", "x", x);
  check_floating("add_linear", "w", w);
  Shape want = x.shape();
  const bool ranks = x.rank() >= 1 && w.rank() == 2 && x.dim(-1) == w.dim(1);
  if (ranks) want[-1] = w.dim(0);
  if (!ranks || !(y.shape() == want))
    fail(Kind::usage, "add_linear: y {}, x {} and w {}: expected y [.., O], x [.., I] and w [O, I]", to_string(y.shape()),
         to_string(x.shape()), to_string(w.shape()));
  const bool widened = x.dtype() == DType::f32 && w.dtype() == DType::bf16;
  if (y.dtype() != x.dtype() || (x.dtype() != w.dtype() && !widened))
    fail(Kind::usage, "add_linear: y is {}, x is {}, w is {}: expected one dtype, or bf16 weights under f32; cast one of them",
         name_of(y.dtype()), name_of(x.dtype()), name_of(w.dtype()));
}

// dy goes on to y as it is; dx = scale dy w, dw = scale dy^T x.
struct AddLinearGrad {
  Saved x;  // when w trains
  Saved w;  // when x wants a gradient
  double scale;

  void operator()(Grads dy, Sinks dx) {
    const View d = as_rows(dy[0].view());
    if (dx[1]) gemm(d, w.view(), as_rows(dx[1].dst()), scale);
    if (dx[2]) gemm(transposed(d), as_rows(x.view()), dx[2].dst(), scale);
    dx[0].pass(dy[0]);
  }
};

}  // namespace

Tensor add_linear(Tensor y, const Tensor& x, const Tensor& w, double scale) {
  const OpScope scope("add_linear");
  check(y, x, w);
  const Tensor rows_x = as_rows(x.view()) ? x.detach() : x.detach().dense();
  Tensor sum = y.unique() && y.contiguous() ? y.detach() : y.detach().clone();
  gemm(as_rows(rows_x.view()), transposed(w.view()), as_rows(sum.out(true)), scale);
  if (tracing(y, x, w)) {
    AddLinearGrad grad{{}, {}, scale};
    if (w.slot()) grad.x = rows_x;
    if (x.slot()) grad.w = w;
    attach("add_linear", {&sum}, {&y, &x, &w}, std::move(grad));
  }
  return sum;
}

}  // namespace facet

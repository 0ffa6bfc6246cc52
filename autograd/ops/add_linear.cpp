#include "autograd/joined_ops.h"
#include "autograd/ops.h"
#include "autograd/ops/rows.h"
#include "tensor/kernels/gemm.h"

namespace facet {
namespace {

void check(const char* op, const Tensor& y, const Tensor& x, const Tensor& w, int64_t column, int64_t columns_of_y) {
  check_floating(op, "y", y);
  check_floating(op, "x", x);
  check_floating(op, "w", w);
  Shape want = x.shape();
  const bool ranks = x.rank() >= 1 && w.rank() == 2 && x.dim(-1) == w.dim(1);
  if (ranks) want[-1] = columns_of_y;
  if (!ranks || !(y.shape() == want) || column < 0 || column + w.dim(0) > columns_of_y)
    fail(Kind::usage, "{}: y {}, x {} and w {}: expected y [.., O], x [.., I] and w [O, I]", op, to_string(y.shape()), to_string(x.shape()),
         to_string(w.shape()));
  const bool widened = x.dtype() == DType::f32 && w.dtype() == DType::bf16;
  if (y.dtype() != x.dtype() || (x.dtype() != w.dtype() && !widened))
    fail(Kind::usage, "{}: y is {}, x is {}, w is {}: expected one dtype, or bf16 weights under f32; cast one of them", op, name_of(y.dtype()),
         name_of(x.dtype()), name_of(w.dtype()));
}

/// c = scale a b, c a window of any layout.
void product(const View& a, const View& b, const Out& c, double scale) {
  if (const Out rows = as_rows(c)) gemm(as_rows(a), b, rows, scale);
  else gemm_batched(a, b, c, scale);
}

// dy goes on to y as it is; from the columns of a term dx = scale dy w, dw = scale dy^T x. Inputs: y, x_0, w_0, x_1, w_1, ...
struct AddLinearGrad {
  struct Term {
    Saved x;  // when w trains
    Saved w;  // when x wants a gradient
    double scale;
    int64_t begin, end;
  };
  pool_vector<Term> terms;

  void operator()(Grads dy, Sinks dx) {
    Sink* to = dx.data();
    for (const Term& t : terms) {
      const View d = columns(dy[0].view(), t.begin, t.end);
      Sink &to_x = *++to, &to_w = *++to;
      if (to_x) product(d, t.w.view(), to_x.window(), t.scale);
      if (to_w) gemm(transposed(as_rows(d)), as_rows(t.x.view()), to_w.dst(), t.scale);
    }
    dx[0].pass(dy[0]);
  }
};

Tensor add_terms(const char* op, Tensor y, std::span<const ColumnTerm> terms) {
  bool traced = tracing(y);
  for (const ColumnTerm& t : terms) traced = traced || tracing(t.x, t.w);
  Tensor sum = y.unique() && y.contiguous() ? y.detach() : y.detach().clone();
  AddLinearGrad grad;
  pool_vector<const Tensor*> inputs{&y};
  for (const ColumnTerm& t : terms) {
    const Tensor rows = as_rows(t.x.view()) ? t.x.detach() : t.x.detach().dense();
    const int64_t end = t.column + t.w.dim(0);
    gemm(as_rows(rows.view()), transposed(t.w.view()), columns(as_rows(sum.out(true)), t.column, end), t.scale);
    if (!traced) continue;
    grad.terms.push_back({t.w.slot() ? Saved(rows) : Saved(), t.x.slot() ? Saved(t.w) : Saved(), t.scale, t.column, end});
    inputs.push_back(&t.x), inputs.push_back(&t.w);
  }
  if (traced) {
    Tensor* outputs[] = {&sum};
    attach<AddLinearGrad>(op, outputs, inputs, std::move(grad));
  }
  return sum;
}

}  // namespace

Tensor add_linear(Tensor y, const Tensor& x, const Tensor& w, double scale) {
  const OpScope scope("add_linear");
  check("add_linear", y, x, w, 0, w ? w.dim(0) : 0);
  const ColumnTerm term{0, x, w, scale};
  return add_terms("add_linear", std::move(y), {&term, 1});
}

Tensor add_linear_columns(Tensor y, std::span<const ColumnTerm> terms) {
  const OpScope scope("add_linear_columns");
  for (const ColumnTerm& t : terms) check("add_linear_columns", y, t.x, t.w, t.column, y && y.rank() > 0 ? y.dim(-1) : 0);
  return add_terms("add_linear_columns", std::move(y), terms);
}

}  // namespace facet

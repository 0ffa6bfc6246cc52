#include "autograd/ops.h"
#include "tensor/kernels/gemm.h"

namespace facet {
namespace {

// Vectors take part as matrices: a [P] as [1, P], b [P] as [P, 1], and the dimension is missing from y.
template <class V>
V as_row(V v) {
  if (v.shape.rank != 1) return v;
  v.shape = {1, v.shape[0]};
  v.stride = {0, v.stride[0]};
  return v;
}
template <class V>
V as_column(V v) {
  if (v.shape.rank != 1) return v;
  v.shape = {v.shape[0], 1};
  v.stride = {v.stride[0], 0};
  return v;
}

// y as [.., M, N] whichever of the two a vector operand took away.
template <class V>
V as_product(V v, bool row_missing, bool column_missing) {
  if (column_missing) v.shape.push(1), v.stride.push(0);
  if (row_missing) {
    const int64_t n = v.shape[-1], s = v.stride[-1];
    v.shape[-1] = 1, v.stride[-1] = 0;
    v.shape.push(n), v.stride.push(s);
  }
  return v;
}

// da = dy b^T, db = a^T dy, summed over the dimensions in which an operand was repeated.
struct MatmulGrad {
  Saved a, b;  // each for the gradient of the other
  bool row, column;

  void operator()(Grads dy, Sinks dx) {
    const View d = as_product(dy[0].view(), row, column);
    if (dx[0]) gemm_batched(d, transposed(as_column(b.view())), as_row(dx[0].dst()));
    if (dx[1]) gemm_batched(transposed(as_row(a.view())), d, as_column(dx[1].dst()));
  }
};

}  // namespace

Tensor matmul(const Tensor& a, const Tensor& b) {
  const OpScope scope("matmul");
  const View va = as_row(a.view()), vb = as_column(b.view());
  if (a.rank() < 1 || b.rank() < 1 || va.shape[-1] != vb.shape[-2])
    fail(Kind::usage, "matmul: a {} and b {}: expected a [.., M, P] and b [.., P, N]", to_string(a.shape()), to_string(b.shape()));
  if (a.dtype() != b.dtype() || a.dtype() == DType::i32)
    fail(Kind::usage, "matmul: a is {}, b is {}: expected one floating dtype; cast one of them", name_of(a.dtype()), name_of(b.dtype()));
  Shape lead_a = va.shape, lead_b = vb.shape;
  lead_a.rank -= 2;
  lead_b.rank -= 2;
  Shape shape = broadcast_shape("matmul", lead_a, lead_b);
  const bool row = a.rank() == 1, column = b.rank() == 1;
  if (!row) shape.push(va.shape[-2]);
  if (!column) shape.push(vb.shape[-1]);
  Tensor y = Tensor::empty(shape, a.dtype(), a.device());
  gemm_batched(va, vb, as_product(y.out(), row, column));
  if (tracing(a, b)) {
    MatmulGrad grad{{}, {}, row, column};
    if (b.slot()) grad.a = a;
    if (a.slot()) grad.b = b;
    attach("matmul", {&y}, {&a, &b}, std::move(grad));
  }
  return y;
}

}  // namespace facet

#include "tensor/kernels/norm_rope.h"

#include "autograd/ops.h"
#include "autograd/ops/rows.h"

namespace facet {
namespace {

// Positions on the GPU are not read: the table reaches as far as their number, and further where somebody reserved more.
RopeRows rows_for(const RopeTable& table, const Tensor& positions, DType dtype) {
  if (positions.device() == Device::cpu) return table.rows(positions.data<int32_t>(), acc_dtype(dtype));
  table.reserve(positions.dim(1));
  return table.gpu_rows();
}

struct NormRopeGrad {
  Saved x, w, rstd;  // absent without a norm: a rotation needs the angles only
  Saved positions;
  RopeTable table;

  void operator()(Grads dy, Sinks dx) {
    const DType t = dy[0].dtype();
    const RopeRows rows = rows_for(table, positions.get(), t);
    if (w) norm_rope_backward(dy[0].view(), x.view(), w.view(), rstd.view(), positions.view(), rows, dx[0].dst(t), dx[1].dst(acc_dtype(t)));
    else norm_rope_backward(dy[0].view(), {}, {}, {}, positions.view(), rows, dx[0].dst(t), {});
  }
};

}  // namespace

Tensor norm_rope(const Tensor& x, const Tensor& w, double eps, const Tensor& positions, const RopeTable& table) {
  check_floating("norm_rope", "x", x);
  if (x.rank() != 4 || x.dim(3) != table.head_dim())
    fail(Kind::usage, "norm_rope: x {}, expected [B, T, H, Dh] with the table's Dh = {}", to_string(x.shape()), table.head_dim());
  if (w) check_norm_weight("norm_rope", x, w);
  if (!positions || positions.dtype() != DType::i32 || !(positions.shape() == Shape{x.dim(0), x.dim(1)}))
    fail(Kind::usage, "norm_rope: positions {} {}, expected i32 [{}, {}] for x {}", positions ? name_of(positions.dtype()) : "absent",
         to_string(positions.shape()), x.dim(0), x.dim(1), to_string(x.shape()));
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  const bool record = tracing(x, w);
  if (x.numel() == 0 && !record) return y;
  const Tensor rows = with_dense_rows(x), where = positions.detach().dense();
  const bool keep = record && w;
  const Tensor rstd = keep ? Tensor::empty({x.shape().rows()}, acc_dtype(x.dtype()), x.device()) : Tensor{};
  norm_rope(rows.view(), w ? w.view() : View{}, eps, where.view(), rows_for(table, where, x.dtype()), y.out(),
            keep ? rstd.out() : Out{});
  if (record) {
    NormRopeGrad grad{{}, {}, {}, where, table};
    if (keep) grad.x = rows, grad.w = w, grad.rstd = rstd;
    attach("norm_rope", {&y}, {&x, &w}, std::move(grad));
  }
  return y;
}

}  // namespace facet

#include "tensor/kernels/norm_rope.h"

#include "autograd/ops.h"
#include "autograd/ops/rope.h"

namespace facet {
namespace {

struct NormRopeGrad {
  Saved x, w, rstd;  // absent without a norm: a rotation needs the angles only
  Saved positions;
  RopeTable table;
  double eps;

  void operator()(Grads dy, Sinks dx) {
    const DType t = dy[0].dtype();
    const RopeRows rows = rows_for(table, positions.get(), t);
    if (w) norm_rope_backward(dy[0].view(), x.view(), w.view(), rstd.view(), positions.view(), rows, dx[0].window(t), dx[1].dst(acc_dtype(t)));
    else norm_rope_backward(dy[0].view(), {}, {}, {}, positions.view(), rows, dx[0].window(t), {});
  }
  bool recomputes(uint16_t) const { return static_cast<bool>(x); }
  Tensor recompute(uint16_t) const { return norm_rope(x.get(), w.get(), eps, positions.get(), table); }
};

}  // namespace

Tensor norm_rope(const Tensor& x, const Tensor& w, double eps, const Tensor& positions, const RopeTable& table) {
  const OpScope scope("norm_rope");
  check_heads("norm_rope", "x", x, w, positions, table);
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  const bool record = tracing(x, w);
  if (x.numel() == 0 && !record) return y;
  const Tensor rows = with_dense_rows(x), where = positions.detach().dense();
  const bool keep = record && w;
  const Tensor rstd = keep ? Tensor::empty({x.shape().rows()}, acc_dtype(x.dtype()), x.device()) : Tensor{};
  norm_rope(rows.view(), w ? w.view() : View{}, eps, where.view(), rows_for(table, where, x.dtype()), y.out(),
            keep ? rstd.out() : Out{});
  if (record) {
    NormRopeGrad grad{{}, {}, {}, where, table, eps};
    if (keep) grad.x = rows, grad.w = w, grad.rstd = rstd;
    attach("norm_rope", {&y}, {&x, &w}, std::move(grad));
  }
  return y;
}

}  // namespace facet

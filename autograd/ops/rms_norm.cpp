#include "tensor/kernels/rms_norm.h"

#include "autograd/ops.h"
#include "autograd/ops/room.h"
#include "autograd/ops/rows.h"

namespace facet {
namespace {

struct RmsNormGrad {
  Saved x, w, rstd;  // w only when x wants a gradient
  double eps;
  void operator()(Grads dy, Sinks dx) {
    const DType t = x.get().dtype();
    rms_norm_backward(dy[0].view(), x.view(), w ? w.view() : View{}, rstd.view(), dx[0].window(t), dx[1].dst(acc_dtype(t)));
  }
  bool recomputes(uint16_t) const { return static_cast<bool>(w); }
  Tensor recompute(uint16_t) const { return rms_norm(x.get(), w.get(), eps); }
};

}  // namespace

Tensor rms_norm(const Tensor& x, const Tensor& w, double eps) {
  const OpScope scope("rms_norm");
  check_floating("rms_norm", "x", x);
  if (x.rank() < 1) fail(Kind::usage, "rms_norm: x is a scalar, expected [.., D]");
  check_norm_weight("rms_norm", x, w);
  Tensor y = empty_rows(x.shape(), x.dtype(), x.device());
  const bool record = tracing(x, w);
  if (x.numel() == 0 && !record) return y;
  const Tensor rows = with_dense_rows(x);
  const Tensor rstd = record ? Tensor::empty({x.shape().rows()}, acc_dtype(x.dtype()), x.device()) : Tensor{};
  rms_norm(rows.view(), w.view(), eps, y.out(), record ? rstd.out() : Out{});
  if (record) attach("rms_norm", {&y}, {&x, &w}, RmsNormGrad{rows, x.slot() ? Saved(w) : Saved(), rstd, eps});
  return y;
}

}  // namespace facet

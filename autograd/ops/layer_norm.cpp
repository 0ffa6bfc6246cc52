#include "tensor/kernels/layer_norm.h"

#include "autograd/ops.h"
#include "autograd/ops/rows.h"

namespace facet {
namespace {

struct LayerNormGrad {
  Saved x, w, mean, rstd;
  void operator()(Grads dy, Sinks dx) {
    const DType t = x.get().dtype();
    layer_norm_backward(dy[0].view(), x.view(), w.view(), mean.view(), rstd.view(), dx[0].dst(t), dx[1].dst(acc_dtype(t)),
                        dx[2].dst(acc_dtype(t)));
  }
};

}  // namespace

Tensor layer_norm(const Tensor& x, const Tensor& w, const Tensor& b, double eps) {
  const OpScope scope("layer_norm");
  check_floating("layer_norm", "x", x);
  if (x.rank() < 1) fail(Kind::usage, "layer_norm: x is a scalar, expected [.., D]");
  check_norm_weight("layer_norm", x, w);
  check_norm_weight("layer_norm", x, b);
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  const bool record = tracing(x, w, b);
  if (x.numel() == 0 && !record) return y;
  const Tensor rows = with_dense_rows(x);
  const auto per_row = [&] { return record ? Tensor::empty({x.shape().rows()}, acc_dtype(x.dtype()), x.device()) : Tensor{}; };
  const Tensor mean = per_row(), rstd = per_row();
  layer_norm(rows.view(), w.view(), b.view(), eps, y.out(), record ? mean.out() : Out{}, record ? rstd.out() : Out{});
  if (record) attach("layer_norm", {&y}, {&x, &w, &b}, LayerNormGrad{rows, w, mean, rstd});
  return y;
}

}  // namespace facet

#include "tensor/kernels/add_rms_norm.h"

#include "autograd/ops.h"
#include "autograd/ops/rows.h"
#include "tensor/kernels/rms_norm.h"

namespace facet {
namespace {

// dy[0] is that of the sum, dy[1] that of the normed. The norm's part is added to the sum's, in place when nobody else holds it, as a
// gradient slot would do.
struct AddRmsNormGrad {
  Saved r, w, rstd;
  double eps;
  void operator()(Grads dy, Sinks dx) {
    const DType t = r.get().dtype();
    Tensor d;
    const bool wanted = dx[0] || dx[1];
    if (wanted && dy[0]) {
      d = std::move(dy[0]);
      if (dy[1] && !(d.unique() && d.contiguous())) d = d.clone();
    }
    if (dy[1]) {
      const bool add = static_cast<bool>(d);
      if (wanted && !add) d = Tensor::empty(r.get().shape(), t, r.get().device());
      rms_norm_backward(dy[1].view(), r.view(), w.view(), rstd.view(), wanted ? d.out(add) : Out{}, dx[2].dst(acc_dtype(t)));
    }
    if (!d) return;
    if (dx[0]) dx[0].pass(d);
    if (dx[1]) dx[1].pass(d);
  }
  bool recomputes(uint16_t output) const { return output == 1; }  // the norm; the sum is kept
  Tensor recompute(uint16_t) const { return rms_norm(r.get(), w.get(), eps); }
};

}  // namespace

SumNorm add_rms_norm(const Tensor& x, const Tensor& h, const Tensor& w, double eps) {
  check_floating("add_rms_norm", "x", x);
  check_floating("add_rms_norm", "h", h);
  if (x.rank() < 1) fail(Kind::usage, "add_rms_norm: x is a scalar, expected [.., D]");
  if (!(x.shape() == h.shape()) || x.dtype() != h.dtype())
    fail(Kind::usage, "add_rms_norm: x {} {} and h {} {}: expected one shape and one dtype", name_of(x.dtype()), to_string(x.shape()), name_of(h.dtype()),
         to_string(h.shape()));
  check_norm_weight("add_rms_norm", x, w);
  SumNorm s{Tensor::empty(x.shape(), x.dtype(), x.device()), Tensor::empty(x.shape(), x.dtype(), x.device())};
  const bool record = tracing(x, h, w);
  if (x.numel() == 0 && !record) return s;
  const Tensor rstd = record ? Tensor::empty({x.shape().rows()}, acc_dtype(x.dtype()), x.device()) : Tensor{};
  add_rms_norm(with_dense_rows(x).view(), with_dense_rows(h).view(), w.view(), eps, s.sum.out(), s.norm.out(), record ? rstd.out() : Out{});
  if (record) attach("add_rms_norm", {&s.sum, &s.norm}, {&x, &h, &w}, AddRmsNormGrad{s.sum, w, rstd, eps});
  return s;
}

}  // namespace facet

#include "tensor/kernels/add_rms_norm.h"

#include "autograd/ops.h"
#include "autograd/ops/room.h"
#include "autograd/ops/rows.h"
#include "tensor/kernels/rms_norm.h"

namespace facet {
namespace {

// dy[0] is that of the sum, dy[1] that of the normed. The norm's part is added to the sum's, in place when nobody else holds it, as a
// gradient slot would do. What comes of it is the gradient of x and of what was added to it: h, or its norm.
struct AddRmsNormGrad {
  Saved r, w, rstd;
  double eps;
  Saved h, w_h, rstd_h;  // absent when h was added as it is, or neither h nor w_h wants a gradient
  void operator()(Grads dy, Sinks dx) {
    const DType t = r.get().dtype();
    Tensor d;
    const bool wanted = dx[0] || dx[1] || (rstd_h && dx[3]);
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
    if (rstd_h) rms_norm_backward(d.view(), h.view(), w_h.view(), rstd_h.view(), dx[1].window(t), dx[3].dst(acc_dtype(t)));
    else if (dx[1]) dx[1].pass(d);
    if (dx[0]) dx[0].pass(d);
  }
  bool recomputes(uint16_t output) const { return output == 1; }  // the norm; the sum is kept
  Tensor recompute(uint16_t) const { return rms_norm(r.get(), w.get(), eps); }
};

void check(const char* op, const Tensor& x, const Tensor& h, const Tensor& w) {
  check_floating(op, "x", x);
  check_floating(op, "h", h);
  if (x.rank() < 1) fail(Kind::usage, "{}: x is a scalar, expected [.., D]", op);
  if (!(x.shape() == h.shape()) || x.dtype() != h.dtype())
    fail(Kind::usage, "{}: x {} {} and h {} {}: expected one shape and one dtype", op, name_of(x.dtype()), to_string(x.shape()), name_of(h.dtype()),
         to_string(h.shape()));
  check_norm_weight(op, x, w);
}

// w_h absent: h is added as it is.
SumNorm run(const char* op, const Tensor& x, const Tensor& h, const Tensor& w_h, const Tensor& w, double eps) {
  const OpScope scope(op);
  SumNorm s{Tensor::empty(x.shape(), x.dtype(), x.device()), empty_rows(x.shape(), x.dtype(), x.device())};
  const bool record = tracing(x, h, w, w_h);
  if (x.numel() == 0 && !record) return s;
  const auto roots = [&](bool wanted) { return wanted ? Tensor::empty({x.shape().rows()}, acc_dtype(x.dtype()), x.device()) : Tensor{}; };
  const Tensor rstd = roots(record), rstd_h = roots(tracing(h, w_h) && w_h), rows = with_dense_rows(h);
  const auto out = [](const Tensor& t) { return t ? t.out() : Out{}; };
  add_rms_norm(with_dense_rows(x).view(), rows.view(), w_h ? w_h.view() : View{}, w.view(), eps, s.sum.out(), s.norm.out(), out(rstd_h), out(rstd));
  if (!record) return s;
  AddRmsNormGrad grad{s.sum, w, rstd, eps, {}, {}, {}};
  if (rstd_h) grad.h = rows, grad.w_h = w_h, grad.rstd_h = rstd_h;
  attach(op, {&s.sum, &s.norm}, {&x, &h, &w, &w_h}, std::move(grad));
  return s;
}

}  // namespace

SumNorm add_rms_norm(const Tensor& x, const Tensor& h, const Tensor& w, double eps) {
  check("add_rms_norm", x, h, w);
  return run("add_rms_norm", x, h, {}, w, eps);
}

SumNorm norm_add_norm(const Tensor& x, const Tensor& h, const Tensor& w_h, const Tensor& w, double eps) {
  check("norm_add_norm", x, h, w);
  check_norm_weight("norm_add_norm", h, w_h);
  return run("norm_add_norm", x, h, w_h, w, eps);
}

}  // namespace facet

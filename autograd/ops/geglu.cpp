#include "tensor/kernels/geglu.h"

#include "autograd/ops.h"
#include "autograd/ops/rows.h"

namespace facet {
namespace {

struct GegluGrad {
  Saved gate, up;
  void operator()(Grads dy, Sinks dx) {
    const DType t = dy[0].dtype();
    geglu_backward(dy[0].view(), gate.view(), up.view(), dx[0].dst(t), dx[1].dst(t));
  }
  bool recomputes(uint16_t) const { return true; }
  Tensor recompute(uint16_t) const { return geglu(gate.get(), up.get()); }
};

}  // namespace

Tensor geglu(const Tensor& gate, const Tensor& up) {
  check_floating("geglu", "gate", gate);
  check_floating("geglu", "up", up);
  if (!(gate.shape() == up.shape()) || gate.dtype() != up.dtype())
    fail(Kind::usage, "geglu: gate {} {} and up {} {} must agree", name_of(gate.dtype()), to_string(gate.shape()), name_of(up.dtype()),
         to_string(up.shape()));
  Tensor y = Tensor::empty(gate.shape(), gate.dtype(), gate.device());
  const Tensor g = with_dense_rows(gate), u = with_dense_rows(up);
  geglu(g.view(), u.view(), y.out());
  if (tracing(gate, up)) attach("geglu", {&y}, {&gate, &up}, GegluGrad{g, u});
  return y;
}

}  // namespace facet

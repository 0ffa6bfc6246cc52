#include "tensor/kernels/geglu.h"

#include "autograd/joined_ops.h"
#include "autograd/ops.h"
#include "autograd/ops/room.h"
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

struct GegluHalvesGrad {
  Saved x;
  void operator()(Grads dy, Sinks dx) {
    if (!dx[0]) return;
    const View v = x.view();
    const int64_t F = dy[0].dim(-1);
    const Out whole = dx[0].window(dy[0].dtype());
    geglu_backward(dy[0].view(), columns(v, 0, F), columns(v, F, 2 * F), columns(whole, 0, F), columns(whole, F, 2 * F));
  }
  bool recomputes(uint16_t) const { return true; }
  Tensor recompute(uint16_t) const { return geglu_halves(x.get()); }
};

}  // namespace

Tensor geglu(const Tensor& gate, const Tensor& up) {
  const OpScope scope("geglu");
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

Tensor geglu_halves(const Tensor& x) {
  const OpScope scope("geglu_halves");
  check_floating("geglu_halves", "x", x);
  if (x.rank() < 1 || x.dim(-1) % 2) fail(Kind::usage, "geglu_halves: x {}: expected [.., 2F]", to_string(x.shape()));
  Shape shape = x.shape();
  const int64_t F = shape[-1] /= 2;
  Tensor y = empty_rows(shape, x.dtype(), x.device());
  const Tensor rows = with_dense_rows(x);
  geglu(columns(rows.view(), 0, F), columns(rows.view(), F, 2 * F), y.out());
  if (tracing(x)) attach("geglu_halves", {&y}, {&x}, GegluHalvesGrad{rows});
  return y;
}

}  // namespace facet

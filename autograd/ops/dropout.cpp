#include "tensor/gpu/runtime.h"
#include "tensor/kernels/dropout.h"

#include "autograd/ops.h"
#include "autograd/ops/rows.h"

namespace facet {
namespace {

struct DropoutGrad {
  Key key;
  double p;
  Kept x;  // for recompute alone
  void operator()(Grads dy, Sinks dx) { dropout(dy[0].view(), key.hi, key.lo, 1 - p, dx[0].dst(dy[0].dtype())); }
  bool recomputes(uint16_t) const { return static_cast<bool>(x); }
  Tensor recompute(uint16_t) const { return dropout(x.get(), p, key); }
};

}  // namespace

Tensor dropout(const Tensor& x, double p, Key key) {
  const OpScope scope("dropout");
  check_floating("dropout", "x", x);
  if (!(p >= 0 && p < 1)) fail(Kind::usage, "dropout: p {}: expected 0 <= p < 1", p);
  if (key.counters != Counters::partitionable) fail(Kind::usage, "dropout: expected a key with partitionable counters");
  if (x.device() == Device::gpu && gpu::capturing())
    fail(Kind::usage, "dropout: its key is the host's and would be the same in every replay; a model that drops cannot be recorded as a graph");
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  dropout(with_dense_rows(x).view(), key.hi, key.lo, 1 - p, y.out());
  if (tracing(x)) attach("dropout", {&y}, {&x}, DropoutGrad{key, p, recomputing() ? Kept(x) : Kept()});
  return y;
}

}  // namespace facet

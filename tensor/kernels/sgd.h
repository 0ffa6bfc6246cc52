// sgd: stochastic gradient descent, one pass over a parameter.
//
//   g <- grad_scale * g
//   trace <- momentum * trace + g,   u = trace   (nesterov: u = g + momentum * trace; without a trace: u = g)
//   p <- p - lr * u
//
// p, g and trace of one dtype, f32 or f64, dense and of one size; a null trace: no momentum. A grad_scale that is not finite: nothing is
// written. In place by nature: p and trace are read and written, and neither may overlap the other or g.
#pragma once
#include "tensor/cpu/tier.h"
#include "tensor/kernels/door.h"
#include "tensor/kernels/update.h"
#include "tensor/view.h"

namespace facet {

struct SgdStep {
  double lr = 0, momentum = 0, grad_scale = 1;
  bool nesterov = false;
};

template <class A>
struct SgdConstants {
  A lr, momentum, grad_scale;
  bool nesterov, skip;
};
template <class A>
FACET_INLINE SgdConstants<A> constants_of(const SgdStep& s) {
  return {static_cast<A>(s.lr), static_cast<A>(s.momentum), static_cast<A>(s.grad_scale), s.nesterov, skips(s.grad_scale)};
}

namespace cpu {
extern const Kernel<void(Out p, View g, Out trace, const SgdStep& step)> sgd;
}  // namespace cpu
namespace gpu {
void sgd(Out p, View g, Out trace, const SgdStep& step, const SgdConstants<float>* uploaded);
}  // namespace gpu
FACET_INLINE void sgd(Out p, View g, Out trace, const SgdStep& step, const SgdConstants<float>* uploaded = nullptr) {
  on_gpu("sgd", p, g, trace) ? gpu::sgd(p, g, trace, step, uploaded) : cpu::sgd(p, g, trace, step);
}
}  // namespace facet

// sgd: stochastic gradient descent, one pass over a parameter.
//
//   g <- grad_scale * g
//   trace <- momentum * trace + g,   u = trace   (nesterov: u = g + momentum * trace; without a trace: u = g)
//   p <- p - lr * u
//
// p, g and trace of one dtype, f32 or f64, dense and of one size; a null trace: no momentum. In place by nature: p and trace are
// read and written, and neither may overlap the other or g.
#pragma once
#include "tensor/cpu/tier.h"
#include "tensor/kernels/door.h"
#include "tensor/view.h"

namespace facet {

struct SgdStep {
  double lr = 0, momentum = 0, grad_scale = 1;
  bool nesterov = false;
};

namespace cpu {
extern const Kernel<void(Out p, View g, Out trace, const SgdStep& step)> sgd;
}  // namespace cpu
namespace gpu {
void sgd(Out p, View g, Out trace, const SgdStep& step);
}  // namespace gpu
FACET_INLINE void sgd(Out p, View g, Out trace, const SgdStep& step) {
  on_gpu("sgd", p, g, trace) ? gpu::sgd(p, g, trace, step) : cpu::sgd(p, g, trace, step);
}
}  // namespace facet

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
#include "tensor/view.h"

namespace facet {

struct SgdStep {
  double lr = 0, momentum = 0, grad_scale = 1;
  bool nesterov = false;
};

namespace cpu {
extern const Kernel<void(Out p, View g, Out trace, const SgdStep& step)> sgd;
}  // namespace cpu
using cpu::sgd;
}  // namespace facet

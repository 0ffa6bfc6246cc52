// lion: the sign of a momentum (Chen et al. 2023, arXiv 2302.06675, algorithm 2), one pass over a parameter.
//
//   g <- grad_scale * g
//   u = sign(beta1 m + (1 - beta1) g),   m <- beta2 m + (1 - beta2) g          sign(0) = 0
//   p <- p - lr * (u + weight_decay * p)
//
// p f32, f64 or bf16; m and g f32 (f64 for f64). All dense and of one size. A bf16 p needs `master`, the f32 value that is really updated;
// p becomes master rounded to nearest even. Otherwise master is null.
//
// A grad_scale that is not finite: nothing is written. In place by nature: p, master and m are read and written, and none may overlap
// another or g. Computed in f32 (f64 for f64). 20 bytes a parameter in f32.
#pragma once
#include "tensor/cpu/tier.h"
#include "tensor/kernels/door.h"
#include "tensor/kernels/update.h"
#include "tensor/view.h"

namespace facet {

struct LionStep {
  double lr = 0, beta1 = 0.9, beta2 = 0.99, weight_decay = 0, grad_scale = 1;
};

template <class A>
struct LionConstants {
  A lr, beta1, beta2, one_minus_beta1, one_minus_beta2, weight_decay, grad_scale;
  bool skip;
};
template <class A>
FACET_INLINE LionConstants<A> constants_of(const LionStep& s) {
  return {static_cast<A>(s.lr),
          static_cast<A>(s.beta1),
          static_cast<A>(s.beta2),
          static_cast<A>(1 - s.beta1),
          static_cast<A>(1 - s.beta2),
          static_cast<A>(s.weight_decay),
          static_cast<A>(s.grad_scale),
          skips(s.grad_scale)};
}

namespace cpu {
extern const Kernel<void(Out p, Out master, View g, Out m, const LionStep& step)> lion;
}  // namespace cpu
namespace gpu {
void lion(Out p, Out master, View g, Out m, const LionStep& step, const LionConstants<float>* uploaded);
}  // namespace gpu
FACET_INLINE void lion(Out p, Out master, View g, Out m, const LionStep& step, const LionConstants<float>* uploaded = nullptr) {
  on_gpu("lion", p, master, g, m) ? gpu::lion(p, master, g, m, step, uploaded) : cpu::lion(p, master, g, m, step);
}
}  // namespace facet

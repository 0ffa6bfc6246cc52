// adafactor: Adam without its memory (Shazeer & Stern 2018, arXiv 1804.04235; as optax.adafactor). Of a matrix's second moments only
// the means of its rows and of its columns are kept: R + C numbers instead of R C.
//
//   g <- grad_scale * g
//   factored (rows and cols given, p [R, C]):
//     rows[r] <- decay rows[r] + (1 - decay) (mean_c g^2 + eps),   cols[c] <- decay cols[c] + (1 - decay) (mean_r g^2 + eps)
//     u = g / sqrt(rows[r] / mean(rows)) / sqrt(cols[c])
//   else (v given):
//     v <- decay v + (1 - decay) (g^2 + eps),   u = g / sqrt(v)
//   u <- u / max(1, rms(u) / clip)                                      clip 0: as it is
//   p <- p - lr * (max(rms(p), min_scale) * u + weight_decay * p)       min_scale 0: u by itself
//
// p f32, f64 or bf16; g, rows [R], cols [C], v f32 (f64 for f64). All dense. A bf16 p needs `master`, the f32 value that is really
// updated and whose size is taken; p becomes master rounded to nearest even. Otherwise master is null. optax takes weight_decay without the rate.
//
// A grad_scale that is not finite: nothing is written. In place by nature; nothing may overlap. Computed in f32 (f64 for f64), means of u^2
// and p^2 in f64. g is read three times (GPU: four) when factored, twice else: what is saved in memory is paid for in reading.
#pragma once
#include "tensor/cpu/tier.h"
#include "tensor/kernels/door.h"
#include "tensor/kernels/update.h"
#include "tensor/math.h"
#include "tensor/view.h"

namespace facet {

struct AdafactorStep {
  double lr = 0;
  double decay = 0;  ///< 1 - t^-0.8 at the t-th update, from 1
  double eps = 1e-30, clip = 1, min_scale = 1e-3, weight_decay = 0, grad_scale = 1;
};

template <class A>
struct AdafactorConstants {
  double lr, clip, min_scale;
  A kept, added;  ///< decay, 1 - decay
  A eps;
  A weight_decay;  ///< times lr
  A grad_scale;
  bool skip;
};
template <class A>
FACET_INLINE AdafactorConstants<A> constants_of(const AdafactorStep& s) {
  return {s.lr,
          s.clip,
          s.min_scale,
          static_cast<A>(s.decay),
          static_cast<A>(1 - s.decay),
          static_cast<A>(s.eps),
          static_cast<A>(s.lr * s.weight_decay),
          static_cast<A>(s.grad_scale),
          skips(s.grad_scale)};
}

/// What u is multiplied by, given the means of u^2 and p^2.
template <class A>
FACET_INLINE double adafactor_rate(const AdafactorConstants<A>& s, double mean_u2, double mean_p2) {
  const double size = __builtin_sqrt(mean_p2), too_long = s.clip > 0 ? __builtin_sqrt(mean_u2) / s.clip : 1;
  return s.lr * (s.min_scale <= 0 ? 1 : size > s.min_scale ? size : s.min_scale) / (too_long > 1 ? too_long : 1);
}

namespace cpu {
extern const Kernel<void(Out p, Out master, View g, Out rows, Out cols, Out v, const AdafactorStep& step)> adafactor;
}  // namespace cpu
namespace gpu {
void adafactor(Out p, Out master, View g, Out rows, Out cols, Out v, const AdafactorStep& step, const AdafactorConstants<float>* uploaded);
}  // namespace gpu
FACET_INLINE void adafactor(Out p, Out master, View g, Out rows, Out cols, Out v, const AdafactorStep& step,
                            const AdafactorConstants<float>* uploaded = nullptr) {
  on_gpu("adafactor", p, master, g, rows, cols, v) ? gpu::adafactor(p, master, g, rows, cols, v, step, uploaded)
                                                   : cpu::adafactor(p, master, g, rows, cols, v, step);
}
}  // namespace facet

// adamw: Adam with decoupled weight decay (Loshchilov & Hutter, arXiv 1711.05101), one pass over a parameter.
//
//   g <- grad_scale * g
//   m <- beta1 m + (1 - beta1) g,   v <- beta2 v + (1 - beta2) g^2
//   p <- p - lr * ( m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t) + eps_root) + eps) + weight_decay * p )
//
// p f32, f64 or bf16; m and v both f32 or both bf16 (f64 for f64); g f32 (f64 for f64). All dense and of one size. A bf16 p needs `master`, the f32
// value that is really updated; p becomes master rounded to nearest even (updates below half an ulp of bf16 add up in master).
// Otherwise master is null.
//
// Stochastic rounding (step.stochastic, bf16 p): p becomes bits 16 to 31 of bits(master) + r, so the f32 value is rounded up with the
// probability of what rounding down would lose, and p is right on average. r: with (a, b) = threefry2x32(fold_in(key, t), i / 4) of
// tensor/rng.h, element i takes the lower half of a, the upper half of a, the lower and the upper half of b, by i % 4. Infinities and NaN
// stay what they are. Then master may be null: p itself, widened, is what is updated.
//
// bf16 m and v are rounded by chance in the same way, always: to nearest, v would stand still wherever its change, a share 1 - beta2 of it,
// is below half an ulp, 2^-9. Their r are those of counters i / 4 + 2^62 for m and i / 4 + 2^63 for v. p sees them before they are rounded.
//
// A grad_scale that is not finite: nothing is written. In place by nature: p, master, m and v are read and written, and none may overlap another or g.
// Rounding: f32 throughout (f64 for f64), the step's constants are computed in f64 and rounded once. 28 bytes a parameter in f32, 20 with bf16 m and v.
//
// sum_of_squares: sums[i] = sum of x^2 over the i-th block of squares_block elements of a dense x (f32 or f64); sums f64. Adding
// them up in order gives the same bits on any number of threads.
#pragma once
#include "tensor/cpu/tier.h"
#include "tensor/kernels/door.h"
#include "tensor/kernels/update.h"
#include "tensor/threefry.h"
#include "tensor/view.h"

namespace facet {

struct AdamwStep {
  double lr = 0, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, eps_root = 0, weight_decay = 0;
  double grad_scale = 1;
  int64_t t = 1;  ///< this update's number, from 1
  bool stochastic = false;
  uint32_t key_hi = 0, key_lo = 0;  ///< of stochastic rounding; another one for each parameter
};
/// The upper word of the counters that m's and v's roundings draw at.
inline constexpr uint32_t adamw_draws_of_m = 1u << 30, adamw_draws_of_v = 1u << 31;

template <class A>
struct AdamwConstants {
  A beta1, beta2, one_minus_beta1, one_minus_beta2;
  A rate;    ///< lr / (1 - beta1^t)
  A unbias;  ///< 1 / (1 - beta2^t)
  A decay;   ///< lr * weight_decay
  A eps, eps_root, grad_scale;
  bool skip, stochastic;
  uint32_t key_hi, key_lo;  ///< of the step
};
template <class A>
FACET_INLINE AdamwConstants<A> constants_of(const AdamwStep& s) {
  const auto power = [](double base, int64_t n) {
    double r = 1;
    for (; n > 0; n >>= 1, base *= base)
      if (n & 1) r *= base;
    return r;
  };
  uint32_t hi = 0, lo = static_cast<uint32_t>(s.t);
  threefry_rounds<1>(s.key_hi, s.key_lo, &hi, &lo);
  return {static_cast<A>(s.beta1),
          static_cast<A>(s.beta2),
          static_cast<A>(1 - s.beta1),
          static_cast<A>(1 - s.beta2),
          static_cast<A>(s.lr / (1 - power(s.beta1, s.t))),
          static_cast<A>(1 / (1 - power(s.beta2, s.t))),
          static_cast<A>(s.lr * s.weight_decay),
          static_cast<A>(s.eps),
          static_cast<A>(s.eps_root),
          static_cast<A>(s.grad_scale),
          skips(s.grad_scale),
          s.stochastic,
          hi,
          lo};
}

inline constexpr int64_t squares_block = 32768;

namespace cpu {
extern const Kernel<void(Out p, Out master, View g, Out m, Out v, const AdamwStep& step)> adamw;
extern const Kernel<void(View x, Out sums)> sum_of_squares;
}  // namespace cpu
namespace gpu {
void adamw(Out p, Out master, View g, Out m, Out v, const AdamwStep& step, const AdamwConstants<float>* uploaded);
void sum_of_squares(View x, Out sums);
}  // namespace gpu
FACET_INLINE void adamw(Out p, Out master, View g, Out m, Out v, const AdamwStep& step, const AdamwConstants<float>* uploaded = nullptr) {
  on_gpu("adamw", p, master, g, m, v) ? gpu::adamw(p, master, g, m, v, step, uploaded) : cpu::adamw(p, master, g, m, v, step);
}
FACET_INLINE void sum_of_squares(View x, Out sums) {
  on_gpu_any_dtype("sum_of_squares", x, sums) ? gpu::sum_of_squares(x, sums) : cpu::sum_of_squares(x, sums);
}
}  // namespace facet

// dropout (Srivastava et al. 2014): each element survives with probability q, and survivors are scaled so that the mean stays.
//
//   y[n] (+)= keep[n] ? x[n] / q : 0        keep = jax.random.bernoulli(key, q), bit for bit
//   gradient: the same map, dx[n] (+)= keep[n] ? dy[n] / q : 0; the mask is drawn again from the key, never stored
//
// n counts x's elements row-major, so the mask depends on the key and the number of elements before n, not on strides, threads or tier.
// Shapes: x, y [..]. Dtypes: f32, bf16, f64, x and y alike; the product with 1 / q is formed in f32 (f64) and rounded once.
// Layouts: rows of x contiguous, leading strides free; y dense. y may_alias x when both are the same dense window.
#pragma once
#include "tensor/cpu/tier.h"
#include "tensor/kernels/door.h"

namespace facet {
namespace cpu {
extern const Kernel<void(View x, uint32_t key_hi, uint32_t key_lo, double q, Out y)> dropout;
}  // namespace cpu
namespace gpu {
void dropout(View x, uint32_t key_hi, uint32_t key_lo, double q, Out y);
}  // namespace gpu
FACET_INLINE void dropout(View x, uint32_t key_hi, uint32_t key_lo, double q, Out y) {
  on_gpu("dropout", x, y) ? gpu::dropout(x, key_hi, key_lo, q, y) : cpu::dropout(x, key_hi, key_lo, q, y);
}
}  // namespace facet

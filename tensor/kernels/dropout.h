// dropout (Srivastava et al. 2014): each element survives with probability q, and survivors are scaled so that the mean stays.
//
//   y[n] (+)= keep[n] ? x[n] / q : 0        keep = jax.random.bernoulli(key, q), bit for bit
//   gradient: the same map, dx[n] (+)= keep[n] ? dy[n] / q : 0; the mask is drawn again from the key, never stored
//
// The key is given by the host, or lies in memory beside x: a recorded graph then draws by what was written there before it was replayed, and
// all layers share the one key, each with a salt of its own.
//
// n counts x's elements row-major, so the mask depends on the key and the number of elements before n, not on strides, threads or tier.
// Shapes: x, y [..]. Dtypes: f32, bf16, f64, x and y alike; the product with 1 / q is formed in f32 (f64) and rounded once.
// Layouts: rows of x contiguous, leading strides free; y dense. y may_alias x when both are the same dense window.
#pragma once
#include "tensor/cpu/tier.h"
#include "tensor/kernels/door.h"
#include "tensor/threefry.h"

namespace facet {

/// (hi, lo), or with words fold_in((words[0], words[1]), salt) of tensor/rng.h, which whoever draws reads when it runs.
struct MaskKey {
  uint32_t hi, lo;
  const int32_t* words = nullptr;
  uint32_t salt = 0;
};
FACET_INLINE MaskKey settled(MaskKey k) {
  if (!k.words) return k;
  MaskKey folded{0, k.salt};
  threefry_rounds<1>(static_cast<uint32_t>(k.words[0]), static_cast<uint32_t>(k.words[1]), &folded.hi, &folded.lo);
  return folded;
}

namespace cpu {
extern const Kernel<void(View x, MaskKey key, double q, Out y)> dropout;
}  // namespace cpu
namespace gpu {
void dropout(View x, MaskKey key, double q, Out y);
}  // namespace gpu
FACET_INLINE void dropout(View x, MaskKey key, double q, Out y) {
  on_gpu("dropout", x, y) ? gpu::dropout(x, key, q, y) : cpu::dropout(x, key, q, y);
}
}  // namespace facet

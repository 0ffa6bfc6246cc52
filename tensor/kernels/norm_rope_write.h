// norm_rope_write: what a pass over a cache does to a layer's products before it attends, as one kernel.
//
//   y      = norm_rope(q, w_q)          tensor/kernels/norm_rope.h
//   k_ring <- norm_rope(k, w_k)         written at slot p % R of its row, p = position of the token      tensor/kernels/ring_write.h
//   v_ring <- v                         there, too
//   slots  <- p
//
// The same bits as these four one after the other: what goes into a ring was rounded to T before. Tokens with p < 0 (padding) are written
// nowhere; their q is turned as at position 0. No gradient: it serves passes that record none.
//
// Shapes: q, y [B, T, H, Dh]; k, v [B, T, K, Dh], Dh even; w_q, w_k [Dh], both or neither; positions i32 [B, T]; k_ring, v_ring
// [B, R, K, Dh]; slots i32 [B, R]; table rows of Dh numbers. Two tokens of a row must not share a slot: T <= R when positions run on.
// Dtypes: q, k, v, y and the rings of one dtype T (f32, bf16, f64); w_q, w_k any floating dtype. Computed in the accumulation type.
// Layouts: Dh contiguous in q, k and v, their leading strides free (windows of one fused projection); positions and y dense; rings dense
// after the second dimension; weights any stride. Always "=". No aliasing. Order of sums as in norm_rope.
#pragma once
#include "tensor/kernels/door.h"
#include "tensor/rope_rows.h"

namespace facet {

/// The windows on q, k and v and the weights of their norms.
struct HeadProducts {
  View q, k, v, w_q, w_k;
};
struct RingOuts {
  Out keys, values, slots;
};

namespace cpu {
void norm_rope_write(const HeadProducts& x, double eps, View positions, RopeRows table, Out y, const RingOuts& rings);
}  // namespace cpu
namespace gpu {
void norm_rope_write(const HeadProducts& x, double eps, View positions, RopeRows table, Out y, const RingOuts& rings);
}  // namespace gpu
FACET_INLINE void norm_rope_write(const HeadProducts& x, double eps, View positions, RopeRows table, Out y, const RingOuts& rings) {
  on_gpu("norm_rope_write", x.q, x.k, x.v, x.w_q, x.w_k, positions, y, rings.keys, rings.values, rings.slots)
      ? gpu::norm_rope_write(x, eps, positions, table, y, rings)
      : cpu::norm_rope_write(x, eps, positions, table, y, rings);
}
}  // namespace facet

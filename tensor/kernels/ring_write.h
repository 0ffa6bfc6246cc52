// ring_write: ring[b, p % R] = rows[b, t] with p = positions[b, t]; rows with p < 0 (padding) are not written.
// rows [B, T, ...], positions i32 [B, T], ring [B, R, ...]: same trailing shape, dense after the second dimension; the ring may be
// stored in another float dtype. slots i32 [B, R] gets p. Two rows of one call must not share a slot: T <= R when positions run on.
#pragma once
#include "tensor/kernels/door.h"
#include "tensor/view.h"

namespace facet {
namespace cpu {
void ring_write(View rows, View positions, Out ring, Out slots);
}  // namespace cpu
namespace gpu {
void ring_write(View rows, View positions, Out ring, Out slots);
}  // namespace gpu
FACET_INLINE void ring_write(View rows, View positions, Out ring, Out slots) {
  on_gpu("ring_write", rows, positions, ring, slots)
      ? gpu::ring_write(rows, positions, ring, slots)
      : cpu::ring_write(rows, positions, ring, slots);
}
}  // namespace facet

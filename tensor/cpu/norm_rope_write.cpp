// On the CPU starting a kernel costs nothing, so the parts run one after the other; the turned keys wait in scratch.
#include "tensor/kernels/norm_rope_write.h"

#include "tensor/kernels/norm_rope.h"
#include "tensor/kernels/ring_write.h"
#include "tensor/scratch.h"

namespace facet::cpu {

void norm_rope_write(const HeadProducts& x, double eps, View positions, RopeRows table, Out y, const RingOuts& rings) {
  const Scratch space(static_cast<size_t>(x.k.numel() * size_of(x.k.dtype)));
  Out k;
  static_cast<View&>(k) = {space.as<void>(), x.k.dtype, Device::cpu, x.k.shape, dense_strides(x.k.shape)};
  cpu::norm_rope(x.q, x.w_q, eps, positions, table, y, {});
  cpu::norm_rope(x.k, x.w_k, eps, positions, table, k, {});
  cpu::ring_write(k, positions, rings.keys, rings.slots);
  cpu::ring_write(x.v, positions, rings.values, {});
}

}  // namespace facet::cpu

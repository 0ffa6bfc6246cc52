#include "tensor/kernels/place_blocks.h"

#include "tensor/kernels/copy.h"

namespace facet::cpu {

void place_blocks(std::span<const Block> blocks, Out to) {
  to.accumulate = false;
  cpu::fill(to, 0);
  for (const Block& b : blocks) {
    Out part = to;
    part.data = to.as<char>() + (b.row * to.stride[0] + b.column * to.stride[1]) * size_of(to.dtype);
    part.shape = b.values.shape;
    cpu::copy(b.values, part);
  }
}

}  // namespace facet::cpu

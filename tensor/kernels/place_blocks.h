// place_blocks: a matrix made of blocks, zeros elsewhere.
//
//   to [R, C] = 0;  to[row : row + r, column : column + c] = values [r, c]   of each block, later ones upon earlier ones
//
// How the factors of several adapters become part of the matrix that their products read (autograd/joined_ops.h). Dtypes: all alike (f32, bf16, f64).
// Layouts: any strides. Always "=": what `to` held is not read. No aliasing.
#pragma once
#include <span>

#include "tensor/kernels/door.h"
#include "tensor/view.h"

namespace facet {

struct Block {
  View values;
  int64_t row = 0, column = 0;  ///< where it begins
};

namespace cpu {
void place_blocks(std::span<const Block>, Out to);
}
namespace gpu {
void place_blocks(std::span<const Block>, Out to);
}
FACET_INLINE void place_blocks(std::span<const Block> blocks, Out to) {
  on_gpu("place_blocks", to) ? gpu::place_blocks(blocks, to) : cpu::place_blocks(blocks, to);
}
}  // namespace facet

// How tensor/kernels/adapter_gradients.h is computed on the GPU: by a kernel in one pass over dy, in tiles that the shape decides, or by two
// products.
#pragma once
#include "tensor/view.h"

namespace facet::gpu {

inline constexpr int adapter_rows = 32, adapter_columns = 64;  ///< of which tiles are multiples
inline constexpr int adapter_most_warps = 6;                   ///< times adapter_columns: the widest tile
/// Columns of t that the kernel has room for when there are `rank`, up to 32.
constexpr int adapter_padded(int64_t rank) { return rank <= 8 ? 8 : rank <= 16 ? 16 : 32; }

/// The part of dy that a block takes. No rows: two products are cheaper.
struct AdapterTile {
  int64_t rows = 0, columns = 0;
};
AdapterTile adapter_tile(int64_t rows, int64_t columns, int64_t rank);

/// What the kernel takes: bf16; dy and t with dense rows that are multiples of 16 bytes, at such addresses; up to 32 columns of t; both results.
bool adapter_pass_takes(const View& dy, const View& b, const View& t, const Out& dt, const Out& db);
/// The pass, in tiles of any size.
void adapter_pass(const View& dy, const View& b, const View& t, double scale, const Out& dt, const Out& db, AdapterTile tile);

}  // namespace facet::gpu

// Who computes the gradients of an adapter's second matrix: the kernel (adapter_gradients.cu), which reads dy once and moves parts of sums besides,
// or two products, which read dy twice.
#include "tensor/gpu/adapter_gradients.h"

#include <algorithm>

#include "tensor/kernels/adapter_gradients.h"
#include "tensor/kernels/gemm.h"
#include "tensor/profile.h"

namespace facet::gpu {
namespace {

constexpr int64_t processors = 132;  // those of Hopper, whatever the device has: tiles decide bits

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

// What a processor moves, in elements of dy, with one to four tiles each; 4 R for a row or column of a tile are its parts, written and read in f32.
AdapterTile adapter_tile(int64_t rows, int64_t columns, int64_t rank) {
  AdapterTile best;
  if (rank > 32 || rows == 0 || columns == 0) return best;
  int64_t least = 2 * rows * columns / processors;  // of two products
  const int64_t needed = ceil_div(columns, adapter_columns), most = std::min<int64_t>(needed, adapter_most_warps);
  for (int64_t warps = most; warps >= std::min<int64_t>(most, 4); --warps)  // fewer would have too few bytes under way
    for (int64_t each = 1; each <= 4; ++each) {
      const int64_t width = warps * adapter_columns, strips = ceil_div(columns, width);
      const int64_t row_strips = std::max<int64_t>(each * processors / strips, 1);
      const int64_t height = ceil_div(ceil_div(rows, row_strips), adapter_rows) * adapter_rows;
      const int64_t tiles = ceil_div(strips * ceil_div(rows, height), processors);  // of a processor
      const int64_t cost = tiles * (height * width + 4 * adapter_padded(rank) * (height + width));
      if (cost < least) least = cost, best = {height, width};
    }
  return best;
}

bool adapter_pass_takes(const View& dy, const View& b, const View& t, const Out& dt, const Out& db) {
  if (!dt || !db || dy.dtype != DType::bf16 || b.dtype != DType::bf16 || t.dtype != DType::bf16 || dt.dtype != DType::bf16 || db.dtype != DType::f32)
    return false;
  const auto packs = [](const View& v) {
    return v.stride[1] == 1 && v.shape[1] % 8 == 0 && (v.stride[0] % 8 == 0 || v.shape[0] == 1) && reinterpret_cast<uintptr_t>(v.data) % 16 == 0;
  };
  return dy.numel() > 0 && t.shape[1] > 0 && t.shape[1] <= 32 && packs(dy) && packs(t);
}

void adapter_gradients(View dy, View b, View t, double scale, Out dt, Out db) {
  const int64_t N = dy.shape[0], O = dy.shape[1];
  if (adapter_pass_takes(dy, b, t, dt, db))
    if (const AdapterTile tile = adapter_tile(N, O, t.shape[1]); tile.rows) {
      count_product(N, O, t.shape[1]);
      count_product(O, N, t.shape[1]);
      return adapter_pass(dy, b, t, scale, dt, db, tile);
    }
  if (dt) gpu::gemm(dy, b, dt, scale);
  if (db) gpu::gemm(facet::transposed(dy), t, db, 1);
}

}  // namespace facet::gpu

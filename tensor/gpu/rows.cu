#include "tensor/gpu/rows.h"

namespace facet::gpu {
namespace {

constexpr int columns = 32, groups = 8;

// A warp reads 128 bytes of a row; its group's rows are `groups` apart, so that eight loads and more are under way at once.
__global__ void __launch_bounds__(columns * groups)
add_rows(const float* partial, int64_t count, int64_t stride, int64_t d, float* out, bool accumulate) {
  FACET_SHARED(float, part, [groups][columns]);
  const int c = static_cast<int>(threadIdx.x) % columns, g = static_cast<int>(threadIdx.x) / columns;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * columns + c;
  float sum = 0;
  if (i < d) {
#pragma unroll 8
    for (int64_t b = g; b < count; b += groups) sum += partial[b * stride + i];
  }
  part[g][c] = sum;
  sync_block();
  if (g != 0 || i >= d) return;
  for (int k = 1; k < groups; ++k) sum += part[k][c];
  put(out + i, sum, accumulate);
}

}  // namespace

void add_partials(const char* op, const float* partial, int64_t count, int64_t stride, int64_t d, const Out& out) {
  launch(op, add_rows, blocks_for(d, columns), columns * groups, 0, partial, count, stride, d, out.as<float>(), out.accumulate);
}

}  // namespace facet::gpu

// Kernels along the last dimension: a group of threads, a warp or a block, has one row. Windows agree in their leading dimensions;
// elements of a row lie `step` apart.
#pragma once
#include "tensor/gpu/launch.h"
#include "tensor/gpu/walk.h"

namespace facet::gpu {

inline constexpr int group_threads = 256;
inline constexpr int64_t short_row = 1024;  ///< up to here a warp has the row

template <int windows>
struct RowWalk {
  int64_t rows = 0, n = 0;  ///< n: elements in a row of the first window
  Walk<windows> walk;
  int64_t step[windows];

  /// Of present windows; absent ones stay at 0.
  explicit RowWalk(const View* const (&v)[windows]) {
    Shape shape = v[0]->shape, stride[windows];
    n = shape.rank ? shape[-1] : 1;
    rows = shape.rank ? shape.rows() : 1;
    for (int w = 0; w < windows; ++w) {
      const bool line = *v[w] && v[w]->shape.rank > 0;
      step[w] = line ? v[w]->stride[-1] : 0;
      stride[w] = line ? v[w]->stride : Shape{};
      stride[w].rank = shape.rank ? shape.rank - 1 : 0;
    }
    if (shape.rank) --shape.rank;
    cpu::coalesce(shape, stride);
    walk = make_walk(shape, stride);
  }
};

/// The row of this thread's group; rows beyond the last are nobody's.
template <int group>
__device__ inline int64_t my_row() {
  return static_cast<int64_t>(blockIdx.x) * (group_threads / group) + static_cast<int>(threadIdx.x) / group;
}
template <int group>
__device__ inline int my_thread() {
  return static_cast<int>(threadIdx.x) % group;
}
template <int group, class A>
__device__ inline A group_sum(A v, A* slots) {
  if constexpr (group == 32) return warp_sum(v);
  else return block_sum<group>(v, slots);
}
template <int group, class A>
__device__ inline A group_max(A v, A* slots) {
  if constexpr (group == 32) return warp_max(v);
  else return block_max<group>(v, slots);
}

/// Launches by_warp or by_block with the grid that covers all rows.
template <class... P, class... A>
void launch_rows(const char* op, void (*by_warp)(P...), void (*by_block)(P...), int64_t rows, int64_t n, A... args) {
  if (n <= short_row) launch(op, by_warp, blocks_for(rows, group_threads / 32, INT32_MAX), group_threads, 0, args...);
  else launch(op, by_block, blocks_for(rows, 1, INT32_MAX), group_threads, 0, args...);
}

}  // namespace facet::gpu

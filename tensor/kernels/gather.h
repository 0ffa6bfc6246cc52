// Elements by index along one dimension. index i32, 0 <= index < x.shape[dim] (not checked here).
//
//   gather        y[.., j, ..] = x[.., index[.., j, ..], ..]: y has index's shape, which agrees with x's outside `dim`
//   scatter_add   y[.., index[.., j, ..], ..] += source[.., j, ..]: source has index's shape; always adds
//
// Whole slices (take, its gradient) are the case of an index with stride 0 in the dimensions after `dim`: rows are then moved
// as rows. Any strides, any dtype for gather; floating dtypes for scatter_add, where y's may differ from source's.
// scatter_add adds in index order for every element: the same bits on any number of threads.
#pragma once
#include "tensor/kernels/door.h"
#include "tensor/view.h"

namespace facet {
namespace cpu {
void gather(View x, int dim, View index, Out y);
void scatter_add(View source, int dim, View index, Out y);
}  // namespace cpu
namespace gpu {
void gather(View x, int dim, View index, Out y);
void scatter_add(View source, int dim, View index, Out y);
}  // namespace gpu
FACET_INLINE void gather(View x, int dim, View index, Out y) {
  on_gpu("gather", x, index, y) ? gpu::gather(x, dim, index, y) : cpu::gather(x, dim, index, y);
}
FACET_INLINE void scatter_add(View source, int dim, View index, Out y) {
  on_gpu("scatter_add", source, index, y) ? gpu::scatter_add(source, dim, index, y) : cpu::scatter_add(source, dim, index, y);
}
}  // namespace facet

// embedding: rows of a table by id.
//
//   y[n, :] (+)= scale * table[ids[n], :]
//   dtable[v, :] += scale * sum over n with ids[n] = v of dy[n, :]        always "+=": rows without an id are not touched
//
// Shapes: ids i32 [..] with N elements, 0 <= id < V (the caller checks); table, dtable [V, D]; y, dy [.., D].
// Dtypes: table, y, dy, dtable each f32 or bf16, or all f64; the product is formed in f32 (f64) and rounded once. A bf16 dtable
// is rounded at every addition.
// Layouts: ids dense; rows of table and dy contiguous, leading strides free; y and dtable dense. No aliasing.
// Order of sums on the CPU: ids in order, for every column; threads share out columns, so an id that repeats needs no atomics.
// On the GPU: ids are sorted, runs are cut into partial sums at fixed places, and a bf16 dtable is rounded once a call; an id out of
// range reads a row of NaN and is skipped in backward.
#pragma once
#include "tensor/cpu/tier.h"
#include "tensor/kernels/door.h"

namespace facet {
namespace cpu {
extern const Kernel<void(View ids, View table, double scale, Out y)> embedding;
extern const Kernel<void(View ids, View dy, double scale, Out dtable)> embedding_backward;
}  // namespace cpu
namespace gpu {
void embedding(View ids, View table, double scale, Out y);
void embedding_backward(View ids, View dy, double scale, Out dtable);
}  // namespace gpu
FACET_INLINE void embedding(View ids, View table, double scale, Out y) {
  on_gpu("embedding", ids, table, y) ? gpu::embedding(ids, table, scale, y) : cpu::embedding(ids, table, scale, y);
}
FACET_INLINE void embedding_backward(View ids, View dy, double scale, Out dtable) {
  on_gpu("embedding_backward", ids, dy, dtable)
      ? gpu::embedding_backward(ids, dy, scale, dtable)
      : cpu::embedding_backward(ids, dy, scale, dtable);
}
}  // namespace facet

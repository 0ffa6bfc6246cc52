// gemm: the one door for matrix products.
//
//   c (+)= alpha * a b         a [M, P], b [P, N], c [M, N]; c[m, n] = sum over p of a[m, p] b[p, n]
//   gradient of y = x w^T      dx = dy w, dw = dy^T x: again products; a transpose is a pair of swapped strides
//
// Layouts: any strides for a, b and c (stride 0 included for a and b); fastest where one stride of each is 1. c aliases nothing.
// Dtypes: all f64; or each of a, b, c f32 or bf16. bf16 operands are widened while they are packed, sums are f32, and a bf16 c
// is rounded once, after the last term and the "+=".
//
// Order of summation: P is cut into blocks whose size depends on P and the tier alone; within a block the terms are added one
// after the other into one accumulator, then alpha * block is added to c. So the bits of c[m, n] depend on row m of a, column n
// of b and the tier, but not on M, N, strides, the number of threads or the product's neighbours: a row alone equals the same
// row of a batch, and linear() over several weights equals several calls. (f64 goes through Eigen, where this holds for the
// number of threads only.)
//
// On the GPU (tensor/gpu/gemm.cpp tells who computes what): the same layouts, f32 and bf16 in any mixture. Sums are f32, one rounding; f32
// is multiplied as f32 (no TF32), f32 with bf16 as exactly. The same call gives the same bits in every run unless gpu::set_deterministic(false);
// up to 16 rows, and wherever cuBLASLt does not serve, always. There, too, a row's bits do not depend on its neighbours; cuBLASLt promises
// nothing of the kind. linear() is one kernel for up to 16 rows and four weights; beyond, one product per weight, or one for all whose
// weights and outputs lie side by side in memory.
//
// Errors: ranks, shapes or dtypes that do not fit throw Error(Kind::usage).
#pragma once
#include <span>

#include "tensor/kernels/door.h"
#include "tensor/view.h"

namespace facet {

/// The same window with its last two dimensions swapped.
FACET_INLINE View transposed(View v) {
  const int i = v.shape.rank - 2, j = v.shape.rank - 1;
  const int64_t d = v.shape.dim[i], s = v.stride.dim[i];
  v.shape.dim[i] = v.shape.dim[j], v.stride.dim[i] = v.stride.dim[j];
  v.shape.dim[j] = d, v.stride.dim[j] = s;
  return v;
}

namespace cpu {

void gemm(View a, View b, Out c, double alpha = 1);

/// The same for every index of the leading dimensions: a [.., M, P], b [.., P, N], c [.., M, N]. Leading dimensions broadcast
/// (aligned at the right, size 1 or missing repeats); where c repeats, the products are summed in index order, which makes this
/// its own gradient.
void gemm_batched(View a, View b, Out c, double alpha = 1);

/// y[i] (+)= x w[i]^T in one pass over x: x [N, I], w[i] [O_i, I], y[i] [N, O_i]. Null y[i] are skipped.
void linear(View x, std::span<const View> w, std::span<const Out> y);
/// dx (+)= sum over i of dy[i] w[i], rounded once: dy[i] [N, O_i], w[i] [O_i, I], dx [N, I]. Null dy[i] are skipped.
void linear_dx(std::span<const View> dy, std::span<const View> w, Out dx);
/// dw (+)= dy^T x: dy [N, O], x [N, I], dw [O, I].
void linear_dw(View dy, View x, Out dw);

}  // namespace cpu
namespace gpu {
void gemm(View a, View b, Out c, double alpha);
void gemm_batched(View a, View b, Out c, double alpha);
void linear(View x, std::span<const View> w, std::span<const Out> y);
void linear_dx(std::span<const View> dy, std::span<const View> w, Out dx);
void linear_dw(View dy, View x, Out dw);
}  // namespace gpu
FACET_INLINE void gemm(View a, View b, Out c, double alpha = 1) {
  on_gpu("gemm", a, b, c) ? gpu::gemm(a, b, c, alpha) : cpu::gemm(a, b, c, alpha);
}
FACET_INLINE void gemm_batched(View a, View b, Out c, double alpha = 1) {
  on_gpu("gemm_batched", a, b, c) ? gpu::gemm_batched(a, b, c, alpha) : cpu::gemm_batched(a, b, c, alpha);
}
FACET_INLINE void linear(View x, std::span<const View> w, std::span<const Out> y) {
  on_gpu("linear", x, w, y) ? gpu::linear(x, w, y) : cpu::linear(x, w, y);
}
FACET_INLINE void linear_dx(std::span<const View> dy, std::span<const View> w, Out dx) {
  on_gpu("linear_dx", dy, w, dx) ? gpu::linear_dx(dy, w, dx) : cpu::linear_dx(dy, w, dx);
}
FACET_INLINE void linear_dw(View dy, View x, Out dw) {
  on_gpu("linear_dw", dy, x, dw) ? gpu::linear_dw(dy, x, dw) : cpu::linear_dw(dy, x, dw);
}
}  // namespace facet

// Softmax and its relatives along the last dimension; any strides; f32, bf16, f64.
//
//   lse = log sum_j exp(x_j)        softmax = exp(x - lse)        log_softmax = x - lse
//   softmax_grad       dx (+)= y (dy - sum_j dy_j y_j)
//   log_softmax_grad   dx (+)= dy - exp(x - lse) sum_j dy_j
//   logsumexp_grad     dx (+)= dy exp(x - lse)
//
// The largest element is subtracted first, so nothing overflows. Rows of -inf only, as JAX: lse is -inf, softmax and log_softmax
// are NaN. lse, and what it is summed in, is of the accumulation type; values are rounded once, at the store.
// x [.., n]; lse and logsumexp's dy [.., 1]; y may_alias x, dx may_alias dy.
#pragma once
#include "tensor/kernels/door.h"
#include "tensor/view.h"

namespace facet {
namespace cpu {
void softmax(View x, Out y);
void softmax_grad(View dy, View y, Out dx);
void log_softmax(View x, Out y, Out lse);
void log_softmax_grad(View dy, View x, View lse, Out dx);
void logsumexp(View x, Out lse);
void logsumexp_grad(View dy, View x, View lse, Out dx);
}  // namespace cpu
namespace gpu {
void softmax(View x, Out y);
void softmax_grad(View dy, View y, Out dx);
void log_softmax(View x, Out y, Out lse);
void log_softmax_grad(View dy, View x, View lse, Out dx);
void logsumexp(View x, Out lse);
void logsumexp_grad(View dy, View x, View lse, Out dx);
}  // namespace gpu
FACET_INLINE void softmax(View x, Out y) {
  on_gpu("softmax", x, y) ? gpu::softmax(x, y) : cpu::softmax(x, y);
}
FACET_INLINE void softmax_grad(View dy, View y, Out dx) {
  on_gpu("softmax_grad", dy, y, dx) ? gpu::softmax_grad(dy, y, dx) : cpu::softmax_grad(dy, y, dx);
}
FACET_INLINE void log_softmax(View x, Out y, Out lse) {
  on_gpu("log_softmax", x, y, lse) ? gpu::log_softmax(x, y, lse) : cpu::log_softmax(x, y, lse);
}
FACET_INLINE void log_softmax_grad(View dy, View x, View lse, Out dx) {
  on_gpu("log_softmax_grad", dy, x, lse, dx) ? gpu::log_softmax_grad(dy, x, lse, dx) : cpu::log_softmax_grad(dy, x, lse, dx);
}
FACET_INLINE void logsumexp(View x, Out lse) {
  on_gpu("logsumexp", x, lse) ? gpu::logsumexp(x, lse) : cpu::logsumexp(x, lse);
}
FACET_INLINE void logsumexp_grad(View dy, View x, View lse, Out dx) {
  on_gpu("logsumexp_grad", dy, x, lse, dx) ? gpu::logsumexp_grad(dy, x, lse, dx) : cpu::logsumexp_grad(dy, x, lse, dx);
}
}  // namespace facet

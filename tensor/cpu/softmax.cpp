#include "tensor/kernels/softmax.h"

#include "tensor/cpu/map_rows.h"

namespace facet::cpu {

void softmax(View x, Out y) { map_rows(softmax_row(x.dtype), {x}, {y}); }
void softmax_grad(View dy, View y, Out dx) {
  if (dx) map_rows(softmax_grad_row(dy.dtype), {dy, y}, {dx});
}
void log_softmax(View x, Out y, Out lse) { map_rows(log_softmax_row(x.dtype), {x}, {y, lse}); }
void log_softmax_grad(View dy, View x, View lse, Out dx) {
  if (dx) map_rows(log_softmax_grad_row(dy.dtype), {dy, x, lse}, {dx});
}
void logsumexp(View x, Out lse) { map_rows(logsumexp_row(x.dtype), {x}, {lse}); }
void logsumexp_grad(View dy, View x, View lse, Out dx) {
  if (dx) map_rows(logsumexp_grad_row(x.dtype), {x, dy, lse}, {dx});
}

}  // namespace facet::cpu

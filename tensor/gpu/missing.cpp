// Kernels whose GPU body is still to be written: they say so. The list shrinks to nothing.
#include "tensor/kernels/adamw.h"
#include "tensor/kernels/attention.h"
#include "tensor/kernels/copy.h"
#include "tensor/kernels/dropout.h"
#include "tensor/kernels/elementwise.h"
#include "tensor/kernels/embedding.h"
#include "tensor/kernels/gather.h"
#include "tensor/kernels/gemm.h"
#include "tensor/kernels/logit_rows.h"
#include "tensor/kernels/ring_write.h"
#include "tensor/kernels/select.h"
#include "tensor/kernels/sgd.h"
#include "tensor/kernels/softmax.h"
#include "tensor/kernels/sum_to.h"
#include "tensor/error.h"

namespace facet::gpu {
namespace {
[[noreturn]] void missing(const char* op) {
  fail(Kind::usage, "{}: there is no GPU body yet; move its operands to the CPU", op);
}
}  // namespace

// tensor/kernels/adamw.h
void adamw(Out, Out, View, Out, Out, const AdamwStep&) { missing("adamw"); }
void sum_of_squares(View, Out) { missing("sum_of_squares"); }
// tensor/kernels/attention.h
void attention_forward(const AttentionInputs&, Out, Out) { missing("attention_forward"); }
void attention_backward(const AttentionInputs&, View, View, View, Out, Out, Out) { missing("attention_backward"); }
// tensor/kernels/copy.h
void copy(View, Out) { missing("copy"); }
void fill(Out, double) { missing("fill"); }
// tensor/kernels/dropout.h
void dropout(View, uint32_t, uint32_t, double, Out) { missing("dropout"); }
// tensor/kernels/elementwise.h
void unary(Unary, View, double, Out) { missing("unary"); }
void unary_grad(Unary, View, View, double, Out) { missing("unary_grad"); }
void binary(Binary, View, View, Out) { missing("binary"); }
void binary_grad(Binary, int, View, View, View, Out) { missing("binary_grad"); }
void compare(Compare, View, View, Out) { missing("compare"); }
void where(View, View, View, Out) { missing("where"); }
// tensor/kernels/embedding.h
void embedding(View, View, double, Out) { missing("embedding"); }
void embedding_backward(View, View, double, Out) { missing("embedding_backward"); }
// tensor/kernels/gather.h
void gather(View, int, View, Out) { missing("gather"); }
void scatter_add(View, int, View, Out) { missing("scatter_add"); }
// tensor/kernels/gemm.h
void gemm(View, View, Out, double) { missing("gemm"); }
void gemm_batched(View, View, Out, double) { missing("gemm_batched"); }
void linear(View, std::span<const View>, std::span<const Out>) { missing("linear"); }
void linear_dx(std::span<const View>, std::span<const View>, Out) { missing("linear_dx"); }
void linear_dw(View, View, Out) { missing("linear_dw"); }
// tensor/kernels/logit_rows.h
void logit_stats(Out, View, double, double, bool, Out) { missing("logit_stats"); }
void logit_grad(Out, View, View, double) { missing("logit_grad"); }
void logit_draw(View, View, View, Out) { missing("logit_draw"); }
// tensor/kernels/ring_write.h
void ring_write(View, View, Out, Out) { missing("ring_write"); }
// tensor/kernels/select.h
void max(View, Out) { missing("max"); }
void max_grad(View, View, View, Out) { missing("max_grad"); }
void argmax(View, Out) { missing("argmax"); }
void top_k(View, Out, Out) { missing("top_k"); }
void cumsum(View, bool, Out) { missing("cumsum"); }
// tensor/kernels/sgd.h
void sgd(Out, View, Out, const SgdStep&) { missing("sgd"); }
// tensor/kernels/softmax.h
void softmax(View, Out) { missing("softmax"); }
void softmax_grad(View, View, Out) { missing("softmax_grad"); }
void log_softmax(View, Out, Out) { missing("log_softmax"); }
void log_softmax_grad(View, View, View, Out) { missing("log_softmax_grad"); }
void logsumexp(View, Out) { missing("logsumexp"); }
void logsumexp_grad(View, View, View, Out) { missing("logsumexp_grad"); }
// tensor/kernels/sum_to.h
void sum_to(View, Out) { missing("sum_to"); }

}  // namespace facet::gpu

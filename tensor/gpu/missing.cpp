// Kernels whose GPU body is still to be written: they say so. The list shrinks to nothing.
#include "tensor/kernels/adamw.h"
#include "tensor/kernels/dropout.h"
#include "tensor/kernels/logit_rows.h"
#include "tensor/kernels/sgd.h"
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
// tensor/kernels/dropout.h
void dropout(View, uint32_t, uint32_t, double, Out) { missing("dropout"); }
// tensor/kernels/logit_rows.h
void logit_stats(Out, View, double, double, bool, Out) { missing("logit_stats"); }
void logit_grad(Out, View, View, double) { missing("logit_grad"); }
void logit_draw(View, View, View, Out) { missing("logit_draw"); }
// tensor/kernels/sgd.h
void sgd(Out, View, Out, const SgdStep&) { missing("sgd"); }

}  // namespace facet::gpu

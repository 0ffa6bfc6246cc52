// Kernels whose GPU body is still to be written: they say so. The list shrinks to nothing.
#include "tensor/kernels/logit_rows.h"
#include "tensor/error.h"

namespace facet::gpu {
namespace {
[[noreturn]] void missing(const char* op) {
  fail(Kind::usage, "{}: there is no GPU body yet; move its operands to the CPU", op);
}
}  // namespace

// tensor/kernels/logit_rows.h
void logit_stats(Out, View, double, double, bool, Out) { missing("logit_stats"); }
void logit_grad(Out, View, View, double) { missing("logit_grad"); }
void logit_draw(View, View, View, Out) { missing("logit_draw"); }

}  // namespace facet::gpu

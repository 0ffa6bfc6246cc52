#include "tensor/kernels/door.h"

#include <algorithm>

#include "tensor/error.h"
#include "tensor/tensor.h"

namespace facet {
namespace {

/// A copy: the windows are gone when a failure is told.
struct Operation {
  static constexpr int most = 12;
  const char* name = nullptr;
  int operands = 0;
  struct {
    DType dtype;
    Shape shape;
  } operand[most];
};
thread_local Operation last;

}  // namespace

namespace detail {

void mixed_devices(const char* op) {
  fail(Kind::usage, "{}: one operand is on the CPU and another on the GPU; move them to one device with to(Device)", op);
}
void f64_on_gpu(const char* op) { fail(Kind::usage, "{}: f64 is for the CPU (it checks gradients there); use f32 or bf16 on the GPU", op); }

void note_operation(const char* op) { last.name = op, last.operands = 0; }
void note_operand(const View& v) {
  if (!v) return;
  if (last.operands < Operation::most) last.operand[last.operands] = {v.dtype, v.shape};
  ++last.operands;
}

}  // namespace detail

std::string last_gpu_operation() {
  if (!last.name) return {};
  std::string text = last.name;
  for (int i = 0; i < std::min(last.operands, Operation::most); ++i)
    text += fmt::format("{}{} {}", i == 0 ? " of " : ", ", name_of(last.operand[i].dtype), to_string(last.operand[i].shape));
  return last.operands > Operation::most ? text + ", ..." : text;
}

}  // namespace facet

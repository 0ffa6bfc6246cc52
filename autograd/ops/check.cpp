#include "autograd/ops/check.h"

namespace facet {
namespace {
void check_present(const char* op, const char* name, const Tensor& t) {
  if (!t) fail(Kind::usage, "{}: {} is absent", op, name);
}
}  // namespace

void check_floating(const char* op, const char* name, const Tensor& t) {
  check_present(op, name, t);
  if (t.dtype() == DType::i32)
    fail(Kind::usage, "{}: {} is i32 {}; expected f32, bf16 or f64, cast() it first", op, name, to_string(t.shape()));
}

void check_i32(const char* op, const char* name, const Tensor& t) {
  check_present(op, name, t);
  if (t.dtype() != DType::i32)
    fail(Kind::usage, "{}: {} is {} {}; expected i32", op, name, name_of(t.dtype()), to_string(t.shape()));
}

void check_same_dtype(const char* op, const char* a_name, const Tensor& a, const char* b_name, const Tensor& b) {
  check_present(op, a_name, a);
  check_present(op, b_name, b);
  if (a.dtype() != b.dtype())
    fail(Kind::usage, "{}: {} is {} {} and {} is {} {}; dtypes must agree, cast() one of them", op, a_name, name_of(a.dtype()),
         to_string(a.shape()), b_name, name_of(b.dtype()), to_string(b.shape()));
}

}  // namespace facet

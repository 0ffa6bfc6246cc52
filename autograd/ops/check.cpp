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

void check_projection(const char* op, const Tensor& x, const char* name, const Tensor& w) {
  check_present(op, "x", x);
  check_present(op, name, w);
  if (x.rank() < 1 || w.rank() != 2 || x.dim(-1) != w.dim(1))
    fail(Kind::usage, "{}: x {} and {} {}: expected x [.., I] and {} [O, I]", op, to_string(x.shape()), name, to_string(w.shape()), name);
  const bool widened = x.dtype() == DType::f32 && w.dtype() == DType::bf16;
  if (x.dtype() == DType::i32 || (x.dtype() != w.dtype() && !widened))
    fail(Kind::usage, "{}: x is {}, {} is {}: expected one floating dtype, or bf16 weights under f32; cast one of them", op, name_of(x.dtype()), name,
         name_of(w.dtype()));
}

void check_same_dtype(const char* op, const char* a_name, const Tensor& a, const char* b_name, const Tensor& b) {
  check_present(op, a_name, a);
  check_present(op, b_name, b);
  if (a.dtype() != b.dtype())
    fail(Kind::usage, "{}: {} is {} {} and {} is {} {}; dtypes must agree, cast() one of them", op, a_name, name_of(a.dtype()),
         to_string(a.shape()), b_name, name_of(b.dtype()), to_string(b.shape()));
}

}  // namespace facet

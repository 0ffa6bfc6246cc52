// Elementwise operations: y (+)= f(a, b, c), one formula per element. Operands broadcast to y (numpy rules), any strides.
//
// f32, bf16 and f64, all operands and y of one dtype unless a line says otherwise. bf16 is widened to f32, and there is one
// rounding, at the store. y may_alias an operand that is the same window.
//
// The gradient of y = f(x) needs f'(x), told from x or from y: saved_by(). From y only where the rounding of y does not blow
// up in f': 1 - tanh^2 of a rounded bf16 tanh would have lost all its digits at x = 3.
#pragma once
#include "tensor/kernels/door.h"
#include "tensor/view.h"

namespace facet {

enum class Unary : uint8_t {
  add, mul, pow,                                    // x + s, x * s, x^s
  exp, log, tanh, sqrt, rsqrt, square, abs, sin, cos,
  sigmoid, log_sigmoid, softplus, relu, silu, gelu_tanh, gelu_erf,
  softcap,                                          // s * tanh(x / s)
};
enum class Binary : uint8_t { add, sub, mul, div, maximum, minimum, pow };
enum class Compare : uint8_t { equal, less, less_equal };

enum class Saves : uint8_t { nothing, input, output };
/// What unary_grad wants to see for `saved`.
constexpr Saves saved_by(Unary op) {
  switch (op) {
    case Unary::add: case Unary::mul: return Saves::nothing;
    case Unary::exp: case Unary::sqrt: case Unary::relu: return Saves::output;
    default: return Saves::input;
  }
}

namespace cpu {
void unary(Unary, View x, double s, Out y);
/// dx (+)= dy f'(saved; s). For `add` and `mul` there is nothing to save: they are their own derivatives.
void unary_grad(Unary, View dy, View saved, double s, Out dx);

void binary(Binary, View a, View b, Out y);
/// dx (+)= dy df/da (which = 0) or dy df/db (which = 1), for mul, div, maximum, minimum, pow. dx has dy's shape: sum_to follows
/// where an operand was broadcast. mul reads only the partner of `which`, div only b for da: the other may be absent.
/// maximum and minimum: half to each at ties.
void binary_grad(Binary, int which, View dy, View a, View b, Out dx);

/// y i32 (0 or 1); a and b of one dtype, i32 included. NaN compares false.
void compare(Compare, View a, View b, Out y);
/// y = condition != 0 ? a : b; condition i32. Any dtype.
void where(View condition, View a, View b, Out y);
}  // namespace cpu
namespace gpu {
void unary(Unary op, View x, double s, Out y);
void unary_grad(Unary op, View dy, View saved, double s, Out dx);
void binary(Binary op, View a, View b, Out y);
void binary_grad(Binary op, int which, View dy, View a, View b, Out dx);
void compare(Compare op, View a, View b, Out y);
void where(View condition, View a, View b, Out y);
}  // namespace gpu
FACET_INLINE void unary(Unary op, View x, double s, Out y) {
  on_gpu("unary", x, y) ? gpu::unary(op, x, s, y) : cpu::unary(op, x, s, y);
}
FACET_INLINE void unary_grad(Unary op, View dy, View saved, double s, Out dx) {
  on_gpu("unary_grad", dy, saved, dx) ? gpu::unary_grad(op, dy, saved, s, dx) : cpu::unary_grad(op, dy, saved, s, dx);
}
FACET_INLINE void binary(Binary op, View a, View b, Out y) {
  on_gpu("binary", a, b, y) ? gpu::binary(op, a, b, y) : cpu::binary(op, a, b, y);
}
FACET_INLINE void binary_grad(Binary op, int which, View dy, View a, View b, Out dx) {
  on_gpu("binary_grad", dy, a, b, dx) ? gpu::binary_grad(op, which, dy, a, b, dx) : cpu::binary_grad(op, which, dy, a, b, dx);
}
FACET_INLINE void compare(Compare op, View a, View b, Out y) {
  on_gpu("compare", a, b, y) ? gpu::compare(op, a, b, y) : cpu::compare(op, a, b, y);
}
FACET_INLINE void where(View condition, View a, View b, Out y) {
  on_gpu("where", condition, a, b, y) ? gpu::where(condition, a, b, y) : cpu::where(condition, a, b, y);
}
}  // namespace facet

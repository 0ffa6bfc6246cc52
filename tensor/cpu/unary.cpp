// One operand, compiled in tiers: tensor/formulas.h has the formulas.
#include "tensor/cpu/map.h"
#include "tensor/cpu/simd.h"
#include "tensor/formulas.h"

namespace facet::cpu::FACET_TIER {
namespace {

template <class T, class Op>
void value_row(int64_t n, const void* const* x, double s, void* y, bool accumulate) {
  const T* px = static_cast<const T*>(x[0]);
  T* py = static_cast<T*>(y);
  for_row<T>(n, [&](int64_t i, auto part) { put(py + i, Op::value(load(px + i, part), s), part, accumulate); });
}
template <class T, class Op>
void slope_row(int64_t n, const void* const* x, double s, void* y, bool accumulate) {
  const T *dy = static_cast<const T*>(x[0]), *saved = static_cast<const T*>(x[1]);
  T* dx = static_cast<T*>(y);
  for_row<T>(n, [&](int64_t i, auto part) {
    put(dx + i, load(dy + i, part) * Op::slope(load(saved + i, part), s), part, accumulate);
  });
}

struct Values {
  template <class T, class Op> static RowFn row() { return value_row<T, Op>; }
};
struct Slopes {
  template <class T, class Op> static RowFn row() { return slope_row<T, Op>; }
};

template <class What, class T>
RowFn choose(Unary op) {
  return formula::unary::choose(op, [](auto f) -> RowFn { return What::template row<T, decltype(f)>(); });
}
template <class What>
RowFn choose(Unary op, DType t) {
  return t == DType::f64 ? choose<What, double>(op) : t == DType::bf16 ? choose<What, bf16>(op) : choose<What, float>(op);
}

}  // namespace

RowFn unary_row(Unary op, DType t) { return choose<Values>(op, t); }
RowFn unary_grad_row(Unary op, DType t) { return choose<Slopes>(op, t); }

}  // namespace facet::cpu::FACET_TIER
FACET_TIERED(unary_row)
FACET_TIERED(unary_grad_row)

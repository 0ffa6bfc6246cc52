// Two operands, comparisons, choice, compiled in tiers: tensor/formulas.h has the formulas.
#include "tensor/cpu/map.h"
#include "tensor/cpu/simd.h"
#include "tensor/formulas.h"

namespace facet::cpu::FACET_TIER {
namespace {

template <class T, class Op>
void value_row(int64_t n, const void* const* x, double, void* y, bool accumulate) {
  const T *a = static_cast<const T*>(x[0]), *b = static_cast<const T*>(x[1]);
  T* py = static_cast<T*>(y);
  for_row<T>(n, [&](int64_t i, auto part) {
    put(py + i, Op::value(load(a + i, part), load(b + i, part)), part, accumulate);
  });
}
template <class T, class Op, int which>
void slope_row(int64_t n, const void* const* x, double, void* y, bool accumulate) {
  const T *dy = static_cast<const T*>(x[0]), *pa = static_cast<const T*>(x[1]), *pb = static_cast<const T*>(x[2]);
  T* d = static_cast<T*>(y);
  for_row<T>(n, [&](int64_t i, auto part) {
    const Vec<T> a = load(pa + i, part), b = load(pb + i, part);
    if constexpr (which == 0) put(d + i, load(dy + i, part) * Op::da(a, b), part, accumulate);
    else put(d + i, load(dy + i, part) * Op::db(a, b), part, accumulate);
  });
}

template <class T>
RowFn value_of(Binary op) {
  return formula::binary::choose(op, [](auto f) -> RowFn { return value_row<T, decltype(f)>; });
}
template <class T, int which>
RowFn slope_of(Binary op) {
  return formula::binary::choose(op, [](auto f) -> RowFn {
    if constexpr (requires { f.da(1.0, 1.0); }) return slope_row<T, decltype(f), which>;
    else return nullptr;  // add and sub pass dy on
  });
}

struct Equal { template <class A> static FACET_INLINE bool holds(A a, A b) { return a == b; } };
struct Less { template <class A> static FACET_INLINE bool holds(A a, A b) { return a < b; } };
struct LessEqual { template <class A> static FACET_INLINE bool holds(A a, A b) { return a <= b; } };

template <class T, class Op>
void compare_one(int64_t n, const void* const* x, double, void* y, bool) {
  using A = std::conditional_t<std::is_same_v<T, bf16>, float, T>;
  const T *a = static_cast<const T*>(x[0]), *b = static_cast<const T*>(x[1]);
  int32_t* p = static_cast<int32_t*>(y);
  for (int64_t i = 0; i < n; ++i) p[i] = Op::holds(convert<A>(a[i]), convert<A>(b[i]));
}
template <class T>
RowFn compare_of(Compare op) {
  return op == Compare::equal ? compare_one<T, Equal> : op == Compare::less ? compare_one<T, Less> : compare_one<T, LessEqual>;
}

// Only moves bits, so elements of one size share a body. Written for accumulating sinks too, where T can add.
template <class T>
void where_one(int64_t n, const void* const* x, double, void* y, bool accumulate) {
  using A = std::conditional_t<std::is_same_v<T, bf16>, float, T>;
  const int32_t* c = static_cast<const int32_t*>(x[0]);
  const T *a = static_cast<const T*>(x[1]), *b = static_cast<const T*>(x[2]);
  T* p = static_cast<T*>(y);
  if (accumulate)
    for (int64_t i = 0; i < n; ++i) p[i] = convert<T>(convert<A>(p[i]) + convert<A>(c[i] ? a[i] : b[i]));
  else
    for (int64_t i = 0; i < n; ++i) p[i] = c[i] ? a[i] : b[i];
}

}  // namespace

RowFn binary_row(Binary op, DType t) {
  return t == DType::f64 ? value_of<double>(op) : t == DType::bf16 ? value_of<bf16>(op) : value_of<float>(op);
}
RowFn binary_grad_row(Binary op, int which, DType t) {
  if (which == 0) return t == DType::f64 ? slope_of<double, 0>(op) : t == DType::bf16 ? slope_of<bf16, 0>(op) : slope_of<float, 0>(op);
  return t == DType::f64 ? slope_of<double, 1>(op) : t == DType::bf16 ? slope_of<bf16, 1>(op) : slope_of<float, 1>(op);
}
RowFn compare_row(Compare op, DType t) {
  switch (t) {
    case DType::f64: return compare_of<double>(op);
    case DType::bf16: return compare_of<bf16>(op);
    case DType::i32: return compare_of<int32_t>(op);
    default: return compare_of<float>(op);
  }
}
RowFn where_row(DType t) {
  switch (t) {
    case DType::f64: return where_one<double>;
    case DType::bf16: return where_one<bf16>;
    case DType::i32: return where_one<int32_t>;
    default: return where_one<float>;
  }
}

}  // namespace facet::cpu::FACET_TIER
FACET_TIERED(binary_row)
FACET_TIERED(binary_grad_row)
FACET_TIERED(compare_row)
FACET_TIERED(where_row)

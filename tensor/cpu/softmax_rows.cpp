#include "tensor/cpu/map_rows.h"
#include "tensor/cpu/simd.h"

namespace facet::cpu::FACET_TIER {
namespace {

using math::num;

/// Like load, with -inf beyond the end of the row.
template <class T>
FACET_INLINE Vec<T> load_logits(const T* p, All part) {
  return load(p, part);
}
template <class T>
FACET_INLINE Vec<T> load_logits(const T* p, Some part) {
  if constexpr (std::is_same_v<T, double>) return *p;
  else return select(iota() < part.n, load(p, part), num<vf>(-__builtin_inf()));
}

template <class T>
Acc<T> lse_of(const T* x, int64_t n) {
  constexpr double inf = __builtin_inf();
  Vec<T> m = num<Vec<T>>(-inf);
  for_row<T>(n, [&](int64_t i, auto part) { m = max(load_logits(x + i, part), m); });
  Acc<T> shift = reduce_max(m);
  if (!(shift > -inf && shift < inf)) shift = 0;  // exp then gives 0 or infinity, and so does the sum
  const Vec<T> s = broadcast<T>(shift);
  Vec<T> total{};
  for_row<T>(n, [&](int64_t i, auto part) { total += math::exp(load_logits(x + i, part) - s); });
  return shift + math::log(reduce_add(total));
}

template <class T>
void softmax_one(const Row& r) {
  const T* x = static_cast<const T*>(r.x[0]);
  T* y = static_cast<T*>(r.y[0]);
  Vec<T> m = num<Vec<T>>(-__builtin_inf());
  for_row<T>(r.n, [&](int64_t i, auto part) { m = max(load_logits(x + i, part), m); });
  m = broadcast<T>(reduce_max(m));
  Vec<T> total{};
  for_row<T>(r.n, [&](int64_t i, auto part) { total += math::exp(load_logits(x + i, part) - m); });
  const Vec<T> scale = broadcast<T>(1 / reduce_add(total));
  for_row<T>(r.n, [&](int64_t i, auto part) { put(y + i, math::exp(load(x + i, part) - m) * scale, part, r.accumulate); });
}

template <class T>
void softmax_grad_one(const Row& r) {
  const T *dy = static_cast<const T*>(r.x[0]), *y = static_cast<const T*>(r.x[1]);
  T* dx = static_cast<T*>(r.y[0]);
  Vec<T> dot{};
  for_row<T>(r.n, [&](int64_t i, auto part) { dot += load(dy + i, part) * load(y + i, part); });
  const Vec<T> mean = broadcast<T>(reduce_add(dot));
  for_row<T>(r.n, [&](int64_t i, auto part) { put(dx + i, load(y + i, part) * (load(dy + i, part) - mean), part, r.accumulate); });
}

template <class T>
void log_softmax_one(const Row& r) {
  const T* x = static_cast<const T*>(r.x[0]);
  T* y = static_cast<T*>(r.y[0]);
  Acc<T> lse = lse_of(x, r.n);
  if (!(lse - lse == 0)) lse = __builtin_nan("");
  *static_cast<Acc<T>*>(r.y[1]) = lse;
  const Vec<T> l = broadcast<T>(lse);
  for_row<T>(r.n, [&](int64_t i, auto part) { put(y + i, load(x + i, part) - l, part, r.accumulate); });
}

template <class T>
void log_softmax_grad_one(const Row& r) {
  const T *dy = static_cast<const T*>(r.x[0]), *x = static_cast<const T*>(r.x[1]);
  const Vec<T> lse = broadcast<T>(*static_cast<const Acc<T>*>(r.x[2]));
  T* dx = static_cast<T*>(r.y[0]);
  Vec<T> sum{};
  for_row<T>(r.n, [&](int64_t i, auto part) { sum += load(dy + i, part); });
  const Vec<T> total = broadcast<T>(reduce_add(sum));
  for_row<T>(r.n, [&](int64_t i, auto part) {
    put(dx + i, load(dy + i, part) - math::exp(load(x + i, part) - lse) * total, part, r.accumulate);
  });
}

template <class T>
void logsumexp_one(const Row& r) {
  *static_cast<Acc<T>*>(r.y[0]) = lse_of(static_cast<const T*>(r.x[0]), r.n);
}

template <class T>
void logsumexp_grad_one(const Row& r) {
  const T* x = static_cast<const T*>(r.x[0]);
  const Vec<T> dy = broadcast<T>(convert<Acc<T>>(*static_cast<const T*>(r.x[1])));
  const Vec<T> lse = broadcast<T>(*static_cast<const Acc<T>*>(r.x[2]));
  T* dx = static_cast<T*>(r.y[0]);
  for_row<T>(r.n, [&](int64_t i, auto part) { put(dx + i, dy * math::exp(load(x + i, part) - lse), part, r.accumulate); });
}

}  // namespace

RowsFn softmax_row(DType t) { return t == DType::f64 ? softmax_one<double> : t == DType::bf16 ? softmax_one<bf16> : softmax_one<float>; }
RowsFn softmax_grad_row(DType t) { return t == DType::f64 ? softmax_grad_one<double> : t == DType::bf16 ? softmax_grad_one<bf16> : softmax_grad_one<float>; }
RowsFn log_softmax_row(DType t) { return t == DType::f64 ? log_softmax_one<double> : t == DType::bf16 ? log_softmax_one<bf16> : log_softmax_one<float>; }
RowsFn log_softmax_grad_row(DType t) { return t == DType::f64 ? log_softmax_grad_one<double> : t == DType::bf16 ? log_softmax_grad_one<bf16> : log_softmax_grad_one<float>; }
RowsFn logsumexp_row(DType t) { return t == DType::f64 ? logsumexp_one<double> : t == DType::bf16 ? logsumexp_one<bf16> : logsumexp_one<float>; }
RowsFn logsumexp_grad_row(DType t) { return t == DType::f64 ? logsumexp_grad_one<double> : t == DType::bf16 ? logsumexp_grad_one<bf16> : logsumexp_grad_one<float>; }

}  // namespace facet::cpu::FACET_TIER
FACET_TIERED(softmax_row)
FACET_TIERED(softmax_grad_row)
FACET_TIERED(log_softmax_row)
FACET_TIERED(log_softmax_grad_row)
FACET_TIERED(logsumexp_row)
FACET_TIERED(logsumexp_grad_row)

#include "tensor/kernels/select.h"

#include <algorithm>
#include <numeric>

#include "tensor/cpu/bf16.h"
#include "tensor/cpu/map_rows.h"
#include "tensor/storage.h"

namespace facet::cpu {
namespace {

// NaN counts as larger than everything.
template <class A>
bool larger(A a, A b) {
  return a > b || (a != a && b == b);
}

template <class T>
int64_t first_largest(const T* x, int64_t n) {
  int64_t best = 0;
  Acc<T> top = convert<Acc<T>>(x[0]);
  for (int64_t i = 1; i < n; ++i) {
    const Acc<T> v = convert<Acc<T>>(x[i]);
    if (larger(v, top)) {
      top = v;
      best = i;
    }
  }
  return best;
}

template <class T>
void max_one(const Row& r) {
  const T* x = static_cast<const T*>(r.x[0]);
  T* y = static_cast<T*>(r.y[0]);
  *y = x[first_largest(x, r.n)];
}
template <class T>
void argmax_one(const Row& r) {
  *static_cast<int32_t*>(r.y[0]) = static_cast<int32_t>(first_largest(static_cast<const T*>(r.x[0]), r.n));
}

template <class T>
void max_grad_one(const Row& r) {
  using A = Acc<T>;
  const T* x = static_cast<const T*>(r.x[0]);
  const A dy = convert<A>(*static_cast<const T*>(r.x[1])), y = convert<A>(*static_cast<const T*>(r.x[2]));
  T* dx = static_cast<T*>(r.y[0]);
  int64_t count = 0;
  for (int64_t i = 0; i < r.n; ++i) count += convert<A>(x[i]) == y;
  const A share = dy / static_cast<A>(std::max<int64_t>(1, count));
  for (int64_t i = 0; i < r.n; ++i) {
    const A v = convert<A>(x[i]) == y ? share : A{0};
    dx[i] = convert<T>(r.accumulate ? convert<A>(dx[i]) + v : v);
  }
}

template <class T>
void top_k_one(const Row& r) {
  const T* x = static_cast<const T*>(r.x[0]);
  T* values = static_cast<T*>(r.y[0]);
  int32_t* indices = static_cast<int32_t*>(r.y[1]);
  const Scratch scratch(static_cast<size_t>(r.n) * sizeof(int32_t));
  int32_t* order = scratch.as<int32_t>();
  std::iota(order, order + r.n, 0);
  std::partial_sort(order, order + r.k, order + r.n, [&](int32_t i, int32_t j) {
    const Acc<T> a = convert<Acc<T>>(x[i]), b = convert<Acc<T>>(x[j]);
    return larger(a, b) || (!larger(b, a) && i < j);
  });
  for (int64_t i = 0; i < r.k; ++i) {
    values[i] = x[order[i]];
    indices[i] = order[i];
  }
}

template <class T, bool reverse>
void cumsum_one(const Row& r) {
  using A = Acc<T>;
  const T* x = static_cast<const T*>(r.x[0]);
  T* y = static_cast<T*>(r.y[0]);
  A sum = 0;
  for (int64_t k = 0; k < r.n; ++k) {
    const int64_t i = reverse ? r.n - 1 - k : k;
    sum += convert<A>(x[i]);
    y[i] = convert<T>(r.accumulate ? convert<A>(y[i]) + sum : sum);
  }
}

}  // namespace

void max(View x, Out y) {
  by_float_dtype(x.dtype, [&](auto t) { map_rows(max_one<decltype(t)>, {x}, {y}); });
}
void max_grad(View dy, View x, View y, Out dx) {
  if (!dx) return;
  by_float_dtype(x.dtype, [&](auto t) { map_rows(max_grad_one<decltype(t)>, {x, dy, y}, {dx}); });
}
void argmax(View x, Out y) {
  by_float_dtype(x.dtype, [&](auto t) { map_rows(argmax_one<decltype(t)>, {x}, {y}); });
}
void top_k(View x, Out values, Out indices) {
  by_float_dtype(x.dtype, [&](auto t) { map_rows(top_k_one<decltype(t)>, {x}, {values, indices}); });
}
void cumsum(View x, bool reverse, Out y) {
  if (!y) return;
  by_float_dtype(x.dtype, [&](auto t) {
    using T = decltype(t);
    map_rows(reverse ? cumsum_one<T, true> : cumsum_one<T, false>, {x}, {y});
  });
}

}  // namespace facet::cpu

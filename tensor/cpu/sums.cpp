#include "tensor/cpu/sums.h"

#include "tensor/cpu/simd.h"

namespace facet::cpu::FACET_TIER {
namespace {

template <class T>
void run(const T* x, int64_t stride, int64_t n, Acc<T>* total) {
  if (stride != 1) {
    Acc<T> s[4] = {};
    int64_t i = 0;
    for (; i + 4 <= n; i += 4)
      for (int k = 0; k < 4; ++k) s[k] += convert<Acc<T>>(x[(i + k) * stride]);
    for (; i < n; ++i) s[0] += convert<Acc<T>>(x[i * stride]);
    *total += (s[0] + s[1]) + (s[2] + s[3]);
    return;
  }
  constexpr int64_t w = width<T>;
  Vec<T> s[4] = {};
  int64_t i = 0;
  for (; i + 4 * w <= n; i += 4 * w)
    for (int k = 0; k < 4; ++k) s[k] += load(x + i + k * w);
  for_row<T>(n - i, [&](int64_t j, auto part) { s[0] += load(x + i + j, part); });
  *total += reduce_add((s[0] + s[1]) + (s[2] + s[3]));
}

template <class T>
void columns(const T* x, int64_t row_stride, int64_t rows, int64_t stride, int64_t n, Acc<T>* acc) {
  if (stride != 1) {
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < n; ++c) acc[c] += convert<Acc<T>>(x[r * row_stride + c * stride]);
    return;
  }
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) {
    const T *a = x + r * row_stride, *b = a + row_stride, *c = b + row_stride, *d = c + row_stride;
    for_row<T>(n, [&](int64_t i, auto part) {
      store(acc + i, load(acc + i, part) + ((load(a + i, part) + load(b + i, part)) + (load(c + i, part) + load(d + i, part))), part);
    });
  }
  for (; r < rows; ++r)
    for_row<T>(n, [&](int64_t i, auto part) { store(acc + i, load(acc + i, part) + load(x + r * row_stride + i, part), part); });
}

}  // namespace

void sum_run(DType t, const void* x, int64_t stride, int64_t n, void* total) {
  by_float_dtype(t, [&](auto e) {
    using T = decltype(e);
    run(static_cast<const T*>(x), stride, n, static_cast<Acc<T>*>(total));
  });
}
void sum_columns(DType t, const void* x, int64_t row_stride, int64_t rows, int64_t stride, int64_t n, void* acc) {
  by_float_dtype(t, [&](auto e) {
    using T = decltype(e);
    columns(static_cast<const T*>(x), row_stride, rows, stride, n, static_cast<Acc<T>*>(acc));
  });
}

}  // namespace facet::cpu::FACET_TIER
FACET_TIERED(sum_run)
FACET_TIERED(sum_columns)

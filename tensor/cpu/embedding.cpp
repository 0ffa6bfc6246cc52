#include "tensor/kernels/embedding.h"

#include "tensor/cpu/rows.h"
#include "tensor/cpu/simd.h"
#include "tensor/parallel.h"

namespace facet::cpu::FACET_TIER {
namespace {

template <class W, class T>
void forward(const View& ids, const View& table, double scale, const Out& y) {
  const int64_t n = ids.numel(), d = table.shape.dim[1], row = table.stride.dim[0];
  const Vec<T> k = broadcast<T>(static_cast<Acc<T>>(scale));
  parallel_for(n, d >= 8192 ? 1 : 8192 / d, d, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const W* const from = table.as<W>() + ids.as<int32_t>()[r] * row;
      T* const to = y.as<T>() + r * d;
      for_row<T>(d, [&](int64_t i, auto part) { put(to + i, load(from + i, part) * k, part, y.accumulate); });
    }
  });
}

template <class T, class G>
void backward(const View& ids, const View& dy, double scale, const Out& dtable) {
  const Rows rows(dy);
  const int64_t d = rows.d;
  const Vec<T> k = broadcast<T>(static_cast<Acc<T>>(scale));
  parallel_for(d, 64, rows.n, [&](int64_t begin, int64_t end) {
    for (int64_t r = 0; r < rows.n; ++r) {
      const T* const from = dy.as<T>() + rows.at(r) + begin;
      G* const to = dtable.as<G>() + ids.as<int32_t>()[r] * d + begin;
      for_row<T>(end - begin, [&](int64_t i, auto part) { put(to + i, load(from + i, part) * k, part, true); });
    }
  });
}

/// f(A{}, B{}) for the pairs of dtypes the header allows.
template <class F>
FACET_INLINE void by_pair(DType a, DType b, F&& f) {
  if (a == DType::f64) f(double{}, double{});
  else if (a == DType::f32 && b == DType::f32) f(float{}, float{});
  else if (a == DType::f32) f(float{}, bf16{});
  else if (b == DType::f32) f(bf16{}, float{});
  else f(bf16{}, bf16{});
}

}  // namespace

void embedding(View ids, View table, double scale, Out y) {
  by_pair(table.dtype, y.dtype, [&](auto w, auto t) { forward<decltype(w), decltype(t)>(ids, table, scale, y); });
}
void embedding_backward(View ids, View dy, double scale, Out dtable) {
  by_pair(dy.dtype, dtable.dtype, [&](auto t, auto g) { backward<decltype(t), decltype(g)>(ids, dy, scale, dtable); });
}

}  // namespace facet::cpu::FACET_TIER

FACET_TIERED(embedding)
FACET_TIERED(embedding_backward)

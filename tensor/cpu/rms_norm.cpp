#include "tensor/kernels/rms_norm.h"

#include "tensor/cpu/rows.h"
#include "tensor/cpu/simd.h"
#include "tensor/parallel.h"
#include "tensor/scratch.h"

namespace facet::cpu::FACET_TIER {
namespace {

template <class T>
void forward(const View& x, const View& w, double eps, const Out& y, const Out& rstd) {
  using A = Acc<T>;
  const Rows rows(x), y_rows(y);
  const int64_t d = rows.d;
  Scratch scratch(d * sizeof(A));
  A* const scale = scratch.as<A>();
  one_plus(w, d, scale);
  parallel_for(rows.n, rows.chunk(), d, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T* const xr = x.as<T>() + rows.at(r);
      T* const yr = y.as<T>() + y_rows.at(r);
      Vec<T> sum = broadcast<T>(0);
      for_row<T>(d, [&](int64_t i, auto part) {
        const Vec<T> v = load(xr + i, part);
        sum += v * v;
      });
      const A root = 1 / sqrt(reduce_add(sum) / static_cast<A>(d) + static_cast<A>(eps));
      if (rstd) rstd.as<A>()[r] = root;
      const Vec<T> k = broadcast<T>(root);
      for_row<T>(d, [&](int64_t i, auto part) {
        put(yr + i, load(xr + i, part) * k * load(scale + i, part), part, y.accumulate);
      });
    }
  });
}

template <class T>
void backward(const View& dy, const View& x, const View& w, const View& rstd, const Out& dx, const Out& dw) {
  using A = Acc<T>;
  const Rows rows(x), dy_rows(dy), dx_rows(dx ? dx : x);
  const int64_t d = rows.d;
  const Partials blocks(rows.n, rows.chunk());
  Scratch scratch((d + (dw ? blocks.count * d : 0)) * sizeof(A));
  A* const scale = scratch.as<A>();
  A* const partial = scale + d;
  one_plus(w, d, scale);
  parallel_for(rows.n, blocks.chunk, 2 * d, [&](int64_t begin, int64_t end) {
    A* const sums = partial + begin / blocks.chunk * d;
    if (dw)
      for (int64_t i = 0; i < d; ++i) sums[i] = 0;
    for (int64_t r = begin; r < end; ++r) {
      const T* const xr = x.as<T>() + rows.at(r);
      const T* const dyr = dy.as<T>() + dy_rows.at(r);
      const A root = rstd.as<A>()[r];
      const Vec<T> k = broadcast<T>(root);
      if (dw) {
        for_row<T>(d, [&](int64_t i, auto part) {
          store(sums + i, load(sums + i, part) + load(dyr + i, part) * (load(xr + i, part) * k), part);
        });
      }
      if (!dx) continue;
      Vec<T> dot = broadcast<T>(0);
      for_row<T>(d, [&](int64_t i, auto part) { dot += load(dyr + i, part) * load(scale + i, part) * load(xr + i, part); });
      const Vec<T> mean = broadcast<T>(reduce_add(dot) / static_cast<A>(d) * root * root);
      T* const dxr = dx.as<T>() + dx_rows.at(r);
      for_row<T>(d, [&](int64_t i, auto part) {
        const Vec<T> g = load(dyr + i, part) * load(scale + i, part);
        put(dxr + i, (g - load(xr + i, part) * mean) * k, part, dx.accumulate);
      });
    }
  });
  if (!dw) return;
  A* const total = dw.as<A>();
  for_row<A>(d, [&](int64_t i, auto part) {
    Vec<A> sum = broadcast<A>(0);
    for (int64_t b = 0; b < blocks.count; ++b) sum += load(partial + b * d + i, part);
    put(total + i, sum, part, dw.accumulate);
  });
}

}  // namespace

void rms_norm(View x, View w, double eps, Out y, Out rstd) {
  by_float_dtype(x.dtype, [&](auto t) { forward<decltype(t)>(x, w, eps, y, rstd); });
}
void rms_norm_backward(View dy, View x, View w, View rstd, Out dx, Out dw) {
  by_float_dtype(x.dtype, [&](auto t) { backward<decltype(t)>(dy, x, w, rstd, dx, dw); });
}

}  // namespace facet::cpu::FACET_TIER

FACET_TIERED(rms_norm)
FACET_TIERED(rms_norm_backward)

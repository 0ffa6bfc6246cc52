#include "tensor/kernels/layer_norm.h"

#include "tensor/cpu/rows.h"
#include "tensor/cpu/simd.h"
#include "tensor/parallel.h"
#include "tensor/scratch.h"

namespace facet::cpu::FACET_TIER {
namespace {

// A row of any dtype and stride as a dense one of the accumulation type.
template <class A>
void widened(const View& w, int64_t d, A* to) {
  by_float_dtype(w.dtype, [&](auto t) {
    for (int64_t i = 0; i < d; ++i) to[i] = convert<A>(w.as<decltype(t)>()[i * w.stride[-1]]);
  });
}

template <class T>
void forward(const View& x, const View& w, const View& b, double eps, const Out& y, const Out& mean, const Out& rstd) {
  using A = Acc<T>;
  const Rows rows(x);
  const int64_t d = rows.d;
  Scratch scratch(3 * d * sizeof(A));
  A* const scale = scratch.as<A>();
  A* const shift = scale + d;
  A* const ones = shift + d;  // lanes beyond the row load zeros, which would count as deviations
  widened(w, d, scale);
  widened(b, d, shift);
  for (int64_t i = 0; i < d; ++i) ones[i] = 1;
  parallel_for(rows.n, rows.chunk(), 2 * d, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T* const xr = x.as<T>() + rows.at(r);
      T* const yr = y.as<T>() + r * d;
      Vec<T> sum = broadcast<T>(0), squares = broadcast<T>(0);
      for_row<T>(d, [&](int64_t i, auto part) { sum += load(xr + i, part); });
      const A centre = reduce_add(sum) / static_cast<A>(d);
      const Vec<T> c = broadcast<T>(centre);
      for_row<T>(d, [&](int64_t i, auto part) {
        const Vec<T> v = (load(xr + i, part) - c) * load(ones + i, part);
        squares += v * v;
      });
      const A root = 1 / sqrt(reduce_add(squares) / static_cast<A>(d) + static_cast<A>(eps));
      if (mean) mean.as<A>()[r] = centre;
      if (rstd) rstd.as<A>()[r] = root;
      const Vec<T> k = broadcast<T>(root);
      for_row<T>(d, [&](int64_t i, auto part) {
        put(yr + i, (load(xr + i, part) - c) * k * load(scale + i, part) + load(shift + i, part), part, y.accumulate);
      });
    }
  });
}

template <class T>
void backward(const View& dy, const View& x, const View& w, const View& mean, const View& rstd, const Out& dx, const Out& dw,
              const Out& db) {
  using A = Acc<T>;
  const Rows rows(x), dy_rows(dy);
  const int64_t d = rows.d;
  const Partials blocks(rows.n, rows.chunk());
  Scratch scratch((d + 2 * blocks.count * d) * sizeof(A));
  A* const scale = scratch.as<A>();
  A* const partial = scale + d;
  if (dx) widened(w, d, scale);
  parallel_for(rows.n, blocks.chunk, 3 * d, [&](int64_t begin, int64_t end) {
    A* const dw_sums = partial + begin / blocks.chunk * 2 * d;
    A* const db_sums = dw_sums + d;
    for (int64_t i = 0; i < 2 * d; ++i) dw_sums[i] = 0;
    for (int64_t r = begin; r < end; ++r) {
      const T* const xr = x.as<T>() + rows.at(r);
      const T* const dyr = dy.as<T>() + dy_rows.at(r);
      const Vec<T> c = broadcast<T>(mean.as<A>()[r]), k = broadcast<T>(rstd.as<A>()[r]);
      for_row<T>(d, [&](int64_t i, auto part) {
        const Vec<T> g = load(dyr + i, part);
        store(dw_sums + i, load(dw_sums + i, part) + g * ((load(xr + i, part) - c) * k), part);
        store(db_sums + i, load(db_sums + i, part) + g, part);
      });
      if (!dx) continue;
      Vec<T> sum = broadcast<T>(0), dot = broadcast<T>(0);
      for_row<T>(d, [&](int64_t i, auto part) {
        const Vec<T> g = load(dyr + i, part) * load(scale + i, part);
        sum += g;
        dot += g * ((load(xr + i, part) - c) * k);
      });
      const Vec<T> mean_g = broadcast<T>(reduce_add(sum) / static_cast<A>(d));
      const Vec<T> mean_gh = broadcast<T>(reduce_add(dot) / static_cast<A>(d));
      T* const dxr = dx.as<T>() + r * d;
      for_row<T>(d, [&](int64_t i, auto part) {
        const Vec<T> g = load(dyr + i, part) * load(scale + i, part);
        put(dxr + i, (g - mean_g - (load(xr + i, part) - c) * k * mean_gh) * k, part, dx.accumulate);
      });
    }
  });
  const auto total = [&](const Out& out, int64_t first) {
    if (!out) return;
    for_row<A>(d, [&](int64_t i, auto part) {
      Vec<A> sum = broadcast<A>(0);
      for (int64_t b = 0; b < blocks.count; ++b) sum += load(partial + first + b * 2 * d + i, part);
      put(out.as<A>() + i, sum, part, out.accumulate);
    });
  };
  total(dw, 0);
  total(db, d);
}

}  // namespace

void layer_norm(View x, View w, View b, double eps, Out y, Out mean, Out rstd) {
  by_float_dtype(x.dtype, [&](auto t) { forward<decltype(t)>(x, w, b, eps, y, mean, rstd); });
}
void layer_norm_backward(View dy, View x, View w, View mean, View rstd, Out dx, Out dw, Out db) {
  by_float_dtype(x.dtype, [&](auto t) { backward<decltype(t)>(dy, x, w, mean, rstd, dx, dw, db); });
}

}  // namespace facet::cpu::FACET_TIER

FACET_TIERED(layer_norm)
FACET_TIERED(layer_norm_backward)

#include "tensor/kernels/add_rms_norm.h"

#include "tensor/cpu/rows.h"
#include "tensor/cpu/simd.h"
#include "tensor/parallel.h"
#include "tensor/scratch.h"

namespace facet::cpu::FACET_TIER {
namespace {

// 1 / rms of n elements.
template <class T>
Acc<T> inverse_root(Vec<T> squares, int64_t n, double eps) {
  return 1 / sqrt(reduce_add(squares) / static_cast<Acc<T>>(n) + static_cast<Acc<T>>(eps));
}

// As the forward of rms_norm, which reads the sum from the cache where this has just put it.
template <class T, bool norm_h>
void run(const View& x, const View& h, const View& w_h, const View& w, double eps, const Out& sum, const Out& y, const Out& rstd_h, const Out& rstd) {
  using A = Acc<T>;
  const Rows rows(x), h_rows(h), y_rows(y);
  const int64_t d = rows.d;
  Scratch scratch(2 * d * sizeof(A));
  A* const scale = scratch.as<A>();
  A* const scale_h = scale + d;
  one_plus(w, d, scale);
  if constexpr (norm_h) one_plus(w_h, d, scale_h);
  parallel_for(rows.n, rows.chunk(), (norm_h ? 3 : 2) * d, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const T* const xr = x.as<T>() + rows.at(n);
      const T* hr = h.as<T>() + h_rows.at(n);
      T* const to = sum.as<T>() + n * d;
      T* const yr = y.as<T>() + y_rows.at(n);
      if constexpr (norm_h) {  // y holds it for a while: in a loop of its own, or a product would be contracted with the sum
        Vec<T> squares = broadcast<T>(0);
        for_row<T>(d, [&](int64_t i, auto part) {
          const Vec<T> v = load(hr + i, part);
          squares += v * v;
        });
        const A root = inverse_root<T>(squares, d, eps);
        if (rstd_h) rstd_h.as<A>()[n] = root;
        const Vec<T> k = broadcast<T>(root);
        for_row<T>(d, [&](int64_t i, auto part) { store(yr + i, load(hr + i, part) * k * load(scale_h + i, part), part); });
        hr = yr;
      }
      Vec<T> squares = broadcast<T>(0);
      for_row<T>(d, [&](int64_t i, auto part) {
        store(to + i, load(xr + i, part) + load(hr + i, part), part);
        const Vec<T> v = load(to + i, part);
        squares += v * v;
      });
      const A root = inverse_root<T>(squares, d, eps);
      if (rstd) rstd.as<A>()[n] = root;
      const Vec<T> k = broadcast<T>(root);
      for_row<T>(d, [&](int64_t i, auto part) { store(yr + i, load(to + i, part) * k * load(scale + i, part), part); });
    }
  });
}

}  // namespace

void add_rms_norm(View x, View h, View w_h, View w, double eps, Out r, Out y, Out rstd_h, Out rstd) {
  by_float_dtype(x.dtype, [&](auto t) {
    by_bool(static_cast<bool>(w_h), [&](auto norm_h) { run<decltype(t), norm_h()>(x, h, w_h, w, eps, r, y, rstd_h, rstd); });
  });
}

}  // namespace facet::cpu::FACET_TIER

FACET_TIERED(add_rms_norm)

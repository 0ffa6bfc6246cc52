#include "tensor/kernels/add_rms_norm.h"

#include "tensor/cpu/rows.h"
#include "tensor/cpu/simd.h"
#include "tensor/parallel.h"
#include "tensor/scratch.h"

namespace facet::cpu::FACET_TIER {
namespace {

// As the forward of rms_norm, which reads the sum from the cache where this has just put it.
template <class T>
void run(const View& x, const View& h, const View& w, double eps, const Out& sum, const Out& y, const Out& rstd) {
  using A = Acc<T>;
  const Rows rows(x), h_rows(h);
  const int64_t d = rows.d;
  Scratch scratch(d * sizeof(A));
  A* const scale = scratch.as<A>();
  one_plus(w, d, scale);
  parallel_for(rows.n, rows.chunk(), 2 * d, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const T* const xr = x.as<T>() + rows.at(n);
      const T* const hr = h.as<T>() + h_rows.at(n);
      T* const to = sum.as<T>() + n * d;
      T* const yr = y.as<T>() + n * d;
      Vec<T> squares = broadcast<T>(0);
      for_row<T>(d, [&](int64_t i, auto part) {
        store(to + i, load(xr + i, part) + load(hr + i, part), part);
        const Vec<T> v = load(to + i, part);
        squares += v * v;
      });
      const A root = 1 / sqrt(reduce_add(squares) / static_cast<A>(d) + static_cast<A>(eps));
      if (rstd) rstd.as<A>()[n] = root;
      const Vec<T> k = broadcast<T>(root);
      for_row<T>(d, [&](int64_t i, auto part) { store(yr + i, load(to + i, part) * k * load(scale + i, part), part); });
    }
  });
}

}  // namespace

void add_rms_norm(View x, View h, View w, double eps, Out r, Out y, Out rstd) {
  by_float_dtype(x.dtype, [&](auto t) { run<decltype(t)>(x, h, w, eps, r, y, rstd); });
}

}  // namespace facet::cpu::FACET_TIER

FACET_TIERED(add_rms_norm)

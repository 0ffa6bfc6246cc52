#include "tensor/kernels/copy.h"

#include <cstring>

#include "tensor/cpu/bf16.h"
#include "tensor/parallel.h"

namespace facet::cpu {
namespace {

// Merges neighbouring dimensions that both windows walk as one, so that dense tensors become a single run.
void coalesce(Shape& shape, Shape& xs, Shape& ys) {
  Shape s, a, b;
  for (int i = 0; i < shape.rank; ++i) {
    if (shape.dim[i] == 1) continue;
    const int k = s.rank - 1;
    if (k >= 0 && a.dim[k] == xs.dim[i] * shape.dim[i] && b.dim[k] == ys.dim[i] * shape.dim[i]) {
      s.dim[k] *= shape.dim[i];
      a.dim[k] = xs.dim[i];
      b.dim[k] = ys.dim[i];
    } else {
      s.push(shape.dim[i]);
      a.push(xs.dim[i]);
      b.push(ys.dim[i]);
    }
  }
  shape = s;
  xs = a;
  ys = b;
}

template <class X, class Y>
void run(const X* x, int64_t xs, Y* y, int64_t ys, int64_t n, bool accumulate) {
  using A = std::conditional_t<std::is_same_v<X, double> || std::is_same_v<Y, double>, double, float>;
  if (accumulate) {
    for (int64_t i = 0; i < n; ++i) y[i * ys] = convert<Y>(convert<A>(y[i * ys]) + convert<A>(x[i * xs]));
  } else if (std::is_same_v<X, Y> && xs == 1 && ys == 1) {
    std::memmove(y, x, n * sizeof(X));
  } else {
    for (int64_t i = 0; i < n; ++i) y[i * ys] = convert<Y>(x[i * xs]);
  }
}

template <class X, class Y>
void copy_as(const View& vx, const Out& vy) {
  Shape shape = vy.shape, xs, ys = vy.stride;
  xs.rank = shape.rank;
  for (int i = 0; i < shape.rank; ++i) {  // broadcast x against y, aligned at the last dimension
    const int j = i - (shape.rank - vx.shape.rank);
    xs.dim[i] = j < 0 || vx.shape.dim[j] == 1 ? 0 : vx.stride.dim[j];
  }
  if (shape.numel() == 0) return;
  coalesce(shape, xs, ys);
  const X* x = vx.as<X>();
  Y* y = vy.as<Y>();
  const int last = shape.rank - 1;
  const int64_t n = last < 0 ? 1 : shape.dim[last];
  const int64_t sx = last < 0 ? 1 : xs.dim[last], sy = last < 0 ? 1 : ys.dim[last];
  int64_t outer = 1;
  for (int i = 0; i < last; ++i) outer *= shape.dim[i];
  if (outer == 1) {
    parallel_for(n, 16384, 1, [&](int64_t a, int64_t b) { run(x + a * sx, sx, y + a * sy, sy, b - a, vy.accumulate); });
    return;
  }
  const int64_t chunk = n >= 4096 ? 1 : 4096 / n;
  parallel_for(outer, chunk, n, [&](int64_t a, int64_t b) {
    for (int64_t o = a; o < b; ++o) {
      int64_t rest = o, ox = 0, oy = 0;
      for (int i = last - 1; i >= 0; --i) {
        const int64_t k = rest % shape.dim[i];
        rest /= shape.dim[i];
        ox += k * xs.dim[i];
        oy += k * ys.dim[i];
      }
      run(x + ox, sx, y + oy, sy, n, vy.accumulate);
    }
  });
}

}  // namespace

void copy(View x, Out y) {
  by_dtype(x.dtype, [&](auto from) {
    by_dtype(y.dtype, [&](auto to) { copy_as<decltype(from), decltype(to)>(x, y); });
  });
}

void fill(Out y, double value) {
  View one;
  one.data = &value;
  one.dtype = DType::f64;
  copy(one, y);
}

}  // namespace facet::cpu

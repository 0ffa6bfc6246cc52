#include "tensor/kernels/copy.h"

#include <cstring>

#include "tensor/cpu/bf16.h"
#include "tensor/cpu/strides.h"
#include "tensor/parallel.h"
#include "tensor/profile.h"

namespace facet::cpu {
namespace {

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
  Shape shape = vy.shape, stride[2] = {broadcast_strides(vx, shape), vy.stride};
  if (shape.numel() == 0) return;
  coalesce(shape, stride);
  const Shape &xs = stride[0], &ys = stride[1];
  const X* x = vx.as<X>();
  Y* y = vy.as<Y>();
  const int64_t n = shape[-1], sx = xs[-1], sy = ys[-1], outer = shape.rows();
  if (outer == 1) {
    parallel_for(n, 16384, 1, [&](int64_t a, int64_t b) { run(x + a * sx, sx, y + a * sy, sy, b - a, vy.accumulate); });
    return;
  }
  const int64_t chunk = n >= 4096 ? 1 : 4096 / n;
  parallel_for(outer, chunk, n, [&](int64_t a, int64_t b) {
    for (int64_t o = a; o < b; ++o) {
      const int64_t ox = offset_of(o * n, shape, xs), oy = offset_of(o * n, shape, ys);
      run(x + ox, sx, y + oy, sy, n, vy.accumulate);
    }
  });
}

}  // namespace

void copy(View x, Out y) {
  const KernelScope scope("copy");
  by_dtype(x.dtype, [&](auto from) {
    by_dtype(y.dtype, [&](auto to) { copy_as<decltype(from), decltype(to)>(x, y); });
  });
}

void fill(Out y, double value) {
  const KernelScope scope("fill");
  View one;
  one.data = &value;
  one.dtype = DType::f64;
  cpu::copy(one, y);
}

}  // namespace facet::cpu

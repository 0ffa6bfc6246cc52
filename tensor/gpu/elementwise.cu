// Elementwise operations. Bytes per element of y, all operands dense: unary 2, its gradient 3, binary 3, its gradient 3 to 4 elements; the
// memory bounds all of them but pow, sin, cos and, in bf16, the longest polynomials (gelu, erf).
#include "tensor/kernels/elementwise.h"

#include "tensor/formulas.h"
#include "tensor/gpu/map.h"

namespace facet::gpu {
namespace {

template <class T>
struct UnaryValue {
  using X = T;
  using Y = T;
  static constexpr int inputs = 1;
  Unary op;
  double s;
  template <int W>
  FACET_INLINE void operator()(const float (&x)[1][W], float (&y)[W]) const {
    formula::unary::choose(op, [&](auto f) {
      for (int j = 0; j < W; ++j) y[j] = f.value(x[0][j], s);
    });
  }
};

template <class T>
struct UnarySlope {
  using X = T;
  using Y = T;
  static constexpr int inputs = 2;  // dy, saved
  Unary op;
  double s;
  template <int W>
  FACET_INLINE void operator()(const float (&x)[2][W], float (&y)[W]) const {
    formula::unary::choose(op, [&](auto f) {
      for (int j = 0; j < W; ++j) y[j] = x[0][j] * f.slope(x[1][j], s);
    });
  }
};

template <class T>
struct BinaryValue {
  using X = T;
  using Y = T;
  static constexpr int inputs = 2;
  Binary op;
  template <int W>
  FACET_INLINE void operator()(const float (&x)[2][W], float (&y)[W]) const {
    formula::binary::choose(op, [&](auto f) {
      for (int j = 0; j < W; ++j) y[j] = f.value(x[0][j], x[1][j]);
    });
  }
};

template <class T>
struct BinarySlope {
  using X = T;
  using Y = T;
  static constexpr int inputs = 3;  // dy, a, b
  Binary op;
  int which;
  template <int W>
  FACET_INLINE void operator()(const float (&x)[3][W], float (&y)[W]) const {
    formula::binary::choose(op, [&](auto f) {
      if constexpr (requires { f.da(1.0f, 1.0f); }) {
        for (int j = 0; j < W; ++j) y[j] = x[0][j] * (which == 0 ? f.da(x[1][j], x[2][j]) : f.db(x[1][j], x[2][j]));
      } else {
        for (int j = 0; j < W; ++j) y[j] = x[0][j];
      }
    });
  }
};

template <class T>
struct Comparison {
  using X = T;
  using Y = int32_t;
  static constexpr int inputs = 2;
  Compare op;
  template <int W>
  FACET_INLINE void operator()(const ElementOf<T> (&x)[2][W], int32_t (&y)[W]) const {
    for (int j = 0; j < W; ++j) y[j] = formula::holds(op, x[0][j], x[1][j]);
  }
};

// y (+)= condition ? a : b, on elements T (bits unless it adds).
template <class T, int W>
__global__ void __launch_bounds__(map_threads) where_kernel(Walk<4> walk, int64_t packs, int64_t count, Source c, Source a, Source b, T* y, bool accumulate) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * map_threads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * map_threads + threadIdx.x; i < packs; i += stride) {
    int64_t at[4];
    walk.at(i, at);
    const int n = (i + 1) * W <= count ? W : static_cast<int>(count - i * W);
    int32_t chosen[W];
    ElementOf<T> va[W], vb[W], before[W];
    load_elements<W>(static_cast<const int32_t*>(c.data) + at[0], c.step, n, chosen);
    load_elements<W>(static_cast<const T*>(a.data) + at[1], a.step, n, va);
    load_elements<W>(static_cast<const T*>(b.data) + at[2], b.step, n, vb);
    for (int j = 0; j < W; ++j) va[j] = chosen[j] != 0 ? va[j] : vb[j];
    if (accumulate) {
      load_elements<W>(y + at[3], 1, n, before);
      for (int j = 0; j < W; ++j) va[j] += before[j];
    }
    store_elements<W>(y + at[3], n, va);
  }
}

template <class T>
void where_as(const View& condition, const View& a, const View& b, const Out& y) {
  constexpr int wide = 4;
  const Geometry<4> g({&condition, &a, &b, &y});
  const bool packed = g.packs(0, wide, condition.data, 4) && g.packs(1, wide, a.data, sizeof(T)) && g.packs(2, wide, b.data, sizeof(T)) &&
                      g.packs(3, wide, y.data, sizeof(T));
  const auto from = [&](const View& v, int k) { return Source{v.data, g.stride[k][-1] == 0 ? 0 : 1}; };
  const auto start = [&](auto kernel, int64_t w) {
    const int64_t packs = (g.count + w - 1) / w;
    launch("where", kernel, blocks_for(packs, map_threads), map_threads, 0, g.walk(w), packs, g.inner() == g.count ? g.count : packs * w,
           from(condition, 0), from(a, 1), from(b, 2), y.as<T>(), y.accumulate);
  };
  if (packed) start(where_kernel<T, wide>, wide);
  else start(where_kernel<T, 1>, 1);
}

}  // namespace

void unary(Unary op, View x, double s, Out y) {
  if (x.dtype == DType::bf16) map("unary", UnaryValue<bf16>{op, s}, {&x}, y);
  else map("unary", UnaryValue<float>{op, s}, {&x}, y);
}

void unary_grad(Unary op, View dy, View saved, double s, Out dx) {
  if (!saved) saved = dy;  // add and mul
  if (dy.dtype == DType::bf16) map("unary_grad", UnarySlope<bf16>{op, s}, {&dy, &saved}, dx);
  else map("unary_grad", UnarySlope<float>{op, s}, {&dy, &saved}, dx);
}

void binary(Binary op, View a, View b, Out y) {
  if (a.dtype == DType::bf16) map("binary", BinaryValue<bf16>{op}, {&a, &b}, y);
  else map("binary", BinaryValue<float>{op}, {&a, &b}, y);
}

void binary_grad(Binary op, int which, View dy, View a, View b, Out dx) {
  if (!a) a = dy;
  if (!b) b = dy;
  if (dy.dtype == DType::bf16) map("binary_grad", BinarySlope<bf16>{op, which}, {&dy, &a, &b}, dx);
  else map("binary_grad", BinarySlope<float>{op, which}, {&dy, &a, &b}, dx);
}

void compare(Compare op, View a, View b, Out y) {
  switch (a.dtype) {
    case DType::f32: return map("compare", Comparison<float>{op}, {&a, &b}, y);
    case DType::bf16: return map("compare", Comparison<bf16>{op}, {&a, &b}, y);
    case DType::i32: return map("compare", Comparison<int32_t>{op}, {&a, &b}, y);
    case DType::f64: return;  // for the CPU only
  }
}

void where(View condition, View a, View b, Out y) {
  if (!y || y.numel() == 0) return;
  switch (a.dtype) {
    case DType::f32: return where_as<float>(condition, a, b, y);
    case DType::bf16: return where_as<bf16>(condition, a, b, y);
    case DType::i32: return where_as<int32_t>(condition, a, b, y);
    case DType::f64: return;  // for the CPU only
  }
}

}  // namespace facet::gpu

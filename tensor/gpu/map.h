// y[i] (+)= f(a[i], b[i], ..), the one kernel behind elementwise operations and conversions. A thread takes a pack of W neighbours:
// 16 bytes of the widest operand where layout and alignment allow, else single elements. Operands broadcast by stride 0.
// Bound by memory: every operand is read once, y written once (and read when accumulating). The choice of a formula is a branch that all
// threads take alike, once per pack, so that one instantiation serves all operations.
#pragma once
#include "tensor/gpu/launch.h"
#include "tensor/gpu/walk.h"

namespace facet::gpu {

inline constexpr int map_threads = 256;

template <class T>
using ElementOf = std::conditional_t<std::is_same_v<T, bf16>, float, T>;  // what a formula sees
FACET_INLINE int32_t widen(int32_t x) { return x; }
FACET_INLINE uint16_t widen(uint16_t x) { return x; }
FACET_INLINE uint32_t widen(uint32_t x) { return x; }
FACET_INLINE uint64_t widen(uint64_t x) { return x; }

/// W elements from p: neighbours, or one for all (step 0), or (W = 1) a single one; `n` of them exist.
template <int W, class T, class E>
__device__ inline void load_elements(const T* p, int step, int n, E (&v)[W]) {
  if (W == 1 || step == 0) {
    const E x = widen(*p);
    for (int j = 0; j < W; ++j) v[j] = x;
  } else if (n >= W) {
    const Pack<T, W> x = load_pack<T, W>(p);
    for (int j = 0; j < W; ++j) v[j] = widen(x[j]);
  } else {
    for (int j = 0; j < W; ++j) v[j] = j < n ? widen(p[j]) : E{};
  }
}
template <int W, class T, class E>
__device__ inline void store_elements(T* p, int n, const E (&v)[W]) {
  if (W == 1) {
    *p = narrow<T>(v[0]);
  } else if (n >= W) {
    Pack<T, W> x;
    for (int j = 0; j < W; ++j) x[j] = narrow<T>(v[j]);
    store_pack(p, x);
  } else {
    for (int j = 0; j < W; ++j)
      if (j < n) p[j] = narrow<T>(v[j]);
  }
}

struct Source {
  const void* data;
  int step;  ///< of the inner dimension; only 0 and 1 occur in packs
};

template <int inputs>
struct Sources {
  Source v[inputs];
};

/// F: `using X` = element type of the operand(s), `using Y` = of the destination, `inputs`, `void operator()(x, y)` on arrays
/// ElementOf<X> x[inputs][W] and ElementOf<Y> y[W].
template <class F, int W>
__global__ void __launch_bounds__(map_threads) map_kernel(F f, Walk<F::inputs + 1> walk, int64_t packs, int64_t count, Sources<F::inputs> x,
                                                          typename F::Y* y, bool accumulate) {
  using Y = typename F::Y;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * map_threads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * map_threads + threadIdx.x; i < packs; i += stride) {
    int64_t at[F::inputs + 1];
    walk.at(i, at);
    const int n = (i + 1) * W <= count ? W : static_cast<int>(count - i * W);
    ElementOf<typename F::X> v[F::inputs][W];
    for (int k = 0; k < F::inputs; ++k) load_elements<W>(static_cast<const typename F::X*>(x.v[k].data) + at[k], x.v[k].step, n, v[k]);
    ElementOf<Y> r[W];
    f(v, r);
    Y* to = y + at[F::inputs];
    if constexpr (std::is_same_v<Y, float> || std::is_same_v<Y, bf16>) {
      if (accumulate) {
        ElementOf<Y> before[W];
        load_elements<W>(to, 1, n, before);
        for (int j = 0; j < W; ++j) r[j] += before[j];
      }
    }
    store_elements<W>(to, n, r);
  }
}

/// Launches it for operands x and destination y; null or empty destinations are skipped. A destination may be the same window as an operand.
template <class F>
void map(const char* op, const F& f, const View* const (&x)[F::inputs], const Out& y) {
  using X = typename F::X;
  using Y = typename F::Y;
  if (!y || y.numel() == 0) return;
  constexpr int inputs = F::inputs, wide = 16 / static_cast<int>(sizeof(X) > sizeof(Y) ? sizeof(X) : sizeof(Y));
  const View* windows[inputs + 1];
  for (int k = 0; k < inputs; ++k) windows[k] = x[k];
  windows[inputs] = &y;
  const Geometry<inputs + 1> g(windows);
  bool packed = g.packs(inputs, wide, y.data, sizeof(Y));
  Sources<inputs> from;
  for (int k = 0; k < inputs; ++k) {
    packed = packed && g.packs(k, wide, x[k]->data, sizeof(X));
    from.v[k] = {x[k]->data, g.stride[k][-1] == 0 ? 0 : 1};
  }
  const auto start = [&](auto kernel, int64_t w) {
    const int64_t packs = (g.count + w - 1) / w;  // rows are whole packs, or there is only one row
    launch(op, kernel, blocks_for(packs, map_threads), map_threads, 0, f, g.walk(w), packs, g.inner() == g.count ? g.count : packs * w, from,
           y.as<Y>(), y.accumulate);
  };
  if (packed) start(map_kernel<F, wide>, wide);
  else start(map_kernel<F, 1>, 1);
}

}  // namespace facet::gpu

// layer_norm. Bound by memory, as rms_norm: bf16 4 bytes an element forward, 6 backward; predicted 85% of copy rate and 80%, as there
// are two barriers to a tile of rows where rms_norm has one.
#include "tensor/kernels/layer_norm.h"

#include "tensor/gpu/pool.h"
#include "tensor/gpu/rows.h"

namespace facet::gpu {
namespace {

template <class T>
struct Norm {
  Rows rows;
  RowShape shape;
  const T* x;
  Weights w, b;
  float eps;
  T* y;
  bool accumulate;
  float *mean, *rstd;  // null: skipped
};

// A thread holds K packs of each of R rows.
template <class T, int K, int R>
__global__ void __launch_bounds__(row_threads) norm_rows(Norm<T> a) {
  constexpr int N = pack_of<T>;
  FACET_SHARED(float, slots, [8 * R]);
  const int64_t d = a.rows.d, first = (static_cast<int64_t>(blockIdx.x) * a.shape.groups + threadIdx.y) * R;
  Pack<T, N> v[R][K];
  float centre[R] = {}, root[R] = {};
#pragma unroll
  for (int r = 0; r < R; ++r)
#pragma unroll
    for (int k = 0; k < K; ++k)
      v[r][k] = first + r < a.rows.n ? load_in_row<N>(a.x + a.rows.at(first + r), column<N>(k), d) : zero_pack<T, N>();
#pragma unroll
  for (int r = 0; r < R; ++r)
#pragma unroll
    for (int k = 0; k < K; ++k)
#pragma unroll
      for (int j = 0; j < N; ++j) centre[r] += widen(v[r][k][j]);
  row_sums(centre, a.shape.warps, slots);
#pragma unroll
  for (int r = 0; r < R; ++r) {
    centre[r] /= static_cast<float>(d);
#pragma unroll
    for (int k = 0; k < K; ++k)
      if (column<N>(k) < d)  // zeros beyond the row would count as deviations
#pragma unroll
        for (int j = 0; j < N; ++j) root[r] += (widen(v[r][k][j]) - centre[r]) * (widen(v[r][k][j]) - centre[r]);
  }
  row_sums(root, a.shape.warps, slots);
#pragma unroll
  for (int r = 0; r < R; ++r) {
    root[r] = inverse_root(root[r], d, a.eps);
    if (threadIdx.x != 0 || first + r >= a.rows.n) continue;
    if (a.mean) a.mean[first + r] = centre[r];
    if (a.rstd) a.rstd[first + r] = root[r];
  }
#pragma unroll
  for (int k = 0; k < K; ++k) {
    const int64_t i = column<N>(k);
    if (i >= d) continue;
    float scale[N], shift[N];
    a.w.load(i, scale);
    a.b.load(i, shift);
#pragma unroll
    for (int r = 0; r < R; ++r) {
      if (first + r >= a.rows.n) continue;
      float f[N];
#pragma unroll
      for (int j = 0; j < N; ++j) f[j] = (widen(v[r][k][j]) - centre[r]) * root[r] * scale[j] + shift[j];
      put_pack(a.y + (first + r) * d + i, f, a.accumulate);
    }
  }
}

template <class T>
__global__ void __launch_bounds__(row_threads) norm_rows_any(Norm<T> a) {
  FACET_SHARED(float, slots, [8]);
  const int64_t d = a.rows.d;
  for (int64_t r = blockIdx.x; r < a.rows.n; r += gridDim.x) {
    const T* const xr = a.x + a.rows.at(r);
    float sum = 0, squares = 0;
    for (int64_t i = threadIdx.x; i < d; i += row_threads) sum += widen(xr[i]);
    const float centre = block_sum<row_threads>(sum, slots) / static_cast<float>(d);
    for (int64_t i = threadIdx.x; i < d; i += row_threads) squares += (widen(xr[i]) - centre) * (widen(xr[i]) - centre);
    const float root = inverse_root(block_sum<row_threads>(squares, slots), d, a.eps);
    if (a.mean && threadIdx.x == 0) a.mean[r] = centre;
    if (a.rstd && threadIdx.x == 0) a.rstd[r] = root;
    for (int64_t i = threadIdx.x; i < d; i += row_threads)
      put(a.y + r * d + i, (widen(xr[i]) - centre) * root * a.w.at(i) + a.b.at(i), a.accumulate);
  }
}

template <class T>
void forward(const View& x, const View& w, const View& b, double eps, const Out& y, const Out& mean, const Out& rstd) {
  const Rows rows(x);
  const auto run = [&](auto kernel, const RowShape& shape, int rows_at_once) {
    const Norm<T> a{rows,      shape, x.as<T>(), Weights(w), Weights(b), static_cast<float>(eps), y.as<T>(), y.accumulate,
                    mean.as<float>(), rstd.as<float>()};
    launch("layer_norm", kernel, blocks_for(rows.n, rows_at_once * shape.groups, INT32_MAX), shape.block(), 0, a);
  };
  const bool packs = packable<T>(rows, x.data) && packable<T>(y, rows.d) && by_packs(rows.d / pack_of<T>, [&](auto k) {
    constexpr int K = k(), R = 4 / K;
    run(norm_rows<T, K, R>, RowShape(rows.d / pack_of<T>, K), R);
  });
  if (!packs) run(norm_rows_any<T>, RowShape::block_a_row(), 1);
}

// ---- backward

template <class T>
struct Back {
  Rows x_rows, dy_rows;
  RowShape shape;
  RowBlocks blocks;
  const T *dy, *x;
  Weights w;
  const float *mean, *rstd;
  T* dx;           // null: skipped
  bool accumulate;
  float* partial;  // [blocks][2][d]: dw, db; null: neither is wanted
  FACET_INLINE int64_t begin(int64_t b) const { return b * blocks.chunk; }
  FACET_INLINE int64_t end(int64_t b) const { return (b + 1) * blocks.chunk < x_rows.n ? (b + 1) * blocks.chunk : x_rows.n; }
};

template <class T, int K, int R>
__global__ void __launch_bounds__(row_threads) norm_back_rows(Back<T> a) {
  constexpr int N = pack_of<T>;
  FACET_SHARED(float, slots, [8 * 2 * R]);
  FACET_SHARED(float, total, [1024]);
  const int64_t d = a.x_rows.d, end = a.end(blockIdx.x);
  float dw[K][N] = {}, db[K][N] = {}, scale[K][N] = {};
#pragma unroll
  for (int k = 0; k < K; ++k)
    if (column<N>(k) < d && a.dx) a.w.load(column<N>(k), scale[k]);
  for (int64_t tile = a.begin(blockIdx.x); tile < end; tile += a.shape.groups * R) {
    const int64_t first = tile + threadIdx.y * R;
    Pack<T, N> x[R][K], dy[R][K];
    float centre[R], root[R], sums[2 * R] = {};  // of g, then of g h
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const bool valid = first + r < end;
      centre[r] = valid ? a.mean[first + r] : 0;
      root[r] = valid ? a.rstd[first + r] : 0;
#pragma unroll
      for (int k = 0; k < K; ++k) {
        x[r][k] = valid ? load_in_row<N>(a.x + a.x_rows.at(first + r), column<N>(k), d) : zero_pack<T, N>();
        dy[r][k] = valid ? load_in_row<N>(a.dy + a.dy_rows.at(first + r), column<N>(k), d) : zero_pack<T, N>();
      }
    }
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
      for (int k = 0; k < K; ++k)
#pragma unroll
        for (int j = 0; j < N; ++j) {
          const float h = (widen(x[r][k][j]) - centre[r]) * root[r], g = widen(dy[r][k][j]);
          dw[k][j] += g * h;
          db[k][j] += g;
          sums[r] += g * scale[k][j];
          sums[R + r] += g * scale[k][j] * h;
        }
    if (!a.dx) continue;
    row_sums(sums, a.shape.warps, slots);
#pragma unroll
    for (int r = 0; r < R; ++r) {
      if (first + r >= end) continue;
      const float mean_g = sums[r] / static_cast<float>(d), mean_gh = sums[R + r] / static_cast<float>(d);
#pragma unroll
      for (int k = 0; k < K; ++k) {
        if (column<N>(k) >= d) continue;
        float f[N];
#pragma unroll
        for (int j = 0; j < N; ++j) {
          const float h = (widen(x[r][k][j]) - centre[r]) * root[r];
          f[j] = (widen(dy[r][k][j]) * scale[k][j] - mean_g - h * mean_gh) * root[r];
        }
        put_pack(a.dx + (first + r) * d + column<N>(k), f, a.accumulate);
      }
    }
  }
  if (!a.partial) return;
  add_groups(dw, d, total, a.partial + 2 * int64_t{blockIdx.x} * d);
  add_groups(db, d, total, a.partial + (2 * int64_t{blockIdx.x} + 1) * d);
}

template <class T>
__global__ void __launch_bounds__(row_threads) norm_back_any(Back<T> a) {
  FACET_SHARED(float, slots, [8]);
  const int64_t d = a.x_rows.d, begin = a.begin(blockIdx.x), end = a.end(blockIdx.x);
  float* const dw = a.partial ? a.partial + 2 * int64_t{blockIdx.x} * d : nullptr;  // a thread adds up its own columns
  float* const db = dw ? dw + d : nullptr;
  for (int64_t r = begin; r < end; ++r) {
    const T* const xr = a.x + a.x_rows.at(r);
    const T* const dyr = a.dy + a.dy_rows.at(r);
    const float centre = a.mean[r], root = a.rstd[r];
    float sum = 0, dot = 0;
    for (int64_t i = threadIdx.x; i < d; i += row_threads) {
      const float h = (widen(xr[i]) - centre) * root, g = widen(dyr[i]);
      if (dw) {
        dw[i] = (r == begin ? 0 : dw[i]) + g * h;
        db[i] = (r == begin ? 0 : db[i]) + g;
      }
      if (!a.dx) continue;
      sum += g * a.w.at(i);
      dot += g * a.w.at(i) * h;
    }
    if (!a.dx) continue;
    const float mean_g = block_sum<row_threads>(sum, slots) / static_cast<float>(d);
    const float mean_gh = block_sum<row_threads>(dot, slots) / static_cast<float>(d);
    for (int64_t i = threadIdx.x; i < d; i += row_threads) {
      const float h = (widen(xr[i]) - centre) * root;
      put(a.dx + r * d + i, (widen(dyr[i]) * a.w.at(i) - mean_g - h * mean_gh) * root, a.accumulate);
    }
  }
}

template <class T>
void backward(const View& dy, const View& x, const View& w, const View& mean, const View& rstd, const Out& dx, const Out& dw,
              const Out& db) {
  const Rows x_rows(x), dy_rows(dy);
  const int64_t n = x_rows.n, d = x_rows.d;
  const auto run = [&](auto kernel, const RowShape& shape, int rows_at_once) {
    const RowBlocks blocks(n, rows_at_once * shape.groups, shape.threads());
    const Scratch scratch(dw || db ? static_cast<size_t>(2 * blocks.count * d) * sizeof(float) : 0);
    const Back<T> a{x_rows,     dy_rows,          shape,           blocks,    dy.as<T>(),    x.as<T>(),
                    Weights(w), mean.as<float>(), rstd.as<float>(), dx.as<T>(), dx.accumulate, dw || db ? scratch.as<float>() : nullptr};
    launch("layer_norm_backward", kernel, static_cast<unsigned>(blocks.count), shape.block(), 0, a);
    if (dw) add_partials("layer_norm_backward", a.partial, blocks.count, 2 * d, d, dw);
    if (db) add_partials("layer_norm_backward", a.partial + d, blocks.count, 2 * d, d, db);
  };
  const bool packs = packable<T>(x_rows, x.data) && packable<T>(dy_rows, dy.data) && packable<T>(dx, d) && by_packs(d / pack_of<T>, [&](auto k) {
    constexpr int K = k(), R = K == 1 ? 2 : 1;
    run(norm_back_rows<T, K, R>, RowShape(d / pack_of<T>, K), R);
  });
  if (!packs) run(norm_back_any<T>, RowShape::block_a_row(), 1);
}

}  // namespace

void layer_norm(View x, View w, View b, double eps, Out y, Out mean, Out rstd) {
  if (x.dtype == DType::bf16) forward<bf16>(x, w, b, eps, y, mean, rstd);
  else forward<float>(x, w, b, eps, y, mean, rstd);
}
void layer_norm_backward(View dy, View x, View w, View mean, View rstd, Out dx, Out dw, Out db) {
  if (x.dtype == DType::bf16) backward<bf16>(dy, x, w, mean, rstd, dx, dw, db);
  else backward<float>(dy, x, w, mean, rstd, dx, dw, db);
}

}  // namespace facet::gpu

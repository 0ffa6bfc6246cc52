// rms_norm. Bound by memory: forward reads and writes a row once (bf16: 4 bytes an element), backward reads dy and x and writes dx
// (6 bytes). Predicted 88% of copy rate forward; 85% backward, where partial sums of dw add some 2 MB each way. add_rms_norm reads x and h
// and writes their sum and its norm: 8 bytes an element where two kernels take 10, and three, with a norm of h before, 14.
#include "tensor/kernels/rms_norm.h"

#include "tensor/kernels/add_rms_norm.h"

#include "tensor/gpu/pool.h"
#include "tensor/gpu/rows.h"
#include "tensor/kernels/copy.h"

namespace facet::gpu {
namespace {

// What a row is: x; x + h; x + rms_norm(h). Sums are rounded and kept.
enum class Row { x, plus_h, plus_normed_h };

template <class T>
struct Norm {
  Rows rows, h_rows;
  RowShape shape;
  const T *x, *h;
  Weights w_h, w;
  float eps;
  T *sum, *y;
  int64_t y_pitch;  // from row to row of y
  bool accumulate;
  float *rstd_h, *rstd;  // null: skipped
};

template <class T>
__device__ inline T normed(T x, float root, float w) {
  return narrow<T>(widen(x) * root * (1 + w));
}
template <class T>
__device__ inline T rounded_sum(T x, T h) {
  return narrow<T>(add_apart(widen(x), widen(h)));
}

// v, sums of squares of R rows, become 1 / rms; all threads of the block call it.
template <int R>
__device__ inline void inverse_roots(float (&v)[R], const RowShape& shape, float* slots, int64_t d, float eps, float* rstd, int64_t first, int64_t n) {
  row_sums(v, shape.warps, slots);
#pragma unroll
  for (int r = 0; r < R; ++r) {
    v[r] = inverse_root(v[r], d, eps);
    if (rstd && threadIdx.x == 0 && first + r < n) rstd[first + r] = v[r];
  }
}

// First in a kernel: in decoding it may have been started before x and h are there. Weights are what it would wait longest for.
template <class T>
__device__ inline void wait_with_hints(const Norm<T>& a) {
  let_next_start();
  if (threadIdx.x + threadIdx.y == 0) a.w.hint(a.rows.d), a.w_h.hint(a.rows.d);
  wait_for_previous();
}

// A thread holds K packs of each of R rows.
template <class T, int K, int R, Row row>
__global__ void __launch_bounds__(row_threads) norm_rows(Norm<T> a) {
  constexpr int N = pack_of<T>;
  FACET_SHARED(float, slots, [8 * R]);
  wait_with_hints(a);
  const int64_t d = a.rows.d, first = (static_cast<int64_t>(blockIdx.x) * a.shape.groups + threadIdx.y) * R;
  Pack<T, N> v[R][K];
  float sum[R] = {};
#pragma unroll
  for (int r = 0; r < R; ++r)
#pragma unroll
    for (int k = 0; k < K; ++k)
      v[r][k] = first + r < a.rows.n ? load_in_row<N>(a.x + a.rows.at(first + r), column<N>(k), d) : zero_pack<T, N>();
  if constexpr (row != Row::x) {
    Pack<T, N> h[R][K];
    const T* h_row[R];  // found before anything is loaded: the division behind it is a call, around which live values would be saved
#pragma unroll
    for (int r = 0; r < R; ++r) h_row[r] = a.h + a.h_rows.at(first + r < a.rows.n ? first + r : 0);
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
      for (int k = 0; k < K; ++k)
        h[r][k] = first + r < a.rows.n ? load_in_row<N>(h_row[r], column<N>(k), d) : zero_pack<T, N>();
    if constexpr (row == Row::plus_normed_h) {
      float root[R] = {};
#pragma unroll
      for (int r = 0; r < R; ++r)
#pragma unroll
        for (int k = 0; k < K; ++k)
#pragma unroll
          for (int j = 0; j < N; ++j) root[r] += widen(h[r][k][j]) * widen(h[r][k][j]);
      inverse_roots(root, a.shape, slots, d, a.eps, a.rstd_h, first, a.rows.n);
#pragma unroll
      for (int k = 0; k < K; ++k) {
        if (column<N>(k) >= d) continue;
        float scale[N];
        a.w_h.load(column<N>(k), scale);
#pragma unroll
        for (int r = 0; r < R; ++r)
#pragma unroll
          for (int j = 0; j < N; ++j) h[r][k][j] = normed(h[r][k][j], root[r], scale[j]);
      }
    }
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
      for (int k = 0; k < K; ++k) {
#pragma unroll
        for (int j = 0; j < N; ++j) v[r][k][j] = rounded_sum(v[r][k][j], h[r][k][j]);
        if (first + r < a.rows.n && column<N>(k) < d) store_pack(a.sum + (first + r) * d + column<N>(k), v[r][k]);
      }
  }
#pragma unroll
  for (int r = 0; r < R; ++r)
#pragma unroll
    for (int k = 0; k < K; ++k)
#pragma unroll
      for (int j = 0; j < N; ++j) sum[r] += widen(v[r][k][j]) * widen(v[r][k][j]);
  inverse_roots(sum, a.shape, slots, d, a.eps, a.rstd, first, a.rows.n);
#pragma unroll
  for (int k = 0; k < K; ++k) {
    const int64_t i = column<N>(k);
    if (i >= d) continue;
    float scale[N];
    a.w.load(i, scale);
#pragma unroll
    for (int r = 0; r < R; ++r) {
      if (first + r >= a.rows.n) continue;
      float f[N];
#pragma unroll
      for (int j = 0; j < N; ++j) f[j] = widen(v[r][k][j]) * sum[r] * (1 + scale[j]);
      put_pack(a.y + (first + r) * a.y_pitch + i, f, a.accumulate);
    }
  }
}

// Rows that do not fit packs, or are wider than registers: a block a row, one element at a time.
template <class T, Row row>
__global__ void __launch_bounds__(row_threads, 4) norm_rows_any(Norm<T> a) {
  FACET_SHARED(float, slots, [8]);
  wait_with_hints(a);
  const int64_t d = a.rows.d;
  for (int64_t r = blockIdx.x; r < a.rows.n; r += gridDim.x) {
    const T* x = a.x + a.rows.at(r);
    const auto root_of = [&](const T* v, float* rstd) {
      float sum = 0;
      for (int64_t i = threadIdx.x; i < d; i += row_threads) sum += widen(v[i]) * widen(v[i]);
      const float root = inverse_root(block_sum<row_threads>(sum, slots), d, a.eps);
      if (rstd && threadIdx.x == 0) rstd[r] = root;
      return root;
    };
    if constexpr (row != Row::x) {
      const T* const h = a.h + a.h_rows.at(r);
      const float root = row == Row::plus_normed_h ? root_of(h, a.rstd_h) : 0;
      for (int64_t i = threadIdx.x; i < d; i += row_threads)  // a thread reads its own again
        a.sum[r * d + i] = rounded_sum(x[i], row == Row::plus_normed_h ? normed(h[i], root, a.w_h.at(i)) : h[i]);
      x = a.sum + r * d;
    }
    const float root = root_of(x, a.rstd);
    for (int64_t i = threadIdx.x; i < d; i += row_threads) put(a.y + r * a.y_pitch + i, widen(x[i]) * root * (1 + a.w.at(i)), a.accumulate);
  }
}

template <class T, Row row>
void forward(const char* op, const View& x, const View& h, const View& w_h, const View& w, double eps, const Out& sum, const Out& y, const Out& rstd_h,
             const Out& rstd) {
  const Rows rows(x), h_rows(h), y_rows(y);
  const auto run = [&](auto kernel, const RowShape& shape, int rows_at_once) {
    const Norm<T> a{rows,        h_rows,    shape,       x.as<T>(),    h.as<T>(),          Weights(w_h), Weights(w), static_cast<float>(eps),
                    sum.as<T>(), y.as<T>(), y_rows.pitch(), y.accumulate, rstd_h.as<float>(), rstd.as<float>()};
    launch_for_rows(rows.n, op, kernel, blocks_for(rows.n, rows_at_once * shape.groups, INT32_MAX), shape.block(), 0, a);
  };
  const bool even = packable<T>(rows, x.data) && packable<T>(h_rows, h.data) && packable<T>(sum, rows.d) && packable<T>(y_rows, y.data);
  const bool packs = even && by_packs(rows.d / pack_of<T>, [&](auto k) {
    constexpr int K = k(), most = row == Row::x ? 4 : 2, R = most > K ? most / K : 1;
    run(norm_rows<T, K, R, row>, RowShape(rows.d / pack_of<T>, K), R);
  });
  if (!packs) run(norm_rows_any<T, row>, RowShape::block_a_row(), 1);
}

// ---- backward

template <class T>
struct Back {
  Rows x_rows, dy_rows;
  RowShape shape;
  RowBlocks blocks;
  const T *dy, *x;
  Weights w;
  const float* rstd;
  T* dx;           // null: skipped
  int64_t pitch;   // from row to row of dx
  bool accumulate;
  float* partial;  // [blocks][d]; null: no dw
  FACET_INLINE int64_t begin(int64_t b) const { return b * blocks.chunk; }
  FACET_INLINE int64_t end(int64_t b) const { return (b + 1) * blocks.chunk < x_rows.n ? (b + 1) * blocks.chunk : x_rows.n; }
};

template <class T, int K, int R>
__global__ void __launch_bounds__(row_threads) norm_back_rows(Back<T> a) {
  constexpr int N = pack_of<T>;
  FACET_SHARED(float, slots, [8 * R]);
  FACET_SHARED(float, total, [1024]);
  const int64_t d = a.x_rows.d, end = a.end(blockIdx.x);
  float sums[K][N] = {}, scale[K][N] = {};
#pragma unroll
  for (int k = 0; k < K; ++k) {
    if (column<N>(k) < d) a.w.load(column<N>(k), scale[k]);
#pragma unroll
    for (int j = 0; j < N; ++j) scale[k][j] += 1;
  }
  for (int64_t tile = a.begin(blockIdx.x); tile < end; tile += a.shape.groups * R) {
    const int64_t first = tile + threadIdx.y * R;
    Pack<T, N> x[R][K], dy[R][K];
    float root[R], dot[R] = {};
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const bool valid = first + r < end;
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
          const float xv = widen(x[r][k][j]), g = widen(dy[r][k][j]);
          sums[k][j] += g * (xv * root[r]);
          dot[r] += g * scale[k][j] * xv;
        }
    if (!a.dx) continue;
    row_sums(dot, a.shape.warps, slots);
#pragma unroll
    for (int r = 0; r < R; ++r) {
      if (first + r >= end) continue;
      const float mean = dot[r] / static_cast<float>(d) * root[r] * root[r];
#pragma unroll
      for (int k = 0; k < K; ++k) {
        if (column<N>(k) >= d) continue;
        float f[N];
#pragma unroll
        for (int j = 0; j < N; ++j) f[j] = (widen(dy[r][k][j]) * scale[k][j] - widen(x[r][k][j]) * mean) * root[r];
        put_pack(a.dx + (first + r) * a.pitch + column<N>(k), f, a.accumulate);
      }
    }
  }
  if (a.partial) add_groups(sums, d, total, a.partial + int64_t{blockIdx.x} * d);
}

template <class T>
__global__ void __launch_bounds__(row_threads) norm_back_any(Back<T> a) {
  FACET_SHARED(float, slots, [8]);
  const int64_t d = a.x_rows.d, begin = a.begin(blockIdx.x), end = a.end(blockIdx.x);
  float* const sums = a.partial ? a.partial + int64_t{blockIdx.x} * d : nullptr;  // a thread adds up its own columns
  for (int64_t r = begin; r < end; ++r) {
    const T* const xr = a.x + a.x_rows.at(r);
    const T* const dyr = a.dy + a.dy_rows.at(r);
    const float root = a.rstd[r];
    float dot = 0;
    for (int64_t i = threadIdx.x; i < d; i += row_threads) {
      const float xv = widen(xr[i]), g = widen(dyr[i]);
      if (sums) sums[i] = (r == begin ? 0 : sums[i]) + g * (xv * root);
      dot += g * (1 + a.w.at(i)) * xv;
    }
    if (!a.dx) continue;
    const float mean = block_sum<row_threads>(dot, slots) / static_cast<float>(d) * root * root;
    for (int64_t i = threadIdx.x; i < d; i += row_threads)
      put(a.dx + r * a.pitch + i, (widen(dyr[i]) * (1 + a.w.at(i)) - widen(xr[i]) * mean) * root, a.accumulate);
  }
}

template <class T>
void backward(const View& dy, const View& x, const View& w, const View& rstd, const Out& dx, const Out& dw) {
  const Rows x_rows(x), dy_rows(dy), dx_rows(dx ? dx : x);  // an absent one is in nobody's way
  const int64_t n = x_rows.n, d = x_rows.d;
  const auto run = [&](auto kernel, const RowShape& shape, int rows_at_once) {
    const RowBlocks blocks(n, rows_at_once * shape.groups, shape.threads());
    const Scratch scratch(dw ? static_cast<size_t>(blocks.count * d) * sizeof(float) : 0);
    const Back<T> a{x_rows,   dy_rows, shape,         blocks, dy.as<T>(), x.as<T>(), Weights(w), rstd.as<float>(),
                    dx.as<T>(), dx_rows.pitch(), dx.accumulate, dw ? scratch.as<float>() : nullptr};
    launch("rms_norm_backward", kernel, static_cast<unsigned>(blocks.count), shape.block(), 0, a);
    if (dw) add_partials("rms_norm_backward", a.partial, blocks.count, d, d, dw);
  };
  const bool packs = packable<T>(x_rows, x.data) && packable<T>(dy_rows, dy.data) && packable<T>(dx_rows, dx ? dx.data : x.data) && by_packs(d / pack_of<T>, [&](auto k) {
    constexpr int K = k(), R = K == 1 ? 2 : 1;
    run(norm_back_rows<T, K, R>, RowShape(d / pack_of<T>, K), R);
  });
  if (!packs) run(norm_back_any<T>, RowShape::block_a_row(), 1);
}

}  // namespace

void rms_norm(View x, View w, double eps, Out y, Out rstd) {
  const auto call = x.dtype == DType::bf16 ? forward<bf16, Row::x> : forward<float, Row::x>;
  call("rms_norm", x, x, {}, w, eps, {}, y, {}, rstd);
}
void add_rms_norm(View x, View h, View w_h, View w, double eps, Out r, Out y, Out rstd_h, Out rstd) {
  const bool narrow = x.dtype == DType::bf16;
  const auto call = w_h ? (narrow ? forward<bf16, Row::plus_normed_h> : forward<float, Row::plus_normed_h>)
                        : (narrow ? forward<bf16, Row::plus_h> : forward<float, Row::plus_h>);
  call("add_rms_norm", x, h, w_h, w, eps, r, y, rstd_h, rstd);
}
void rms_norm_backward(View dy, View x, View w, View rstd, Out dx, Out dw) {
  if (dx && Rows(dx).size.rank > 1) {  // heads inside a wider row: no distance for all
    const Scratch space(static_cast<size_t>(dx.numel() * size_of(dx.dtype)), "a gradient of strided rows");
    Out dense = dx;
    dense.data = space.as<void>(), dense.stride = dense_strides(dx.shape), dense.accumulate = false;
    gpu::rms_norm_backward(dy, x, w, rstd, dense, dw);
    return gpu::copy(dense, dx);
  }
  if (x.dtype == DType::bf16) backward<bf16>(dy, x, w, rstd, dx, dw);
  else backward<float>(dy, x, w, rstd, dx, dw);
}

}  // namespace facet::gpu

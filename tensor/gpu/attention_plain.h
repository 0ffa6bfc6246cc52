// Products of tiles in f32 on plain fused multiply-adds: exact f32 (no TF32), and bf16 where Dh > 256.
//
// A block has 256 threads, 16 x 16: x = thread % 16, y = thread / 16. Both factors pass through shared memory in slices, so that any Dh works
// in 35 to 53 KB. 4 x 4 results per thread read 2 packs of four per 16 multiply-adds: bound by the multiply-adds when two blocks share a
// processor.
#pragma once
#include "tensor/gpu/attention_mask.h"

namespace facet::gpu::attn {

inline constexpr int plain_threads = 256;
inline constexpr int tile_rows = 64;   ///< rows of queries of a tile, and the most keys
inline constexpr int slice = 32;       ///< elements of Dh that are multiplied at a time
inline constexpr int stride = 68;      ///< of a line of 64 in shared memory
inline constexpr int line_slice = 16;  ///< lines that accumulate() has in shared memory at a time
inline constexpr int slices_floats = 2 * slice * stride;  ///< of the memory that product() and accumulate() share; also 16 lines of 256

__device__ inline int thread_x() { return static_cast<int>(threadIdx.x) & 15; }
__device__ inline int thread_y() { return static_cast<int>(threadIdx.x) >> 4; }

/// Four neighbours of a row from column c on; zeros beyond Dh and where there is no row.
template <class T>
__device__ inline Pack<float, 4> load_four(const T* row, int c, int Dh, bool packs) {
  Pack<float, 4> x{{0, 0, 0, 0}};
  if (row == nullptr) return x;
  if (packs && c + 4 <= Dh) {
    const Pack<T, 4> y = load_pack<T, 4>(row + c);
    for (int e = 0; e < 4; ++e) x[e] = widen(y[e]);
  } else {
    for (int e = 0; e < 4 && c + e < Dh; ++e) x[e] = widen(row[c + e]);
  }
  return x;
}

/// Which of n rows this thread fetches for product().
__device__ inline int my_row(int n) { return static_cast<int>(threadIdx.x) % n; }

/// Columns [d, d + slice) of n rows, transposed: to[column][row]. `row` is row my_row(n).
template <int n, class T>
__device__ inline void stage(float* to, const T* row, int d, int Dh, bool packs) {
  for (int c = static_cast<int>(threadIdx.x) / n * 4; c < slice; c += plain_threads / n * 4) {
    const Pack<float, 4> x = load_four(row, d + c, Dh, packs);
    for (int e = 0; e < 4; ++e) to[(c + e) * stride + my_row(n)] = x[e];
  }
}

/// c[i][j] = <left row 4 y + i, right row N x + j> of 64 left and 16 N right rows, of which the thread's own are given.
template <int N, class T>
__device__ inline void product(float (&c)[4][N], const T* left, bool left_packs, const T* right, bool right_packs, int Dh, float* slices) {
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < N; ++j) c[i][j] = 0;
  float* const right_slice = slices + slice * stride;
  for (int d = 0; d < Dh; d += slice) {
    sync_block();
    stage<tile_rows>(slices, left, d, Dh, left_packs);
    stage<16 * N>(right_slice, right, d, Dh, right_packs);
    sync_block();
#pragma unroll 4
    for (int e = 0; e < slice; ++e) {
      const auto a = load_pack<float, 4>(slices + e * stride + 4 * thread_y());
      const auto b = load_pack<float, N>(right_slice + e * stride + N * thread_x());
      for (int i = 0; i < 4; ++i)
        for (int j = 0; j < N; ++j) c[i][j] += a[i] * b[j];
    }
  }
}

/// c[i][4 j + e] += sum over `lines` l of p[l][M y + i] * row l, column 64 j + 4 x + e; source(l) is row l from the panel's first column,
/// of which `columns` are there.
template <int width, int M, class Source>
__device__ inline void accumulate(float (&c)[M][width / 16], const float* p, int lines, int columns, bool packs, float* slices, Source source) {
  for (int first = 0; first < lines; first += line_slice) {
    sync_block();
    for (int i = static_cast<int>(threadIdx.x); i < line_slice * width / 4; i += plain_threads) {
      const int line = i / (width / 4), column = i % (width / 4) * 4;
      store_pack(slices + line * width + column, load_four(source(first + line), column, columns, packs));
    }
    sync_block();
#pragma unroll 2
    for (int line = 0; line < line_slice; ++line) {
      const auto a = load_pack<float, M>(p + (first + line) * stride + M * thread_y());
#pragma unroll
      for (int j = 0; j < width / 64; ++j) {
        const auto b = load_pack<float, 4>(slices + line * width + 64 * j + 4 * thread_x());
        for (int i = 0; i < M; ++i)
          for (int e = 0; e < 4; ++e) c[i][4 * j + e] += a[i] * b[e];
      }
    }
  }
}

/// Maximum or sum over the 16 threads of one y.
__device__ inline float line_max(float v) {
  for (int mask = 8; mask > 0; mask >>= 1) {
    const float o = shfl_xor(v, mask);
    v = o > v ? o : v;
  }
  return v;
}
__device__ inline float line_sum(float v) {
  for (int mask = 8; mask > 0; mask >>= 1) v += shfl_xor(v, mask);
  return v;
}

/// The columns column + 64 j + 4 x + e of an output row, of the thread's result line, times `factor`.
template <int n>
__device__ inline void put_line(const Target& to, int64_t row_at, int column, int Dh, const float (&c)[n], float factor) {
#pragma unroll
  for (int j = 0; j < n / 4; ++j)
    for (int e = 0; e < 4; e += 2)
      put_pair(to, row_at, column + 64 * j + 4 * thread_x() + e, Dh, c[4 * j + e] * factor, c[4 * j + e + 1] * factor);
}

}  // namespace facet::gpu::attn

// Tiles of bf16 in shared memory and their fragments for mma m16n8k16.
//
// A tile has `width` columns (a multiple of 32), its 16-byte chunks exchanged within a row by the row's number (chunk ^ row % 8), so that
// the eight rows one ldmatrix step reads lie in different banks. Dh is padded with zeros to `width`.
// With g = lane / 4 and t = lane % 4, a 16 x 8 result c holds c[0], c[1] at row g, columns 2t, 2t + 1, and c[2], c[3] at row g + 8.
#pragma once
#include <type_traits>

#include "tensor/gpu/attention_mask.h"
#include "tensor/gpu/attention_paths.h"

namespace facet::gpu::attn {

/// Warps of a block that owns 16 rows with each, at most `most`; `heads`: key heads of all sequences. Half as many where whole blocks would leave
/// processors idle: one sequence of 2,048 tokens, four heads on one of keys, is 64 blocks of eight warps. A row's bits do not depend on its block.
inline int warps_of_block(int64_t rows, int64_t heads, int most) {
  const int64_t wanted = (rows + 15) / 16, blocks = (wanted + most - 1) / most * heads;
  const int64_t warps = blocks < processors() && most > 4 ? most / 2 : most;
  return static_cast<int>(wanted < warps ? wanted : warps);
}

template <int width>
__device__ inline bf16* chunk_at(bf16* tile, int row, int chunk) {
  static_assert(width == 32 || width % 64 == 0);
  const int x = width == 32 ? (row >> 1) & 3 : row & 7;
  return tile + row * width + ((chunk ^ x) << 3);
}

/// One chunk of a tile from a row of Dh elements, zeros where there is none; without `packs`, element by element.
template <int width, bool packs>
__device__ inline void copy_chunk(bf16* tile, int row, int c, const bf16* from, bool there, int Dh) {
  bf16* const to = chunk_at<width>(tile, row, c);
  if constexpr (packs) {
    copy_async16(to, from + c * 8, there && c * 8 < Dh);
  } else {
    Pack<bf16, 8> x;
    for (int e = 0; e < 8; ++e) x[e] = there && c * 8 + e < Dh ? from[c * 8 + e] : bf16{0};
    store_pack(to, x);
  }
}

/// f(row, chunk, packs) for the chunks of a tile that are this thread's to copy: one column, rows at equal distances.
template <int width, class F>
__device__ inline void each_chunk(int rows, bool packs, F f) {
  constexpr int chunks = width / 8;
  const int c = static_cast<int>(threadIdx.x) % chunks, first = static_cast<int>(threadIdx.x) / chunks;
  const int step = static_cast<int>(blockDim.x) / chunks;
  if (packs) {
#pragma unroll 4
    for (int row = first; row < rows; row += step) f(row, c, std::true_type());
  } else {
#pragma unroll 1
    for (int row = first; row < rows; row += step) f(row, c, std::false_type());
  }
}

/// Keys and values from `slot` on.
template <int width, int n>
__device__ inline void copy_keys(bf16* k_tile, bf16* v_tile, const Problem& p, const Heads<bf16>& k, const Heads<bf16>& v, int64_t b, int32_t slot,
                                 int32_t head) {
  each_chunk<width>(n, k.packs && v.packs, [&](int row, int c, auto packs) {
    const bool there = slot + row < p.S;
    copy_chunk<width, packs>(k_tile, row, c, k.at(b, slot + row, head), there, p.Dh);
    copy_chunk<width, packs>(v_tile, row, c, v.at(b, slot + row, head), there, p.Dh);
  });
}
/// What index() noted of them.
template <int n>
__device__ inline void copy_slots(Pack<int32_t, 2>* to, const Pack<int32_t, 2>* from) {
  for (int i = static_cast<int>(threadIdx.x); i < n / 2; i += static_cast<int>(blockDim.x)) copy_async16(to + 2 * i, from + 2 * i, true);
}

/// Fragment of rows [row, row + 16), columns [16 k, 16 k + 16) as the left factor.
template <int width>
__device__ inline void load_left(uint32_t (&a)[4], bf16* tile, int row, int k) {
  const int lane = lane_id();
  ldmatrix_x4(a, chunk_at<width>(tile, row + (lane & 15), 2 * k + (lane >> 4)));
}
/// The right factor of two steps, columns [32 k2, 32 k2 + 32) of rows [row, row + 8): n is the tile's row. b[0..1], then b[2..3].
template <int width>
__device__ inline void load_right(uint32_t (&b)[4], bf16* tile, int row, int k2) {
  const int lane = lane_id();
  ldmatrix_x4(b, chunk_at<width>(tile, row + (lane & 7), 4 * k2 + (lane >> 3)));
}
/// The right factor of one step for two neighbours, columns [16 n2, 16 n2 + 16) of rows [row, row + 16): n is the tile's column.
template <int width>
__device__ inline void load_right_trans(uint32_t (&b)[4], bf16* tile, int row, int n2) {
  const int lane = lane_id();
  ldmatrix_x4_trans(b, chunk_at<width>(tile, row + (lane & 15), 2 * n2 + (lane >> 4)));
}
__device__ inline void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const uint32_t b[2] = {b0, b1};
  mma_bf16(c, a, b);
}

__device__ inline uint32_t pack_pair(float low, float high) {
  return static_cast<uint32_t>(narrow<bf16>(low).bits) | static_cast<uint32_t>(narrow<bf16>(high).bits) << 16;
}

/// c[m][n] += rows of `left` from left_row on (16 each) times rows of `right` from right_row on (8 each), over all columns.
template <int width, int M, int N>
__device__ inline void multiply(float (&c)[M][N][4], bf16* left, int left_row, bf16* right, int right_row) {
#pragma unroll 4
  for (int k2 = 0; k2 < width / 32; ++k2) {
    uint32_t a[M][2][4];
#pragma unroll
    for (int m = 0; m < M; ++m) {
      load_left<width>(a[m][0], left, left_row + 16 * m, 2 * k2);
      load_left<width>(a[m][1], left, left_row + 16 * m, 2 * k2 + 1);
    }
#pragma unroll
    for (int n = 0; n < N; ++n) {
      uint32_t b[4];
      load_right<width>(b, right, right_row + 8 * n, k2);
#pragma unroll
      for (int m = 0; m < M; ++m) {
        mma(c[m][n], a[m][0], b[0], b[1]);
        mma(c[m][n], a[m][1], b[2], b[3]);
      }
    }
  }
}

/// The left fragment of columns [16 k, 16 k + 16) of a result held in registers, rounded to bf16.
template <int N>
__device__ inline void left_of(uint32_t (&a)[4], const float (&c)[N][4], int k) {
  a[0] = pack_pair(c[2 * k][0], c[2 * k][1]);
  a[1] = pack_pair(c[2 * k][2], c[2 * k][3]);
  a[2] = pack_pair(c[2 * k + 1][0], c[2 * k + 1][1]);
  a[3] = pack_pair(c[2 * k + 1][2], c[2 * k + 1][3]);
}

/// Sum or maximum over the four lanes that share a row of a result.
__device__ inline float quad_max(float v) {
  const float o = shfl_xor(v, 1), w = o > v ? o : v;
  const float u = shfl_xor(w, 2);
  return u > w ? u : w;
}
__device__ inline float quad_sum(float v) {
  v += shfl_xor(v, 1);
  return v + shfl_xor(v, 2);
}

}  // namespace facet::gpu::attn

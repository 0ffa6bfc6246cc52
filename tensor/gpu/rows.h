// What kernels on rows [.., D] share: how rows are spread over threads, packs in f32, weights of any layout, and sums over rows.
//
// These kernels move bytes and little else. A row lies across the threads of one or more warps, 16 bytes (a pack) each, and stays in
// registers: it is read once. A thread asks for its packs of several rows before it touches the first, and one barrier serves them
// all. A thread's columns never change, so weights are read once and sums over rows stay in registers too. Some 25 KB under way per
// multiprocessor keep the memory of an H200 busy (4.8 TB/s x 0.7 us / 132); 512 threads with four packs each have 32 KB.
#pragma once
#include <type_traits>

#include "tensor/gpu/launch.h"
#include "tensor/rows.h"

namespace facet::gpu {

/// A block holds `groups` rows at a time, side by side in y, each across `warps` warps in x: at most 256 threads.
struct RowShape {
  int warps, groups;
  /// `packs`: of a row; `each`: of a thread.
  RowShape(int64_t packs, int each) {
    const int64_t w = (packs + 32 * each - 1) / (32 * each);
    warps = w < 1 ? 1 : static_cast<int>(w);
    groups = warps > 4 ? 1 : 8 / warps;
  }
  int threads() const { return 32 * warps * groups; }
  dim3 block() const { return dim3(static_cast<unsigned>(32 * warps), static_cast<unsigned>(groups), 1); }
  /// All 256 threads on one row, for kernels that walk it element by element.
  static RowShape block_a_row() { return RowShape(256, 1); }
};
inline constexpr int row_threads = 256;

/// Calls f(integral constant): how many packs of a row a thread holds, 1, 2 or 4; false when a row has more than 1024.
template <class F>
bool by_packs(int64_t packs, F&& f) {
  if (packs <= 256) f(std::integral_constant<int, 1>{});
  else if (packs <= 512) f(std::integral_constant<int, 2>{});
  else if (packs <= 1024) f(std::integral_constant<int, 4>{});
  else return false;
  return true;
}

/// Rows may be read and written N elements at a time.
template <class T, int N = pack_of<T>>
bool packable(const Rows& rows, const void* data) {
  if (rows.d % N != 0 || reinterpret_cast<uintptr_t>(data) % (N * sizeof(T)) != 0) return false;
  for (int64_t s : rows.step)
    if (s % N != 0) return false;
  return true;
}
/// The same of a dense window whose rows have d elements; an absent one is in nobody's way.
template <class T, int N = pack_of<T>>
bool packable(const View& v, int64_t d) {
  return d % N == 0 && reinterpret_cast<uintptr_t>(v.data) % (N * sizeof(T)) == 0;
}

// ---- packs

template <class T, int N>
__device__ inline Pack<T, N> zero_pack() {
  Pack<T, N> p;
#pragma unroll
  for (int j = 0; j < N; ++j) p[j] = T{};
  return p;
}
/// The first column of this thread's k-th pack.
template <int N>
__device__ inline int64_t column(int k) {
  return (static_cast<int64_t>(k) * blockDim.x + threadIdx.x) * N;
}
/// Elements i .. i + N - 1 of a row of d, zeros beyond it; i is a multiple of N.
template <int N, class T>
__device__ inline Pack<T, N> load_in_row(const T* row, int64_t i, int64_t d) {
  return i < d ? load_pack<T, N>(row + i) : zero_pack<T, N>();
}
/// Stores f with "=" or "+=", one rounding.
template <class T, int N>
__device__ inline void put_pack(T* p, const float (&f)[N], bool accumulate) {
  Pack<T, N> out = accumulate ? load_pack<T, N>(p) : zero_pack<T, N>();
#pragma unroll
  for (int j = 0; j < N; ++j) out[j] = narrow<T>(accumulate ? widen(out[j]) + f[j] : f[j]);
  store_pack(p, out);
}

/// v[0 .. R-1] become their sums over the threads of a row, each the same in all of them. All threads of the block call it; `slots` is
/// shared memory of 8 R floats.
template <int R>
__device__ inline void row_sums(float (&v)[R], int warps, float* slots) {
#pragma unroll
  for (int r = 0; r < R; ++r) v[r] = warp_sum(v[r]);
  if (warps == 1) return;
  float* const mine = slots + static_cast<int>(threadIdx.y) * warps * R;
  if (lane_id() == 0) {
#pragma unroll
    for (int r = 0; r < R; ++r) mine[warp_id() * R + r] = v[r];
  }
  sync_block();
#pragma unroll
  for (int r = 0; r < R; ++r) {
    float total = mine[r];
    for (int w = 1; w < warps; ++w) total += mine[w * R + r];
    v[r] = total;
  }
  sync_block();
}

/// 1 / sqrt(mean + eps) of a row of d elements.
__device__ inline float inverse_root(float squares, int64_t d, float eps) {
  return 1 / __builtin_sqrtf(squares / static_cast<float>(d) + eps);
}

// ---- weights

/// One row [D] of f32 or bf16 with any stride, read as f32; absent: zeros. It stays in the L1 cache.
class Weights {
 public:
  explicit Weights(const View& w)
      : data_(w.data), stride_(w.shape.rank > 0 ? w.stride[-1] : 1), narrow_(w.dtype == DType::bf16), packed_(stride_ == 1 && aligned16(data_)) {}
  __device__ inline float at(int64_t i) const {
    if (!data_) return 0;
    return narrow_ ? widen(static_cast<const bf16*>(data_)[i * stride_]) : static_cast<const float*>(data_)[i * stride_];
  }
  /// The d weights will be read soon, as hint_to_l2() says.
  __device__ inline void hint(int64_t d) const {
    const size_t bytes = static_cast<size_t>(d) * (narrow_ ? 2 : 4) / 16 * 16;
    if (packed_ && data_ && bytes) hint_to_l2(data_, bytes);
  }
  /// f[j] = w[i + j]; i is a multiple of N and i + N does not exceed D.
  template <int N>
  __device__ inline void load(int64_t i, float (&f)[N]) const {
    if (packed_ && data_) {
      if (narrow_) {
        const Pack<bf16, N> p = load_pack<bf16, N>(static_cast<const bf16*>(data_) + i);
#pragma unroll
        for (int j = 0; j < N; ++j) f[j] = widen(p[j]);
      } else {
#pragma unroll
        for (int h = 0; h < N; h += 4) {
          const Pack<float, 4> p = load_pack<float, 4>(static_cast<const float*>(data_) + i + h);
#pragma unroll
          for (int j = 0; j < 4; ++j) f[h + j] = p[j];
        }
      }
    } else {
#pragma unroll
      for (int j = 0; j < N; ++j) f[j] = at(i + j);
    }
  }

 private:
  const void* data_;
  int64_t stride_;
  bool narrow_, packed_;
};

// ---- sums over rows: gradients of weights

/// Rows are cut into blocks of rows, a function of the shape alone; each leaves one partial sum, and add_partials adds them in order.
/// 512 threads for each of a Hopper GPU's 132 processors: all blocks run at once, and none is left for a second round.
struct RowBlocks {
  int64_t chunk, count;
  FACET_INLINE RowBlocks(int64_t n, int64_t multiple, int threads) {
    const int64_t most = 132 * (threads > 512 ? 1 : 512 / threads), each = (n + most - 1) / most;
    chunk = each < multiple ? multiple : (each + multiple - 1) / multiple * multiple;
    count = (n + chunk - 1) / chunk;
  }
};

/// out[i] (+)= partial[0][i] + partial[1][i] + ... for i < d, rows `stride` apart: 8 interleaved sums, each in order, added in order.
/// out f32, dense.
void add_partials(const char* op, const float* partial, int64_t count, int64_t stride, int64_t d, const Out& out);

/// Adds the threads' sums over the block's groups, in order, into to[0 .. d-1] of device memory: sums[k][j] is that of column<N>(k) + j. `total` is shared memory of 1024 floats: with more than one group, d fits. All threads call it.
template <int K, int N>
__device__ inline void add_groups(const float (&sums)[K][N], int64_t d, float* total, float* to) {
  const int groups = static_cast<int>(blockDim.y), group = static_cast<int>(threadIdx.y);
  for (int g = 0; g < groups; ++g) {
    if (g == group) {
#pragma unroll
      for (int k = 0; k < K; ++k) {
        const int64_t i = column<N>(k);
        if (i >= d) continue;
#pragma unroll
        for (int j = 0; j < N; ++j) {
          const float v = g == 0 ? sums[k][j] : total[i + j] + sums[k][j];
          if (g == groups - 1) to[i + j] = v;
          else total[i + j] = v;
        }
      }
    }
    if (groups > 1) sync_block();
  }
}

}  // namespace facet::gpu

// The product of bf16 matrices by the tensor cores (mma.sync m16n8k16, f32 sums), for any strides: what cuBLASLt would do, without it,
// and what it does not take (strides without a 1, several loops).
//
// A block of 128 threads owns 128 x 64 of c; each of its 4 warps 64 x 32. P is walked 32 terms at a time through three stages of shared
// memory, filled by 16-byte asynchronous copies two steps ahead where the operand allows it (a dense direction, multiples of 16 bytes),
// else element by element. Tiles lie in shared memory as they lie in memory, along P or across; ldmatrix turns the latter. A pitch of
// an odd number of 16-byte units keeps its eight rows on different banks.
// Bound, predicted: shared memory and the rate of mma.sync, some 40% of what cuBLASLt reaches on Hopper.
//
// The terms of c[m, n] meet in one accumulator in the order of P: its bits depend on row m of a and column n of b alone.
#include "tensor/gpu/gemm_bodies.h"
#include "tensor/gpu/gemm_device.h"
#include "tensor/gpu/launch.h"

namespace facet::gpu {
namespace {

constexpr int rows_m = 128, rows_n = 64, depth = 32, stages = 3, threads = 128;

using Chunk = Pack<bf16, 8>;

// A tile of `lines` rows of a (or columns of b) by `depth` terms; dense along the terms or along the lines.
template <int lines, bool along_terms>
struct Tile {
  static constexpr int pitch = (along_terms ? depth : lines) + 8;
  static constexpr int elements = (along_terms ? lines : depth) * pitch;

  static __device__ inline int at(int line, int term) { return along_terms ? line * pitch + term : term * pitch + line; }

  // left, terms: how many lines and terms exist from this tile's first on.
  static __device__ inline void fill(bf16* tile, const bf16* from, int64_t line_step, int64_t term_step, int64_t left, int64_t terms,
                                     bool packs) {
    constexpr int fast = along_terms ? depth : lines, chunks = fast / 8;
    if (packs) {
#pragma unroll
      for (int j = 0; j < lines * depth / 8 / threads; ++j) {
        const int i = j * threads + static_cast<int>(threadIdx.x), quick = i % chunks * 8, slow = i / chunks;
        const int line = along_terms ? slow : quick, term = along_terms ? quick : slow;
        const bool valid = line < left && term < terms;
        copy_async16(tile + slow * pitch + quick, valid ? from + line * line_step + term * term_step : from, valid);
      }
    } else {
      for (int i = static_cast<int>(threadIdx.x); i < lines * depth; i += threads) {
        const int quick = i % fast, slow = i / fast, line = along_terms ? slow : quick, term = along_terms ? quick : slow;
        tile[slow * pitch + quick] = line < left && term < terms ? from[line * line_step + term * term_step] : bf16{0};
      }
    }
  }
};

template <bool a_along, bool b_along>
__global__ __launch_bounds__(threads) void gemm_mma(Product g, int64_t tiles_m, int64_t tiles_n, bool a_packs, bool b_packs) {
  using A = Tile<rows_m, a_along>;
  using B = Tile<rows_n, b_along>;
  FACET_SHARED(Chunk, a_stages, [stages * A::elements / 8]);
  FACET_SHARED(Chunk, b_stages, [stages * B::elements / 8]);
  bf16 *const as = a_stages[0].v, *const bs = b_stages[0].v;
  const int64_t block = blockIdx.x;
  const int64_t m0 = block % tiles_m * rows_m, n0 = block / tiles_m % tiles_n * rows_n;
  const Loops::Offsets z = g.kept.at(block / tiles_m / tiles_n);
  const bf16* const a0 = static_cast<const bf16*>(g.a.data) + z.a + m0 * g.a.row;
  const bf16* const b0 = static_cast<const bf16*>(g.b.data) + z.b + n0 * g.b.column;
  const int64_t steps_each = (g.p + depth - 1) / depth, steps = steps_each * g.summed.count.numel();

  auto fill = [&](int64_t step) {
    if (step < steps) {
      const int stage = static_cast<int>(step % stages);
      const bf16 *a = a0, *b = b0;
      if (g.summed.count.rank) {
        const Loops::Offsets s = g.summed.at(step / steps_each);
        a += s.a, b += s.b, step %= steps_each;
      }
      const int64_t k = step * depth;
      A::fill(as + stage * A::elements, a + k * g.a.column, g.a.row, g.a.column, g.m - m0, g.p - k, a_packs);
      B::fill(bs + stage * B::elements, b + k * g.b.row, g.b.column, g.b.row, g.n - n0, g.p - k, b_packs);
    }
    copy_async_commit();
  };

  const int lane = lane_id(), warp_m = warp_id() / 2 * 64, warp_n = warp_id() % 2 * 32;
  const int row8 = lane % 8, low = lane / 8 % 2 * 8, high = lane / 16 * 8;  // which row of which of four 8 x 8 matrices this lane names
  float sum[4][4][4] = {};
  for (int s = 0; s + 1 < stages; ++s) fill(s);
  for (int64_t step = 0; step < steps; ++step) {
    copy_async_wait<stages - 2>();
    sync_block();  // the stage is complete for all, and the one before it is free
    fill(step + stages - 1);
    const bf16* const at = as + step % stages * A::elements;
    const bf16* const bt = bs + step % stages * B::elements;
#pragma unroll
    for (int k = 0; k < depth; k += 16) {
      uint32_t fa[4][4], fb[2][4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {  // 16 x 16 of a: lines 0-7 and 8-15, then the next eight terms
        const bf16* row = at + A::at(warp_m + i * 16 + low + (a_along ? row8 : 0), k + high + (a_along ? 0 : row8));
        if constexpr (a_along) ldmatrix_x4(fa[i], row);
        else ldmatrix_x4_trans(fa[i], row);
      }
#pragma unroll
      for (int j = 0; j < 2; ++j) {  // 16 x 16 of b: terms 0-7 and 8-15, then the next eight columns
        const bf16* row = bt + B::at(warp_n + j * 16 + high + (b_along ? row8 : 0), k + low + (b_along ? 0 : row8));
        if constexpr (b_along) ldmatrix_x4(fb[j], row);
        else ldmatrix_x4_trans(fb[j], row);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const uint32_t b[2] = {fb[j / 2][j % 2 * 2], fb[j / 2][j % 2 * 2 + 1]};
          mma_bf16(sum[i][j], fa[i], b);
        }
    }
  }
  copy_async_wait<0>();
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int64_t m = m0 + warp_m + i * 16 + lane / 4 + e / 2 * 8, n = n0 + warp_n + j * 8 + lane % 4 * 2 + e % 2;
        if (m < g.m && n < g.n) put_element(g.c, z.c + m * g.c.row + n * g.c.column, g.alpha * sum[i][j][e], g.accumulate);
      }
}

// Whether eight elements side by side can be copied at once, everywhere: `dense` is the stride along them, `extent` their number.
bool packs(const Factor& f, int64_t dense, int64_t other, int64_t extent, const Shape& kept, const Shape& summed) {
  if (dense != 1 || other % 8 || extent % 8 || !aligned16(f.data)) return false;
  for (const Shape* loops : {&kept, &summed})
    for (int64_t step : *loops)
      if (step % 8) return false;
  return true;
}

}  // namespace

void product_mma(const char* op, const Product& g) {
  const int64_t tiles_m = (g.m + rows_m - 1) / rows_m, tiles_n = (g.n + rows_n - 1) / rows_n;
  const unsigned blocks = static_cast<unsigned>(tiles_m * tiles_n * g.kept.count.numel());
  const bool a_along = g.a.row != 1 || g.a.column == 1, b_along = g.b.column != 1 || g.b.row == 1;
  const bool a_packs = a_along ? packs(g.a, g.a.column, g.a.row, g.p, g.kept.a, g.summed.a) : packs(g.a, g.a.row, g.a.column, g.m, g.kept.a, g.summed.a);
  const bool b_packs = b_along ? packs(g.b, g.b.row, g.b.column, g.p, g.kept.b, g.summed.b) : packs(g.b, g.b.column, g.b.row, g.n, g.kept.b, g.summed.b);
  const auto kernel = a_along ? (b_along ? gemm_mma<true, true> : gemm_mma<true, false>) : (b_along ? gemm_mma<false, true> : gemm_mma<false, false>);
  launch(op, kernel, blocks, threads, 0, g, tiles_m, tiles_n, a_packs, b_packs);
}

}  // namespace facet::gpu

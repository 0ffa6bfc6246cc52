// The product for everything: any strides, f32 and bf16 in any mixture, f32 multiply-adds. What cuBLASLt or the tensor cores cannot
// take comes here (f32 without a library, strides without a 1, small things).
//
// A block of 128 threads owns a 64 x 64 tile of c and walks P (and the summed loops around it) 16 terms at a time, double buffered: while
// it multiplies one tile from shared memory, the next is under way from memory to registers. Each thread keeps 8 x 4 sums, so that 12
// reads of shared memory feed 32 multiply-adds. Bound: f32 arithmetic (128 multiply-adds a clock and processor), predicted half of it.
//
// The terms of c[m, n] are added one after the other in one accumulator, so its bits depend on row m of a and column n of b alone.
#include "tensor/gpu/gemm_bodies.h"
#include "tensor/gpu/gemm_device.h"
#include "tensor/gpu/launch.h"

namespace facet::gpu {
namespace {

constexpr int tile = 64, depth = 16, threads = 128;
constexpr int loads = tile * depth / threads;

// A tile's elements of one term in shared memory.
struct alignas(16) Line {
  float v[tile + 4];
};

__device__ inline float load(const Factor& f, int64_t element) {
  if (f.dtype == DType::bf16) return widen(static_cast<const bf16*>(f.data)[element]);
  return static_cast<const float*>(f.data)[element];
}

// One operand's way into shared memory: `lines` are rows of a or columns of b. Neighbouring threads read along whichever of the two
// directions is dense.
struct Feed {
  int line, term;            // of this thread's first element
  int line_step, term_step;  // from each to its next
  int64_t at, step;          // the same in memory
  int64_t lines, terms;      // how many exist from the tile's first on

  __device__ inline Feed(int64_t line_stride, int64_t term_stride, int64_t lines_left, int64_t all_terms) : lines(lines_left), terms(all_terms) {
    const int i = static_cast<int>(threadIdx.x);
    const bool along_terms = term_stride == 1;
    line = along_terms ? i / depth : i % tile, term = along_terms ? i % depth : i / tile;
    line_step = along_terms ? threads / depth : 0, term_step = along_terms ? 0 : threads / tile;
    at = line * line_stride + term * term_stride, step = line_step * line_stride + term_step * term_stride;
  }
  __device__ inline void fetch(float (&r)[loads], const Factor& f, int64_t from, int64_t k) const {
#pragma unroll
    for (int j = 0; j < loads; ++j)
      r[j] = line + j * line_step < lines && k + term + j * term_step < terms ? load(f, from + at + j * step) : 0.f;
  }
  __device__ inline void store(Line* to, const float (&r)[loads]) const {
#pragma unroll
    for (int j = 0; j < loads; ++j) to[term + j * term_step].v[line + j * line_step] = r[j];
  }
};

__global__ __launch_bounds__(threads) void gemm_fma(Product g, int64_t tiles_m, int64_t tiles_n) {
  FACET_SHARED(Line, as, [2][depth]);
  FACET_SHARED(Line, bs, [2][depth]);
  const int64_t block = blockIdx.x;
  const int64_t m0 = block % tiles_m * tile, n0 = block / tiles_m % tiles_n * tile;
  const Loops::Offsets z = g.kept.at(block / tiles_m / tiles_n);
  const Feed fa(g.a.row, g.a.column, g.m - m0, g.p), fb(g.b.column, g.b.row, g.n - n0, g.p);
  const int64_t a0 = z.a + m0 * g.a.row, b0 = z.b + n0 * g.b.column;
  const int64_t steps_each = (g.p + depth - 1) / depth, steps = steps_each * g.summed.count.numel();
  const int tx = static_cast<int>(threadIdx.x) % 16, ty = static_cast<int>(threadIdx.x) / 16;

  float ra[loads], rb[loads], sum[8][4] = {};
  auto fetch = [&](int64_t step) {
    int64_t a = a0, b = b0;
    if (g.summed.count.rank) {
      const Loops::Offsets s = g.summed.at(step / steps_each);
      a += s.a, b += s.b, step %= steps_each;
    }
    const int64_t k = step * depth;
    fa.fetch(ra, g.a, a + k * g.a.column, k);
    fb.fetch(rb, g.b, b + k * g.b.row, k);
  };
  fetch(0);
  fa.store(as[0], ra);
  fb.store(bs[0], rb);
  sync_block();
  for (int64_t step = 0; step < steps; ++step) {
    const int now = static_cast<int>(step & 1);
    const bool more = step + 1 < steps;
    if (more) fetch(step + 1);
#pragma unroll
    for (int k = 0; k < depth; ++k) {
      const Pack<float, 4> top = load_pack<float, 4>(&as[now][k].v[ty * 4]), low = load_pack<float, 4>(&as[now][k].v[32 + ty * 4]);
      const Pack<float, 4> across = load_pack<float, 4>(&bs[now][k].v[tx * 4]);
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          sum[i][j] += top[i] * across[j];
          sum[4 + i][j] += low[i] * across[j];
        }
    }
    if (more) {  // the other half was last read before the barrier that ended the step before
      fa.store(as[1 - now], ra);
      fb.store(bs[1 - now], rb);
    }
    sync_block();
  }
#pragma unroll
  for (int i = 0; i < 8; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int64_t m = m0 + (i < 4 ? 0 : 28) + ty * 4 + i, n = n0 + tx * 4 + j;
      if (m < g.m && n < g.n) put_element(g.c, z.c + m * g.c.row + n * g.c.column, g.alpha * sum[i][j], g.accumulate);
    }
}

}  // namespace

void product_fma(const char* op, const Product& g) {
  const int64_t tiles_m = (g.m + tile - 1) / tile, tiles_n = (g.n + tile - 1) / tile;
  launch(op, gemm_fma, static_cast<unsigned>(tiles_m * tiles_n * g.kept.count.numel()), threads, 0, g, tiles_m, tiles_n);
}

}  // namespace facet::gpu

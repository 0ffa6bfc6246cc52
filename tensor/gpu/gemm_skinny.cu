// A few rows against large weights: y[r, o] = sum over i of x[r, i] w[o, i] for up to 16 rows, the products of decoding. Several weights
// (q, k and v; gate and up) are one launch. Bound by reading w once: predicted >= 85% of copy bandwidth from 4 MB of weights on. Gate and up
// may end in their GeGLU: a block then has the same outputs of both, and their products never see memory.
//
// bf16 weights (gemm_skinny_mma): a row of w lies along the terms, which is how mma.sync wants its second operand, so weights go from
// memory to the tensor cores through registers only: lane 4g + t loads 16 bytes, terms 8t .. 8t + 7 of weight row g, and uses them as
// two k-halves of four; x is loaded the same way, which makes it the same permutation of terms on both sides. One mma does 16 rows at
// once for what one row costs, so there is one kernel for 1 .. 16. f32 rows are split into three bf16 terms (gemm_terms.h).
// f32 weights (gemm_skinny_fma): lanes take 16 bytes of each row in turn; sums are combined over the lanes at the end.
//
// The terms are split over the warps of a block: step s of 32 (128) terms belongs to warp s modulo their number. Their sums meet in
// shared memory in the order of the warps. Nothing of this depends on the number of rows, outputs or weights: neither do the bits.
#include "tensor/gpu/fast_math.h"
#include "tensor/gpu/gemm_bodies.h"
#include "tensor/gpu/gemm_device.h"
#include "tensor/gpu/gemm_terms.h"
#include "tensor/gpu/launch.h"

namespace facet::gpu {
namespace {

struct Weights {
  const void* w = nullptr;
  Factor y;
  int64_t w_row = 0, outputs = 0;
  float alpha = 1;
  bool accumulate = false;
};
struct Skinny {
  const void* x = nullptr;
  int64_t x_row = 0, terms = 0;
  int rows = 0;
  Weights each[skinny_products];
  unsigned first[skinny_products + 1] = {};  // the block with which each begins
};

__device__ inline int which(const Skinny& s) {
  int i = 0;
  while (i + 1 < skinny_products && blockIdx.x >= s.first[i + 1]) ++i;
  return i;
}

// A block's sums: [warps][outputs][skinny_rows]. The warps' are added in order.
template <int warps, int outputs>
__device__ inline float total(const float* sums, int output, int row) {
  float t = 0;
#pragma unroll
  for (int v = 0; v < warps; ++v) t += sums[(v * outputs + output) * skinny_rows + row];
  return t;
}

// Adds up the sums of a block's outputs and stores them.
template <int warps, int outputs>
__device__ inline void finish(const float* sums, const Weights& w, int64_t first_output, int rows) {
  sync_block();
  for (int i = static_cast<int>(threadIdx.x); i < outputs * skinny_rows; i += warps * 32) {
    const int row = i / outputs, output = i % outputs;
    if (row >= rows || first_output + output >= w.outputs) continue;
    put_element(w.y, row * w.y.row + (first_output + output) * w.y.column, w.alpha * total<warps, outputs>(sums, output, row), w.accumulate);
  }
}

// The same where the first half of the outputs are gates and the second what goes through them; both are rounded to bf16 first.
template <int warps, int outputs>
__device__ inline void finish_geglu(const float* sums, const Weights& gate, int64_t first_output, int rows) {
  constexpr int half = outputs / 2;
  sync_block();
  for (int i = static_cast<int>(threadIdx.x); i < half * skinny_rows; i += warps * 32) {
    const int row = i / half, output = i % half;
    if (row >= rows || first_output + output >= gate.outputs) continue;
    const float g = widen(narrow<bf16>(total<warps, outputs>(sums, output, row))), u = widen(narrow<bf16>(total<warps, outputs>(sums, half + output, row)));
    put_element(gate.y, row * gate.y.row + (first_output + output) * gate.y.column, gelu_tanh_for<bf16>(g) * u, false);
  }
}

// What a block of `outputs` outputs reads first, `terms` of each row of weights, comes to L2 while the kernel before still runs. The block starts the next
// kernel's, too, so at most that much is asked for ahead of its time: 32 KB a block, which the memory has brought before two small kernels are through.
template <int outputs, class F>
__device__ inline void hint_then_wait(int64_t terms, size_t element, F row) {
  let_next_start();
  for (int i = static_cast<int>(threadIdx.x); i < outputs; i += static_cast<int>(blockDim.x))
    if (const void* p = row(i)) hint_to_l2(p, static_cast<size_t>(terms) * element);
  wait_for_previous();
}

using Words = Pack<uint32_t, 4>;  // eight bf16
__device__ inline Words words(const void* p, int64_t element, bool valid) {
  return valid ? load_pack<uint32_t, 4>(reinterpret_cast<const uint32_t*>(static_cast<const bf16*>(p) + element)) : Words{};
}

// Eight elements of x as `terms` packs of bf16.
template <int terms>
__device__ inline void load_x(Words (&to)[terms], const void* x, int64_t element, bool valid) {
  if constexpr (terms == 1) {
    to[0] = words(x, element, valid);
  } else {
    const float* p = static_cast<const float*>(x) + element;
    Pack<float, 4> half[2] = {};
    if (valid) half[0] = load_pack<float, 4>(p), half[1] = load_pack<float, 4>(p + 4);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const Terms lo = exact_terms(half[i / 2][i % 2 * 2]), hi = exact_terms(half[i / 2][i % 2 * 2 + 1]);
#pragma unroll
      for (int t = 0; t < terms; ++t) to[t][i] = lo.bits[t] | static_cast<uint32_t>(hi.bits[t]) << 16;
    }
  }
}

constexpr int mma_warps = 8;

// Each block: 8 * tiles outputs; with `geglu` half of them of the first weight, half of the second. Loads of `ahead` steps are in flight at
// once. There may be but one block for a processor, and then its eight warps alone must keep the 25 KB under way that the memory wants: eight loads of
// 512 bytes each are 32 KB. With x in f32, which takes three times the registers, there are four, or eight with four tiles.
// (1) ptxas would spread the loads between the products and keep three or four under way; it moves none across a barrier of the warp.
template <int terms, int tiles, bool geglu = false>
__global__ __launch_bounds__(mma_warps * 32) void gemm_skinny_mma(Skinny s) {
  constexpr int ahead = terms > 1 && tiles == 1 ? 4 : 8 / tiles, outputs = 8 * tiles;
  FACET_SHARED(float, sums, [mma_warps * outputs * skinny_rows]);
  constexpr int own = geglu ? outputs / 2 : outputs;  // of one weight
  const int mine = geglu ? 0 : which(s);
  const Weights& w = s.each[mine];
  const int64_t first = static_cast<int64_t>(blockIdx.x - s.first[mine]) * own;
  hint_then_wait<outputs>(s.terms < ahead * mma_warps * 32 ? s.terms : ahead * mma_warps * 32, sizeof(bf16), [&](int i) -> const void* {
    const Weights& from = i < own ? w : s.each[1];
    const int64_t o = first + i % own;
    return o < from.outputs ? static_cast<const bf16*>(from.w) + o * from.w_row : nullptr;
  });
  const int g = lane_id() / 4, t = lane_id() % 4, warp = warp_id();
  const int64_t steps = (s.terms + 31) / 32;
  float sum[tiles][4] = {};
  for (int64_t step = warp; step < steps; step += ahead * mma_warps) {
    Words wv[ahead][tiles], xv[ahead][2][terms];
#pragma unroll
    for (int u = 0; u < ahead; ++u) {
      const int64_t k = (step + u * mma_warps) * 32 + t * 8;
#pragma unroll
      for (int i = 0; i < tiles; ++i) {
        const Weights& from = i * 8 < own ? w : s.each[1];
        const int64_t o = first + i * 8 % own + g;
        wv[u][i] = words(from.w, o * from.w_row + k, k < s.terms && o < from.outputs);
      }
    }
    if constexpr (terms > 1) sync_warp();  // (1)
#pragma unroll
    for (int u = 0; u < ahead; ++u) {
      const int64_t k = (step + u * mma_warps) * 32 + t * 8;
      load_x(xv[u][0], s.x, g * s.x_row + k, k < s.terms && g < s.rows);
      load_x(xv[u][1], s.x, (g + 8) * s.x_row + k, k < s.terms && g + 8 < s.rows);
    }
    if constexpr (terms == 1) sync_warp();  // (1)
#pragma unroll
    for (int u = 0; u < ahead; ++u)
#pragma unroll
      for (int half = 0; half < 4; half += 2)
#pragma unroll
        for (int term = 0; term < terms; ++term) {
          const uint32_t a[4] = {xv[u][0][term][half], xv[u][1][term][half], xv[u][0][term][half + 1], xv[u][1][term][half + 1]};
#pragma unroll
          for (int i = 0; i < tiles; ++i) {
            const uint32_t b[2] = {wv[u][i][half], wv[u][i][half + 1]};
            mma_bf16(sum[i], a, b);
          }
        }
  }
#pragma unroll
  for (int i = 0; i < tiles; ++i)
#pragma unroll
    for (int e = 0; e < 4; ++e) sums[(warp * outputs + i * 8 + t * 2 + e % 2) * skinny_rows + g + e / 2 * 8] = sum[i][e];
  if constexpr (geglu) finish_geglu<mma_warps, outputs>(sums, w, first, s.rows);
  else finish<mma_warps, outputs>(sums, w, first, s.rows);
}

constexpr int fma_warps = 4, fma_outputs = 4;

// n values of each lane, n a power of two up to 64: their sums over the lanes, halving the values and the lanes that hold them by turns.
// Afterwards lane l holds those of index l * n / 32 + 0 .. (n / 32 - 1), or, for n < 32, index l / (32 / n) in 32 / n copies.
template <int n>
__device__ inline void sums_over_lanes(float (&v)[n]) {
  int left = n;
#pragma unroll
  for (int m = 16; m > 0; m >>= 1) {
    if (left > 1) {
      left /= 2;
      const bool upper = lane_id() & m;
#pragma unroll
      for (int i = 0; i < n / 2; ++i)
        if (i < left) {
          const float give = upper ? v[i] : v[i + left], keep = upper ? v[i + left] : v[i];
          v[i] = keep + shfl_xor(give, m);
        }
    } else {
      v[0] += shfl_xor(v[0], m);
    }
  }
}

template <int rows>
__global__ __launch_bounds__(fma_warps * 32) void gemm_skinny_fma(Skinny s) {
  FACET_SHARED(float, sums, [fma_warps * fma_outputs * skinny_rows]);
  const int mine = which(s);
  const Weights& w = s.each[mine];
  const int64_t first = static_cast<int64_t>(blockIdx.x - s.first[mine]) * fma_outputs;
  const float *wp = static_cast<const float*>(w.w), *xp = static_cast<const float*>(s.x);
  hint_then_wait<fma_outputs>(s.terms < fma_warps * 128 ? s.terms : fma_warps * 128, sizeof(float),
                              [&](int o) -> const void* { return first + o < w.outputs ? wp + (first + o) * w.w_row : nullptr; });
  float sum[fma_outputs * rows] = {};  // [output][row]
  for (int64_t k = warp_id() * 128 + lane_id() * 4; k < s.terms; k += fma_warps * 128) {
    Pack<float, 4> wv[fma_outputs];
#pragma unroll
    for (int o = 0; o < fma_outputs; ++o)
      wv[o] = first + o < w.outputs ? load_pack<float, 4>(wp + (first + o) * w.w_row + k) : Pack<float, 4>{};
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      const Pack<float, 4> xv = r < s.rows ? load_pack<float, 4>(xp + r * s.x_row + k) : Pack<float, 4>{};
#pragma unroll
      for (int o = 0; o < fma_outputs; ++o)
#pragma unroll
        for (int i = 0; i < 4; ++i) sum[o * rows + r] += wv[o][i] * xv[i];
    }
  }
  sums_over_lanes(sum);
  constexpr int n = fma_outputs * rows, each = n < 32 ? 1 : n / 32;
#pragma unroll
  for (int i = 0; i < each; ++i) {
    const int index = n < 32 ? lane_id() / (32 / n) : lane_id() * each + i;
    if (n >= 32 || lane_id() % (32 / n) == 0)
      sums[(warp_id() * fma_outputs + index / rows) * skinny_rows + index % rows] = sum[i];
  }
  finish<fma_warps, fma_outputs>(sums, w, first, s.rows);
}

// All but the blocks.
Skinny skinny_of(std::span<const Product> products) {
  Skinny s;
  const Product& any = products[0];
  s.x = any.a.data;
  s.x_row = any.a.row;
  s.terms = any.p;
  s.rows = static_cast<int>(any.m);
  for (size_t i = 0; i < products.size(); ++i) {
    const Product& g = products[i];
    s.each[i] = {g.b.data, g.c, g.b.column, g.n, g.alpha, g.accumulate};
  }
  return s;
}

constexpr int64_t wide_from = 8192;  // outputs. Enough blocks for every processor twice, then wider ones: they read x once for 32 outputs

}  // namespace

void product_skinny(const char* op, std::span<const Product> products) {
  Skinny s = skinny_of(products);
  const Product& any = products[0];
  int64_t outputs = 0;
  for (const Product& g : products) outputs += g.n;
  const bool bf16_weights = any.b.dtype == DType::bf16, bf16_rows = any.a.dtype == DType::bf16;
  const bool wide = outputs >= wide_from;
  const int64_t each = !bf16_weights ? fma_outputs : wide ? 32 : 8;
  unsigned blocks = 0;
  for (size_t i = 0; i < products.size(); ++i) {
    s.first[i] = blocks;
    blocks += static_cast<unsigned>((products[i].n + each - 1) / each);
  }
  for (size_t i = products.size(); i <= skinny_products; ++i) s.first[i] = blocks;
  const auto kernel = !bf16_weights ? (s.rows <= 4 ? gemm_skinny_fma<4> : gemm_skinny_fma<16>)
                      : bf16_rows   ? (wide ? gemm_skinny_mma<1, 4> : gemm_skinny_mma<1, 1>)
                                    : (wide ? gemm_skinny_mma<3, 4> : gemm_skinny_mma<3, 1>);
  launch_overlapping(op, kernel, blocks, bf16_weights ? mma_warps * 32 : fma_warps * 32, 0, s);
}

void product_skinny_geglu(const char* op, const Product& gate, const Product& up) {
  const Product both[] = {gate, up};
  const bool wide = gate.n + up.n >= wide_from;
  const unsigned blocks = blocks_for(gate.n, wide ? 16 : 8, INT32_MAX);
  launch_overlapping(op, wide ? gemm_skinny_mma<1, 4, true> : gemm_skinny_mma<1, 2, true>, blocks, mma_warps * 32, 0, skinny_of(both));
}

}  // namespace facet::gpu

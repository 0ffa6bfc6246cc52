// The inner loops of the f32 products: the register-tiled micro-kernel, written once on GCC vectors, and the tasks that drive it over
// packed panels (gemm_pack.h) or straight over lines (gemm_lines.h). The scheme is that of Goto and van de Geijn, "Anatomy of
// High-Performance Matrix Multiplication" (2008). Kernels that multiply bf16 natively would be further micro-kernels here, with
// panels of pairs.
#include "tensor/cpu/gemm_tiles.h"

#include "tensor/cpu/gemm_lines.h"
#include "tensor/cpu/gemm_pack.h"

namespace facet::cpu::FACET_TIER {
namespace {

// ---- the micro-kernel

// c[M, n] (+)= alpha * sum over k; one accumulator per element, terms in order of k. Panels lie at a + i * line_a + k * step_a
// (line_a is 1 when Unit) and b + k * step_b. Vectors = number of vectors that hold the n columns.
template <int M, int Vectors, bool Unit>
void multiply(int64_t k, const float* a, int64_t line_a, int64_t step_a, const float* b, int64_t step_b, float* c,
              int64_t c_step, int n, float alpha, bool add) {
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < Vectors * W; j += 16) __builtin_prefetch(c + i * c_step + j, 1);
  }
  V sum[M][Vectors] = {};
  for (; k > 0; --k, a += step_a, b += step_b) {
    V vb[Vectors];
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j) vb[j] = load(b + j * W);
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i) {
      const float va = a[Unit ? i : i * line_a];
#pragma GCC unroll 4
      for (int j = 0; j < Vectors; ++j) sum[i][j] += va * vb[j];
    }
  }
  asm("" : "+r"(c), "+r"(c_step));  // or the compiler keeps c's addresses across the loop and spills what the loop needs
  const int last = n - (Vectors - 1) * W;
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j) {
      float* p = c + i * c_step + j * W;
      if (j + 1 < Vectors || last == W) store(p, add ? load(p) + alpha * sum[i][j] : alpha * sum[i][j]);
      else store_some(p, add ? load_some(p, last) + alpha * sum[i][j] : alpha * sum[i][j], last);
    }
  }
}

using Multiply = void (*)(int64_t, const float*, int64_t, int64_t, const float*, int64_t, float*, int64_t, int, float, bool);
struct Table {
  Multiply of[NV_wide][2][MR];  // null where the sums would not fit the registers
};
template <int M, int Vectors, bool Unit>
constexpr Multiply entry() {
  if constexpr (M * Vectors <= MR * NV) return multiply<M, Vectors, Unit>;
  else return nullptr;
}
template <int... M>
constexpr Table make_table(std::integer_sequence<int, M...>) {
  return {{{{entry<M + 1, 1, false>()...}, {entry<M + 1, 1, true>()...}},
           {{entry<M + 1, 2, false>()...}, {entry<M + 1, 2, true>()...}},
           {{entry<M + 1, 3, false>()...}, {entry<M + 1, 3, true>()...}},
           {{entry<M + 1, 4, false>()...}, {entry<M + 1, 4, true>()...}}}};
}
constexpr Table kernels = make_table(std::make_integer_sequence<int, MR>{});

// Panels of a that stay in the second cache while all panels of b pass by.
constexpr int64_t cached_panels = 28;

// One block of k of one part: for each panel of b, which then sits in the first cache, all panels of a.
FACET_INLINE void multiply_part(const GemmTask& t, const GemmPart& p, const Window& a, int64_t block, int64_t k, float* own) {
  const Window b = window(p.b, p.read, p.panels, p.n0, p.n1, t.k0, k, block, own);
  const bool add = p.accumulate || block > t.k0;
  alignas(64) float tail[gemm_kc_limit * NV_wide * W];  // the last, narrower panel of a b that is read where it lies
  const bool own_tail = p.read == GemmRead::direct && p.b.lines % p.b.width && p.n1 == p.b.lines;
  if (own_tail) pack_panels<float>(p.b, p.b.panels() - 1, p.b.panels(), block, block + k, tail);
  const bool unit = a.line_step == 1;
  const int64_t width = t.a.width;
  const int panel = static_cast<int>(p.b.width);
  for (int64_t rows = t.m0, rows_end; rows < t.m1; rows = rows_end) {
    rows_end = rows + cached_panels * width < t.m1 ? rows + cached_panels * width : t.m1;
    for (int64_t n = p.n0; n < p.n1; n += panel) {
      const int columns = p.n1 - n < panel ? static_cast<int>(p.n1 - n) : panel;
      const bool in_tail = own_tail && columns < panel;
      const float* pb = in_tail ? tail : b.base + (n - p.n0) / panel * b.panel_step;
      const int64_t step_b = in_tail ? panel : b.k_step;
      const auto& kernel = kernels.of[(columns - 1) / W][unit];
      for (int64_t m = rows; m < rows_end; m += width) {
        const int64_t lines = rows_end - m < width ? rows_end - m : width;
        kernel[lines - 1](k, a.base + (m - t.m0) / width * a.panel_step, a.line_step, a.k_step, pb, step_b,
                          p.c + m * p.c_step + n, p.c_step, columns, t.alpha, add);
      }
    }
  }
}

}  // namespace

GemmTile gemm_tile() { return {MR, NR, MR_wide, NV_wide * W}; }

void gemm_pack(const GemmOperand& x, int64_t p0, int64_t p1, int64_t k0, int64_t k1, float* to) {
  if (x.dtype == DType::bf16) pack_panels<bf16>(x, p0, p1, k0, k1, to);
  else pack_panels<float>(x, p0, p1, k0, k1, to);
}

void gemm_task(const GemmTask& t) {
  if (in_lines(t)) {
    constexpr auto rows = std::make_integer_sequence<int, few>{};
    const int m = static_cast<int>(t.m1);
    return (t.parts[0].b.dtype == DType::bf16 ? lines_kernel<bf16>(m, rows) : lines_kernel<float>(m, rows))(t);
  }
  alignas(64) float own[gemm_task_floats];
  for (int64_t block = t.k0; block < t.k1; block += t.kc) {
    const int64_t k = t.k1 - block < t.kc ? t.k1 - block : t.kc;
    const Window a = window(t.a, t.read, t.panels, t.m0, t.m1, t.k0, k, block, own);
    for (int i = 0; i < t.part_count; ++i) multiply_part(t, t.parts[i], a, block, k, own);
  }
}

}  // namespace facet::cpu::FACET_TIER

FACET_TIERED(gemm_tile)
FACET_TIERED(gemm_task)
FACET_TIERED(gemm_pack)

// f32 matrices as three bf16 terms each (gemm_terms.h). Reads 4 bytes and writes 6 an element: bound by memory.
#include "tensor/gpu/gemm_terms.h"

#include "tensor/gpu/gemm_bodies.h"
#include "tensor/gpu/launch.h"

namespace facet::gpu {
namespace {

constexpr int threads = 256;

// Eight elements of a line per thread; the rest of a line up to the pitch is zero.
__global__ __launch_bounds__(threads) void gemm_terms(const float* x, int64_t lines, int64_t length, int64_t line_step, int64_t step, bf16* terms,
                                                      int64_t pitch, bool packs) {
  const int64_t packs_each = pitch / 8, total = lines * packs_each;
  for (int64_t i = blockIdx.x * static_cast<int64_t>(threads) + threadIdx.x; i < total; i += static_cast<int64_t>(gridDim.x) * threads) {
    const int64_t line = i / packs_each, at = i % packs_each * 8;
    const float* from = x + line * line_step + at * step;
    Pack<uint16_t, 8> part[3];
    Pack<float, 8> v = {};
    if (packs) {
      const Pack<float, 4> low = load_pack<float, 4>(from), high = load_pack<float, 4>(from + 4);
#pragma unroll
      for (int j = 0; j < 4; ++j) v[j] = low[j], v[4 + j] = high[j];
    } else {
#pragma unroll
      for (int j = 0; j < 8; ++j)
        if (at + j < length) v[j] = from[j * step];
    }
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const Terms t = exact_terms(v[j]);
#pragma unroll
      for (int k = 0; k < 3; ++k) part[k][j] = t.bits[k];
    }
#pragma unroll
    for (int k = 0; k < 3; ++k) store_pack(reinterpret_cast<uint16_t*>(terms + (k * lines + line) * pitch + at), part[k]);
  }
}

}  // namespace

void split_terms(const char* op, const float* x, int64_t lines, int64_t length, int64_t line_step, int64_t step, bf16* terms, int64_t pitch) {
  const bool packs = step == 1 && length % 8 == 0 && line_step % 4 == 0 && aligned16(x);
  launch(op, gemm_terms, blocks_for(lines * pitch / 8, threads, 132 * 32), threads, 0, x, lines, length, line_step, step, terms, pitch, packs);
}

}  // namespace facet::gpu

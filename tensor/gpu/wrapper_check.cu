// One kernel for each family of wrappers, a block for each case. Nothing here is fast, or has to be.
#include "tensor/gpu/wrapper_check.h"

#include "tensor/gpu/last_block.h"
#include "tensor/gpu/launch.h"

namespace facet::gpu::wrapper {
namespace {

constexpr const char* op = "check of wrappers";
constexpr int block_threads = 64;

__device__ inline int64_t block() { return blockIdx.x; }
__device__ inline int64_t thread() { return block() * int64_t{blockDim.x} + threadIdx.x; }

template <class T>
__global__ void shuffle_kernel(const ShuffleCase* how, const T* x, T* y) {
  const ShuffleCase c = how[block()];
  const T v = x[thread()];
  switch (c.kind) {
    case index: y[thread()] = shfl(v, c.operand, c.width); break;
    case up: y[thread()] = shfl_up(v, static_cast<unsigned>(c.operand), c.width); break;
    case down: y[thread()] = shfl_down(v, static_cast<unsigned>(c.operand), c.width); break;
    default: y[thread()] = shfl_xor(v, c.operand, c.width); break;
  }
}

__global__ void votes_kernel(const uint32_t* lanes, uint32_t* y) {
  const bool mine = lanes[block()] >> lane_id() & 1;
  y[3 * thread()] = ballot(mine);
  y[3 * thread() + 1] = any(mine);
  y[3 * thread() + 2] = all(mine);
}

__global__ void ldmatrix_kernel(const uint16_t* tiles, uint32_t* y) {
  FACET_SHARED(uint16_t, tile, [4][8][8]);
  for (unsigned i = threadIdx.x; i < 256; i += 32) tile[i / 64][i / 8 % 8][i % 8] = tiles[256 * block() + i];
  sync_warp();
  uint32_t plain[4], transposed[4];
  const uint16_t* row = tile[threadIdx.x / 8][threadIdx.x % 8];
  ldmatrix_x4(plain, row);
  ldmatrix_x4_trans(transposed, row);
  for (int j = 0; j < 4; ++j) y[8 * thread() + j] = plain[j], y[8 * thread() + 4 + j] = transposed[j];
}

/// The fragments are loaded as kernels do it (attention_mma.h).
__global__ void mma_kernel(const bf16* a, const bf16* b, float* c) {
  FACET_SHARED(bf16, sa, [16][16]);
  FACET_SHARED(bf16, sb, [16][8]);
  for (unsigned i = threadIdx.x; i < 256; i += 32) sa[i / 16][i % 16] = a[256 * block() + i];
  for (unsigned i = threadIdx.x; i < 128; i += 32) sb[i / 8][i % 8] = b[128 * block() + i];
  sync_warp();
  const auto lane = static_cast<unsigned>(lane_id());
  uint32_t fa[4], fb[4];
  ldmatrix_x4(fa, &sa[lane % 16][lane / 16 * 8]);
  ldmatrix_x4_trans(fb, sb[lane % 16]);  // lanes 16 .. 31 bring the same rows again
  const uint32_t two[2] = {fb[0], fb[1]};
  float fc[4];
  float* const to = c + 128 * block();
  for (unsigned i = 0; i < 4; ++i) fc[i] = to[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2];
  mma_bf16(fc, fa, two);
  for (unsigned i = 0; i < 4; ++i) to[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = fc[i];
}

__global__ void copies_kernel(const int32_t* x, const uint32_t* valid, int32_t* y) {
  FACET_SHARED(int32_t, stage, [2][32][4]);
  const int lane = lane_id();
  for (int group = 0; group < 2; ++group) {
    copy_async16(stage[group][lane], x + 256 * block() + 128 * group + 4 * lane, valid[2 * block() + group] >> lane & 1);
    copy_async_commit();
  }
  int32_t* const to = y + 256 * block() + 4 * lane;
  copy_async_wait<1>();
  for (int i = 0; i < 4; ++i) to[i] = stage[0][lane][i];
  copy_async_wait<0>();
  for (int i = 0; i < 4; ++i) to[128 + i] = stage[1][lane][i];
}

__global__ void atomics_kernel(const int32_t* values, int32_t* totals, int32_t* places) {
  const int32_t v = values[thread()];
  atomic_add(&totals[0], v);
  atomic_max(&totals[1], v);
  atomic_min(&totals[2], v);
  atomic_cas(&totals[3], 0, v + 1);
  places[atomic_add(&totals[5], 1)] = v;
  if (!last_block(&totals[6], static_cast<int32_t>(gridDim.x))) return;
  const int64_t n = int64_t{gridDim.x} * blockDim.x;
  int32_t sum = 0;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) sum += places[i];
  atomic_add(&totals[4], sum);
}

__global__ void __launch_bounds__(block_threads) sums_kernel(const float* x, float* y) {
  FACET_SHARED(float, slots, [block_threads / 32]);
  const float v = x[thread()];
  y[2 * thread()] = block_sum<block_threads>(v, slots);
  y[2 * thread() + 1] = block_max<block_threads>(v, slots);
}

__global__ void numbers_kernel(const float* x, uint16_t* narrowed, float* y) {
  const float v = x[thread()], size = v < 0 ? -v : v;
  narrowed[thread()] = narrow<bf16>(v).bits;
  y[3 * thread()] = fast_exp2(v);
  y[3 * thread() + 1] = fast_reciprocal(size);
  y[3 * thread() + 2] = fast_rsqrt(size);
}

__global__ void chain_kernel(const int32_t* x, int32_t* y) {
  const int64_t n = int64_t{gridDim.x} * blockDim.x, i = thread();
  let_next_start();
  if (threadIdx.x == 0) hint_to_l2(x + i, block_threads * sizeof(int32_t));
  wait_for_previous();
  const uint32_t v = static_cast<uint32_t>(x[n - 1 - i]);
  for (int k = 0; k < 32; ++k) spin_pause();
  y[i] = static_cast<int32_t>(3 * v + static_cast<uint32_t>(i));
}

unsigned blocks(int cases) { return static_cast<unsigned>(cases); }
const bf16* bf16s(const uint16_t* bits) { return reinterpret_cast<const bf16*>(bits); }

}  // namespace

void shuffle(int cases, const ShuffleCase* how, const float* x, float* y) { launch(op, shuffle_kernel<float>, blocks(cases), 32, 0, how, x, y); }
void shuffle(int cases, const ShuffleCase* how, const int64_t* x, int64_t* y) { launch(op, shuffle_kernel<int64_t>, blocks(cases), 32, 0, how, x, y); }
void votes(int cases, const uint32_t* lanes, uint32_t* y) { launch(op, votes_kernel, blocks(cases), 32, 0, lanes, y); }
void ldmatrix(int cases, const uint16_t* tiles, uint32_t* y) { launch(op, ldmatrix_kernel, blocks(cases), 32, 0, tiles, y); }
void mma(int cases, const uint16_t* a, const uint16_t* b, float* c) { launch(op, mma_kernel, blocks(cases), 32, 0, bf16s(a), bf16s(b), c); }
void copies(int cases, const int32_t* x, const uint32_t* valid, int32_t* y) { launch(op, copies_kernel, blocks(cases), 32, 0, x, valid, y); }
void atomics(int cases, const int32_t* values, int32_t* totals, int32_t* places) {
  launch(op, atomics_kernel, blocks(cases), block_threads, 0, values, totals, places);
}
void sums(int cases, const float* x, float* y) { launch(op, sums_kernel, blocks(cases), block_threads, 0, x, y); }
void numbers(int cases, const float* x, uint16_t* narrowed, float* y) { launch(op, numbers_kernel, blocks(cases), 32, 0, x, narrowed, y); }
void chain(int cases, int steps, int32_t* x, int32_t* y) {
  for (int s = 0; s < steps; ++s) launch_overlapping(op, chain_kernel, blocks(cases), block_threads, 0, s % 2 ? y : x, s % 2 ? x : y);
}

}  // namespace facet::gpu::wrapper

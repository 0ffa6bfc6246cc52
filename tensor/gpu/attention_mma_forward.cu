// Attention forward in bf16 for Dh <= 256: FlashAttention-2 (Dao 2023, arXiv 2307.08691) on mma m16n8k16.
//
// A block owns 16 rows per warp (rows of attention_mask.h: tokens times the heads that share keys) and walks over tiles of BN keys.
// Keys and values of the next tile are copied (cp.async) while this one is worked on. A warp holds its rows' o, m, l and the tile's
// scores in registers; p goes from result to left factor without leaving them.
//
// Traffic: q and y once; K and V of the visible tiles once per tile of rows, from L2 for all but the first. Bound by shared memory and the
// tensor cores alike: at D = 256 a warp reads 72 KB of fragments per tile of 64 keys, 576 clocks of the processor, for 524,288 multiply-adds,
// 512 clocks at 1024 a clock. Predicted: at most 420 TFLOP/s of visible work on 132 processors at 1.75 GHz, 250 to 300 with the waits between.
#include "tensor/gpu/attention_mma.h"
#include "tensor/gpu/pool.h"

namespace facet::gpu::attn {
namespace {

constexpr int most_warps = 8;

template <int D, int BN>
__global__ void __launch_bounds__(32 * most_warps)
    forward_kernel(Problem p, Index index, Heads<bf16> q, Heads<bf16> k, Heads<bf16> v, Target y, float* lse, int64_t lse_batch,
                   int64_t lse_head, int64_t lse_token) {
  FACET_DYNAMIC_SHARED(bf16, shared);
  const int warps = static_cast<int>(blockDim.x) / 32, BM = 16 * warps;
  bf16* const q_tile = shared;
  bf16* const kv_tiles = shared + BM * D;  // K, V of the even tiles, K, V of the odd ones
  auto* const slots = reinterpret_cast<Pack<int32_t, 2>*>(kv_tiles + 4 * BN * D);

  const int64_t b = blockIdx.z;
  const int32_t head = static_cast<int32_t>(blockIdx.y);
  const int32_t first = static_cast<int32_t>(gridDim.x - 1 - blockIdx.x) * BM;  // under a causal mask the last rows have most to do
  const TileRows rows(p, first);
  FACET_SHARED(Span, own, [1]);  // not in registers: they are for o
  if (threadIdx.x == 0)
    own[0] = load_spans(index.query_spans + b * index.n_query_spans, first / granule, (first % granule + BM + granule - 1) / granule,
                        index.n_query_spans);
  sync_block();
  Walk walk(own[0], false, index.key_spans + b * index.n_key_spans, BN / granule, index.n_key_spans);
  const auto* const all_slots = index.keys + b * index.n_key_spans * granule;

  const auto fetch = [&](int32_t tile, int stage) {
    const int32_t slot = tile * BN;
    bf16* const to = kv_tiles + 2 * stage * BN * D;
    copy_keys<D, BN>(to, to + BN * D, p, k, v, b, slot, head);
    copy_slots<BN>(slots + stage * BN, all_slots + slot);
  };

  int32_t tile = 0, next_tile = 0;
  bool whole = false, next_whole = false;
  bool more = walk.next(p, tile, whole);
  if (more) {
    each_chunk<D>(BM, q.packs, [&](int i, int c, auto packs) {
      int32_t t, g;
      rows.split(i, t, g);
      copy_chunk<D, packs>(q_tile, i, c, q.at(b, t, head * p.G + g), rows.valid(i), p.Dh);
    });
    fetch(tile, 0);
  }
  copy_async_commit();

  const int row = 16 * warp_id(), lane_row = lane_id() >> 2, lane_column = 2 * (lane_id() & 3);
  const Score score(p);
  Reach reach[2] = {sees_nothing, sees_nothing};
  for (int half = 0; half < 2; ++half) {
    const int i = row + lane_row + 8 * half;
    if (!rows.valid(i)) continue;
    int32_t t, g;
    rows.split(i, t, g);
    reach[half] = reach_of(p, b, t);
  }

  float o[D / 8][4] = {}, m[2] = {-infinity, -infinity}, l[2] = {0, 0};
  for (int stage = 0; more; stage ^= 1, tile = next_tile, whole = next_whole) {
    more = walk.next(p, next_tile, next_whole);
    copy_async_wait<0>();
    sync_block();
    if (more) fetch(next_tile, stage ^ 1);
    copy_async_commit();

    bf16* const k_tile = kv_tiles + 2 * stage * BN * D;
    float s[1][BN / 8][4] = {};
    multiply<D, 1, BN / 8>(s, q_tile, row, k_tile, 0);
    score.apply(s[0]);
    if (!whole) {
#pragma unroll
      for (int n = 0; n < BN / 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const Pack<int32_t, 2> key = slots[stage * BN + 8 * n + lane_column + (e & 1)];
          if (!reach[e >> 1].sees(key[0], key[1])) s[0][n][e] = -infinity;
        }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float most = -infinity;
#pragma unroll
      for (int n = 0; n < BN / 8; ++n)
        for (int e = 2 * half; e < 2 * half + 2; ++e) most = s[0][n][e] > most ? s[0][n][e] : most;
      most = quad_max(most);
      most = m[half] > most ? m[half] : most;
      const float base = most == -infinity ? 0 : most;  // nothing seen yet: exp2(-inf - 0) = 0
      const float scale = fast_exp2(m[half] - base);
      m[half] = most;
      float sum = 0;
#pragma unroll
      for (int n = 0; n < BN / 8; ++n)
        for (int e = 2 * half; e < 2 * half + 2; ++e) sum += s[0][n][e] = fast_exp2(s[0][n][e] - base);
      l[half] = l[half] * scale + sum;
#pragma unroll
      for (int n = 0; n < D / 8; ++n)
        for (int e = 2 * half; e < 2 * half + 2; ++e) o[n][e] *= scale;
    }
#pragma unroll
    for (int key = 0; key < BN / 16; ++key) {
      uint32_t a[4];
      left_of(a, s[0], key);
#pragma unroll
      for (int n2 = 0; n2 < D / 16; ++n2) {
        uint32_t r[4];
        load_right_trans<D>(r, k_tile + BN * D, 16 * key, n2);
        mma(o[2 * n2], a, r[0], r[1]);
        mma(o[2 * n2 + 1], a, r[2], r[3]);
      }
    }
  }

#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float sum = quad_sum(l[half]), inverse = sum == 0 ? 0 : 1 / sum;  // NaN stays NaN
    const int i = row + lane_row + 8 * half;
    if (!rows.valid(i)) continue;
    int32_t t, g;
    rows.split(i, t, g);
    const int32_t h = head * p.G + g;
    if (lse && lane_column == 0)
      lse[b * lse_batch + h * lse_head + t * lse_token] = sum == 0 ? -infinity : m[half] * Score::ln_2 + math::log(sum);
    const int64_t at = y.at(b, t, h);
#pragma unroll
    for (int n = 0; n < D / 8; ++n) put_pair(y, at, 8 * n + lane_column, p.Dh, o[n][2 * half] * inverse, o[n][2 * half + 1] * inverse);
  }
}

template <int D, int BN>
constexpr size_t shared_bytes(int warps) {
  return static_cast<size_t>(16 * warps * D + 4 * BN * D) * 2 + 2 * BN * 8;
}

}  // namespace

void mma_forward(const AttentionInputs& x, Out y, Out lse) {
  const Problem p = problem(x);
  const int64_t B = x.q.shape[0], rows = static_cast<int64_t>(p.T) * p.G;
  const Scratch scratch(index_bytes(B, p));
  const Index at = index(B, p, scratch.as<void>());
  const auto start = [&](auto kernel, int warps, size_t bytes) {
    const dim3 grid(blocks_for(rows, 16 * warps), static_cast<unsigned>(p.K), static_cast<unsigned>(B));
    launch("attention", kernel, grid, dim3(static_cast<unsigned>(32 * warps)), bytes, p, at, heads<bf16>(x.q), heads<bf16>(x.k),
           heads<bf16>(x.v), target(y), lse.as<float>(), lse.stride[0], lse.stride[1], lse.stride[2]);
  };
  const int warps = warps_of_block(rows, p.K * B, most_warps);
  const size_t limit = shared_limit();
  if (p.Dh <= 64) start(forward_kernel<64, 64>, warps, shared_bytes<64, 64>(warps));
  else if (p.Dh <= 128) start(forward_kernel<128, 64>, warps, shared_bytes<128, 64>(warps));
  else if (shared_bytes<256, 64>(most_warps) <= limit) start(forward_kernel<256, 64>, warps, shared_bytes<256, 64>(warps));
  else {
    const int fitting = shared_bytes<256, 32>(most_warps) <= limit ? warps : warps < 4 ? warps : 4;
    start(forward_kernel<256, 32>, fitting, shared_bytes<256, 32>(fitting));
  }
}

}  // namespace facet::gpu::attn

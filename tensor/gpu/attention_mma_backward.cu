// Attention backward in bf16 for Dh <= 256, in two kernels without float atomics: one owns keys and walks over rows of queries (dk, dv), one
// owns rows and walks over keys (dq). Both make p and ds from q, k, lse and delta: seven products of tiles where one kernel with atomics needs
// five, in exchange for sums in a fixed order (performance.md, 7).
//
// dk, dv. 32 keys per warp row, and the warps of a row share two tasks in turn. First each makes S^T = K Q^T and dP^T = V dO^T for its part of
// the tile's queries and leaves P^T and dS^T, rounded to bf16, in shared memory. Then each adds P^T dO or dS^T Q to its part of the columns of
// dV and dK side by side; those sums stay in its registers from the first tile of queries to the last, and hold all heads that share the key.
// dq. 16 rows per warp, as in the forward pass: ds goes from result to left factor in registers.
//
// Bound by shared memory and the tensor cores alike: at D = 256 a warp of the first kernel reads 68 KB of fragments per tile, 544 clocks of the
// processor, for 524,288 multiply-adds, 512 clocks at 1024 a clock; one of the second 64 KB for 393,216. Predicted: at most 287 TFLOP/s,
// counting five products of visible tiles on 132 processors at 1.75 GHz, about 170 with the waits between.
#include "tensor/gpu/attention_mma.h"
#include "tensor/gpu/pool.h"

namespace facet::gpu::attn {
namespace {

struct Tensors {
  Heads<bf16> q, k, v, dy;
};

/// D: columns; NK keys and NQ rows of queries in a tile; four warps share 32 keys. 32 * NK / 32 * 4 threads.
template <int D, int NK, int NQ>
__global__ void __launch_bounds__(4 * NK, 1)
    keys_kernel(Problem p, Index index, const RowInfo* all_rows, int32_t n_rows, Tensors x, Target dk, Target dv, int stages) {
  constexpr int sharing = 4, part_queries = NQ / sharing, part_columns = 2 * D / sharing;
  FACET_DYNAMIC_SHARED(bf16, shared);
  bf16* const k_tile = shared;
  bf16* const v_tile = k_tile + NK * D;
  bf16* const p_tile = v_tile + NK * D;  // [key][query]
  bf16* const ds_tile = p_tile + NK * NQ;
  bf16* const query_tiles = ds_tile + NK * NQ;  // q, dy of each stage
  auto* const infos = reinterpret_cast<RowInfo*>(query_tiles + stages * 2 * NQ * D);

  const int64_t b = blockIdx.z;
  const int32_t head = static_cast<int32_t>(blockIdx.y), slot = static_cast<int32_t>(blockIdx.x) * NK;
  const Span own = load_spans(index.key_spans + b * index.n_key_spans, slot / granule, NK / granule, index.n_key_spans);
  Walk walk(own, true, index.query_spans + b * index.n_query_spans, NQ / granule, index.n_query_spans);
  const RowInfo* const row_infos = all_rows + (b * p.K + head) * static_cast<int64_t>(n_rows);

  const auto fetch = [&](int32_t tile, int stage) {
    const TileRows rows(p, tile * NQ);
    bf16* const to = query_tiles + 2 * stage * NQ * D;
    each_chunk<D>(NQ, x.q.packs && x.dy.packs, [&](int i, int c, auto packs) {
      int32_t t, g;
      rows.split(i, t, g);
      copy_chunk<D, packs>(to, i, c, x.q.at(b, t, head * p.G + g), rows.valid(i), p.Dh);
      copy_chunk<D, packs>(to + NQ * D, i, c, x.dy.at(b, t, head * p.G + g), rows.valid(i), p.Dh);
    });
    for (int i = static_cast<int>(threadIdx.x); i < NQ; i += static_cast<int>(blockDim.x))
      copy_async16(infos + stage * NQ + i, row_infos + tile * NQ + i, true);
  };

  const int warp_keys = warp_id() / sharing * 32, part = warp_id() % sharing;
  const int lane_row = lane_id() >> 2, lane_column = 2 * (lane_id() & 3);
  const bool of_v = part < sharing / 2;
  const int columns = part % (sharing / 2) * part_columns;  // of dv or dk
  const Score score(p);
  Pack<int32_t, 2> key[2][2];  // rows lane_row and lane_row + 8 of the two 16-row parts
  for (int m = 0; m < 2; ++m)
    for (int half = 0; half < 2; ++half)
      key[m][half] = index.keys[(b * index.n_key_spans * granule) + slot + warp_keys + 16 * m + 8 * half + lane_row];

  float sum[2][part_columns / 8][4] = {};
  int32_t tile = 0, next_tile = 0;
  bool whole = false, next_whole = false;
  bool more = walk.next(p, tile, whole);
  if (more) {
    copy_keys<D, NK>(k_tile, v_tile, p, x.k, x.v, b, slot, head);
    fetch(tile, 0);
  }
  copy_async_commit();
  for (int stage = 0; more; tile = next_tile, whole = next_whole) {
    more = walk.next(p, next_tile, next_whole);
    copy_async_wait<0>();
    sync_block();
    if (more && stages == 2) fetch(next_tile, stage ^ 1);
    copy_async_commit();

    bf16* const q_tile = query_tiles + 2 * stage * NQ * D;
    bf16* const dy_tile = q_tile + NQ * D;
    {
      float s[2][part_queries / 8][4] = {}, dp[2][part_queries / 8][4] = {};
      multiply<D, 2, part_queries / 8>(s, k_tile, warp_keys, q_tile, part * part_queries);
      multiply<D, 2, part_queries / 8>(dp, v_tile, warp_keys, dy_tile, part * part_queries);
      score.apply(s[0]);
      score.apply(s[1]);
#pragma unroll
      for (int n = 0; n < part_queries / 8; ++n) {
        const int query = part * part_queries + 8 * n + lane_column;
        const RowInfo row[2] = {infos[stage * NQ + query], infos[stage * NQ + query + 1]};
        Reach reach[2];
        if (!whole)
          for (int e = 0; e < 2; ++e) reach[e] = reach_of(p, row[e]);
#pragma unroll
        for (int m = 0; m < 2; ++m)
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            Gradient g[2];
#pragma unroll
            for (int e = 0; e < 2; ++e) {
              g[e] = gradient(score, s[m][n][2 * half + e], dp[m][n][2 * half + e], row[e]);
              if (!whole && !reach[e].sees(key[m][half][0], key[m][half][1])) g[e] = {0, 0};
            }
            const int line = warp_keys + 16 * m + 8 * half + lane_row, at = query >> 3, rest = query & 7;
            *reinterpret_cast<uint32_t*>(chunk_at<NQ>(p_tile, line, at) + rest) = pack_pair(g[0].p, g[1].p);
            *reinterpret_cast<uint32_t*>(chunk_at<NQ>(ds_tile, line, at) + rest) = pack_pair(g[0].ds, g[1].ds);
          }
      }
    }
    sync_block();
    bf16* const left = of_v ? p_tile : ds_tile;
    bf16* const right = of_v ? dy_tile : q_tile;
#pragma unroll
    for (int k = 0; k < NQ / 16; ++k) {
      uint32_t a[2][4];
      load_left<NQ>(a[0], left, warp_keys, k);
      load_left<NQ>(a[1], left, warp_keys + 16, k);
#pragma unroll
      for (int n2 = 0; n2 < part_columns / 16; ++n2) {
        uint32_t r[4];
        load_right_trans<D>(r, right, 16 * k, columns / 16 + n2);
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          mma(sum[m][2 * n2], a[m], r[0], r[1]);
          mma(sum[m][2 * n2 + 1], a[m], r[2], r[3]);
        }
      }
    }
    if (stages == 2) {
      stage ^= 1;
    } else if (more) {
      sync_block();
      fetch(next_tile, 0);
      copy_async_commit();
    }
  }

  const Target to = of_v ? dv : dk;
  if (to.data == nullptr) return;
  const float factor = of_v ? 1 : p.scale;
#pragma unroll
  for (int m = 0; m < 2; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int32_t line = slot + warp_keys + 16 * m + 8 * half + lane_row;
      if (line >= p.S) continue;
      const int64_t at = to.at(b, line, head);
#pragma unroll
      for (int n = 0; n < part_columns / 8; ++n)
        put_pair(to, at, columns + 8 * n + lane_column, p.Dh, sum[m][n][2 * half] * factor, sum[m][n][2 * half + 1] * factor);
    }
}

constexpr int most_warps = 8;

template <int D, int NK>
__global__ void __launch_bounds__(32 * most_warps, 1)
    queries_kernel(Problem p, Index index, const RowInfo* all_rows, int32_t n_rows, Tensors x, Target dq, int stages) {
  FACET_DYNAMIC_SHARED(bf16, shared);
  const int BM = static_cast<int>(blockDim.x) / 2;
  bf16* const q_tile = shared;
  bf16* const dy_tile = q_tile + BM * D;
  bf16* const kv_tiles = dy_tile + BM * D;
  auto* const slots = reinterpret_cast<Pack<int32_t, 2>*>(kv_tiles + stages * 2 * NK * D);

  const int64_t b = blockIdx.z;
  const int32_t head = static_cast<int32_t>(blockIdx.y);
  const int32_t first = static_cast<int32_t>(gridDim.x - 1 - blockIdx.x) * BM;
  const TileRows rows(p, first);
  const Span own = load_spans(index.query_spans + b * index.n_query_spans, first / granule, (first % granule + BM + granule - 1) / granule,
                              index.n_query_spans);
  Walk walk(own, false, index.key_spans + b * index.n_key_spans, NK / granule, index.n_key_spans);
  const auto* const all_slots = index.keys + b * index.n_key_spans * granule;

  const auto fetch = [&](int32_t tile, int stage) {
    const int32_t slot = tile * NK;
    bf16* const to = kv_tiles + 2 * stage * NK * D;
    copy_keys<D, NK>(to, to + NK * D, p, x.k, x.v, b, slot, head);
    copy_slots<NK>(slots + stage * NK, all_slots + slot);
  };

  int32_t tile = 0, next_tile = 0;
  bool whole = false, next_whole = false;
  bool more = walk.next(p, tile, whole);
  if (more) {
    each_chunk<D>(BM, x.q.packs && x.dy.packs, [&](int i, int c, auto packs) {
      int32_t t, g;
      rows.split(i, t, g);
      copy_chunk<D, packs>(q_tile, i, c, x.q.at(b, t, head * p.G + g), rows.valid(i), p.Dh);
      copy_chunk<D, packs>(dy_tile, i, c, x.dy.at(b, t, head * p.G + g), rows.valid(i), p.Dh);
    });
    fetch(tile, 0);
  }
  copy_async_commit();

  const int row = 16 * warp_id(), lane_row = lane_id() >> 2, lane_column = 2 * (lane_id() & 3);
  const Score score(p);
  RowInfo info[2];
  Reach reach[2];
  for (int half = 0; half < 2; ++half) {
    info[half] = all_rows[(b * p.K + head) * static_cast<int64_t>(n_rows) + first + row + 8 * half + lane_row];
    reach[half] = reach_of(p, info[half]);
  }

  float sum[D / 8][4] = {};
  for (int stage = 0; more; tile = next_tile, whole = next_whole) {
    more = walk.next(p, next_tile, next_whole);
    copy_async_wait<0>();
    sync_block();
    if (more && stages == 2) fetch(next_tile, stage ^ 1);
    copy_async_commit();

    bf16* const k_tile = kv_tiles + 2 * stage * NK * D;
    float s[1][NK / 8][4] = {}, dp[1][NK / 8][4] = {};
    multiply<D, 1, NK / 8>(s, q_tile, row, k_tile, 0);
    multiply<D, 1, NK / 8>(dp, dy_tile, row, k_tile + NK * D, 0);
    score.apply(s[0]);
#pragma unroll
    for (int n = 0; n < NK / 8; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        s[0][n][e] = gradient(score, s[0][n][e], dp[0][n][e], info[e >> 1]).ds;
        if (!whole) {
          const Pack<int32_t, 2> key = slots[stage * NK + 8 * n + lane_column + (e & 1)];
          if (!reach[e >> 1].sees(key[0], key[1])) s[0][n][e] = 0;
        }
      }
#pragma unroll
    for (int key = 0; key < NK / 16; ++key) {
      uint32_t a[4];
      left_of(a, s[0], key);
#pragma unroll
      for (int n2 = 0; n2 < D / 16; ++n2) {
        uint32_t r[4];
        load_right_trans<D>(r, k_tile, 16 * key, n2);
        mma(sum[2 * n2], a, r[0], r[1]);
        mma(sum[2 * n2 + 1], a, r[2], r[3]);
      }
    }
    if (stages == 2) {
      stage ^= 1;
    } else if (more) {
      sync_block();
      fetch(next_tile, 0);
      copy_async_commit();
    }
  }

#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int i = row + lane_row + 8 * half;
    if (!rows.valid(i)) continue;
    int32_t t, g;
    rows.split(i, t, g);
    const int64_t at = dq.at(b, t, head * p.G + g);
#pragma unroll
    for (int n = 0; n < D / 8; ++n)
      put_pair(dq, at, 8 * n + lane_column, p.Dh, sum[n][2 * half] * p.scale, sum[n][2 * half + 1] * p.scale);
  }
}

constexpr size_t keys_bytes(int D, int NK, int NQ, int stages) {
  return static_cast<size_t>(2 * NK * D + 2 * NK * NQ + stages * 2 * NQ * D) * 2 + static_cast<size_t>(stages * NQ) * sizeof(RowInfo);
}
constexpr size_t queries_bytes(int D, int NK, int warps, int stages) {
  return static_cast<size_t>(2 * 16 * warps * D + stages * 2 * NK * D) * 2 + static_cast<size_t>(stages * NK) * 8;
}

}  // namespace

void mma_backward(const AttentionInputs& x, const Problem& p, const Index& index, const RowInfo* infos, int32_t n_rows, View dy, Out dq, Out dk,
                  Out dv) {
  const Tensors given{heads<bf16>(x.q), heads<bf16>(x.k), heads<bf16>(x.v), heads<bf16>(dy)};
  const int64_t B = x.q.shape[0], rows = static_cast<int64_t>(p.T) * p.G;
  const size_t limit = shared_limit();
  const unsigned K = static_cast<unsigned>(p.K), batch = static_cast<unsigned>(B);

  if (dk || dv) {
    const auto start = [&](auto kernel, int D, int NK, int NQ) {
      const int stages = keys_bytes(D, NK, NQ, 2) <= limit ? 2 : 1;
      launch("attention backward", kernel, dim3(blocks_for(p.S, NK), K, batch), dim3(static_cast<unsigned>(4 * NK)),
             keys_bytes(D, NK, NQ, stages), p, index, infos, n_rows, given, target(dk), target(dv), stages);
    };
    if (p.Dh <= 64) start(keys_kernel<64, 64, 64>, 64, 64, 64);
    else if (p.Dh <= 128) start(keys_kernel<128, 64, 64>, 128, 64, 64);
    else if (keys_bytes(256, 64, 64, 1) <= limit && (p.S + 63) / 64 * p.K * B >= processors()) start(keys_kernel<256, 64, 64>, 256, 64, 64);
    else start(keys_kernel<256, 32, 32>, 256, 32, 32);
  }
  if (dq) {
    const auto start = [&](auto kernel, int D, int NK) {
      const int most = queries_bytes(D, NK, most_warps, 2) <= limit ? most_warps : most_warps / 2;
      const int warps = warps_of_block(rows, p.K * B, most);
      const int stages = queries_bytes(D, NK, most, 2) <= limit ? 2 : 1;
      launch("attention backward", kernel, dim3(blocks_for(rows, 16 * warps), K, batch), dim3(static_cast<unsigned>(32 * warps)),
             queries_bytes(D, NK, warps, stages), p, index, infos, n_rows, given, target(dq), stages);
    };
    if (p.Dh <= 64) start(queries_kernel<64, 64>, 64, 64);
    else if (p.Dh <= 128) start(queries_kernel<128, 32>, 128, 32);
    else start(queries_kernel<256, 32>, 256, 32);
  }
}

}  // namespace facet::gpu::attn

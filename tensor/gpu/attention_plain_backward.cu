// Attention backward on plain multiply-adds: every f32, and bf16 with Dh > 256. The same two kernels as in attention_mma_backward.cu: one owns
// keys and walks over rows of queries (dk, dv), one owns rows and walks over keys (dq). Seven products of tiles; where Dh is wider than a
// panel, several blocks make the same p and ds.
#include "tensor/gpu/attention_paths.h"
#include "tensor/gpu/attention_plain.h"
#include "tensor/gpu/pool.h"

namespace facet::gpu::attn {
namespace {

template <class T>
struct Tensors {
  Heads<T> q, k, v, dy;
};

/// This thread's row of a tile of queries, or null.
template <class T>
__device__ inline const T* query_row(const Problem& p, const TileRows& rows, const Heads<T>& x, int64_t b, int32_t head, int i) {
  if (!rows.valid(i)) return nullptr;
  int32_t t, g;
  rows.split(i, t, g);
  return x.at(b, t, head * p.G + g);
}

template <class T, int width, int NK>
__global__ void __launch_bounds__(plain_threads, 1)
    keys_kernel(Problem p, Index index, const RowInfo* all_rows, int32_t n_rows, Tensors<T> x, Target dk, Target dv, int32_t panels) {
  constexpr int N = NK / 16;
  FACET_DYNAMIC_SHARED(float, slices);
  float* const p_weights = slices + slices_floats;  // [query][key]
  float* const ds_weights = p_weights + tile_rows * stride;
  const int64_t b = blockIdx.z / static_cast<unsigned>(panels);
  const int32_t column = static_cast<int32_t>(blockIdx.z % static_cast<unsigned>(panels)) * width;
  const int32_t head = static_cast<int32_t>(blockIdx.y), slot = static_cast<int32_t>(blockIdx.x) * NK;
  const Span own = load_spans(index.key_spans + b * index.n_key_spans, slot / granule, NK / granule, index.n_key_spans);
  Walk walk(own, true, index.query_spans + b * index.n_query_spans, tile_rows / granule, index.n_query_spans);
  const RowInfo* const row_infos = all_rows + (b * p.K + head) * static_cast<int64_t>(n_rows);
  const auto* const keys = index.keys + b * index.n_key_spans * granule + slot + N * thread_x();

  const int32_t mine = slot + my_row(NK);
  const T* const k_row = mine < p.S ? x.k.at(b, mine, head) : nullptr;
  const T* const v_row = mine < p.S ? x.v.at(b, mine, head) : nullptr;
  const Score score(p);
  float dk_sum[N][width / 16] = {}, dv_sum[N][width / 16] = {};
  int32_t tile;
  bool whole;
  while (walk.next(p, tile, whole)) {
    const TileRows rows(p, tile * tile_rows);
    float s[4][N], dp[4][N];
    product(s, query_row(p, rows, x.q, b, head, my_row(tile_rows)), x.q.packs, k_row, x.k.packs, p.Dh, slices);
    product(dp, query_row(p, rows, x.dy, b, head, my_row(tile_rows)), x.dy.packs, v_row, x.v.packs, p.Dh, slices);
    score.apply(s);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int query = 4 * thread_y() + i;
      const RowInfo row = row_infos[tile * tile_rows + query];
      const Reach reach = reach_of(p, row);
      Pack<float, N> ps, dss;
#pragma unroll
      for (int j = 0; j < N; ++j) {
        Gradient g = gradient(score, s[i][j], dp[i][j], row);
        if (!whole && !reach.sees(keys[j][0], keys[j][1])) g = {0, 0};
        ps[j] = g.p;
        dss[j] = g.ds;
      }
      store_pack(p_weights + query * stride + N * thread_x(), ps);
      store_pack(ds_weights + query * stride + N * thread_x(), dss);
    }
    const auto panel = [&](const Heads<T>& h) {
      return [&](int i) {
        const T* const row = query_row(p, rows, h, b, head, i);
        return row ? row + column : nullptr;
      };
    };
    if (dv.data) accumulate<width>(dv_sum, p_weights, tile_rows, p.Dh - column, x.dy.packs, slices, panel(x.dy));
    if (dk.data) accumulate<width>(dk_sum, ds_weights, tile_rows, p.Dh - column, x.q.packs, slices, panel(x.q));
  }
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const int32_t line = slot + N * thread_y() + i;
    if (line >= p.S) continue;
    if (dv.data) put_line(dv, dv.at(b, line, head), column, p.Dh, dv_sum[i], 1);
    if (dk.data) put_line(dk, dk.at(b, line, head), column, p.Dh, dk_sum[i], p.scale);
  }
}

template <class T, int width>
__global__ void __launch_bounds__(plain_threads, 1)
    queries_kernel(Problem p, Index index, const RowInfo* all_rows, int32_t n_rows, Tensors<T> x, Target dq, int32_t panels) {
  FACET_SHARED(float, slices, [slices_floats]);
  FACET_SHARED(float, weights, [tile_rows * stride]);  // ds[key][row]
  const int64_t b = blockIdx.z / static_cast<unsigned>(panels);
  const int32_t column = static_cast<int32_t>(blockIdx.z % static_cast<unsigned>(panels)) * width;
  const int32_t head = static_cast<int32_t>(blockIdx.y);
  const int32_t first = static_cast<int32_t>(gridDim.x - 1 - blockIdx.x) * tile_rows;
  const TileRows rows(p, first);
  const Span own = load_spans(index.query_spans + b * index.n_query_spans, first / granule, tile_rows / granule, index.n_query_spans);
  Walk walk(own, false, index.key_spans + b * index.n_key_spans, tile_rows / granule, index.n_key_spans);
  const auto* const slots = index.keys + b * index.n_key_spans * granule;
  const RowInfo* const row_infos = all_rows + (b * p.K + head) * static_cast<int64_t>(n_rows) + first + 4 * thread_y();

  const T* const q_row = query_row(p, rows, x.q, b, head, my_row(tile_rows));
  const T* const dy_row = query_row(p, rows, x.dy, b, head, my_row(tile_rows));
  const Score score(p);
  float sum[4][width / 16] = {};
  int32_t tile;
  bool whole;
  while (walk.next(p, tile, whole)) {
    const int32_t slot = tile * tile_rows, mine = slot + my_row(tile_rows);
    float s[4][4], dp[4][4];
    product(s, q_row, x.q.packs, mine < p.S ? x.k.at(b, mine, head) : nullptr, x.k.packs, p.Dh, slices);
    product(dp, dy_row, x.dy.packs, mine < p.S ? x.v.at(b, mine, head) : nullptr, x.v.packs, p.Dh, slices);
    score.apply(s);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const RowInfo row = row_infos[i];
      const Reach reach = reach_of(p, row);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        s[i][j] = gradient(score, s[i][j], dp[i][j], row).ds;
        if (!whole) {
          const Pack<int32_t, 2> key = slots[slot + 4 * thread_x() + j];
          if (!reach.sees(key[0], key[1])) s[i][j] = 0;
        }
      }
    }
#pragma unroll
    for (int j = 0; j < 4; ++j)
      store_pack(weights + (4 * thread_x() + j) * stride + 4 * thread_y(), Pack<float, 4>{{s[0][j], s[1][j], s[2][j], s[3][j]}});
    accumulate<width>(sum, weights, tile_rows, p.Dh - column, x.k.packs, slices,
                      [&](int i) { return slot + i < p.S ? x.k.at(b, slot + i, head) + column : nullptr; });
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (!rows.valid(4 * thread_y() + i)) continue;
    int32_t t, g;
    rows.split(4 * thread_y() + i, t, g);
    put_line(dq, dq.at(b, t, head * p.G + g), column, p.Dh, sum[i], p.scale);
  }
}

template <class T, int width, int NK>
void run(const AttentionInputs& x, const Problem& p, const Index& index, const RowInfo* infos, int32_t n_rows, const View& dy, const Out& dq,
         const Out& dk, const Out& dv) {
  const Tensors<T> given{heads<T>(x.q), heads<T>(x.k), heads<T>(x.v), heads<T>(dy)};
  const int32_t panels = (p.Dh + width - 1) / width;
  const unsigned K = static_cast<unsigned>(p.K), slices_z = static_cast<unsigned>(x.q.shape[0] * panels);
  if (dk || dv)
    launch("attention backward", keys_kernel<T, width, NK>, dim3(blocks_for(p.S, NK), K, slices_z), dim3(plain_threads),
           (slices_floats + 2 * tile_rows * stride) * sizeof(float), p, index, infos, n_rows, given, target(dk), target(dv), panels);
  if (dq)
    launch("attention backward", queries_kernel<T, width>, dim3(blocks_for(static_cast<int64_t>(p.T) * p.G, tile_rows), K, slices_z),
           dim3(plain_threads), 0, p, index, infos, n_rows, given, target(dq), panels);
}

}  // namespace

void plain_backward(const AttentionInputs& x, const Problem& p, const Index& index, const RowInfo* infos, int32_t n_rows, View dy, Out dq, Out dk,
                    Out dv) {
  const auto call = x.q.dtype == DType::bf16 ? run<bf16, 256, 32> : p.Dh <= 64 ? run<float, 64, 64> : p.Dh <= 128 ? run<float, 128, 64> : run<float, 256, 32>;
  call(x, p, index, infos, n_rows, dy, dq, dk, dv);
}

}  // namespace facet::gpu::attn

// Attention forward on plain multiply-adds: every f32, and bf16 with Dh > 256. A block owns 64 rows (attention_mask.h) and `width` columns of
// o; where Dh is wider, several blocks compute the same scores. Traffic: per 64 keys the block reads its q, K and V once more, 3 * 64 Dh
// elements (from L2) against 2 * 64 * 64 Dh multiply-adds.
#include "tensor/gpu/attention_paths.h"
#include "tensor/gpu/attention_plain.h"
#include "tensor/gpu/pool.h"

namespace facet::gpu::attn {
namespace {

template <class T, int width>
__global__ void __launch_bounds__(plain_threads, width == 256 ? 1 : 2)
    forward_kernel(Problem p, Index index, Heads<T> q, Heads<T> k, Heads<T> v, Target y, float* lse, int64_t lse_batch, int64_t lse_head,
                   int64_t lse_token, int32_t panels) {
  FACET_SHARED(float, slices, [slices_floats]);
  FACET_SHARED(float, weights, [tile_rows * stride]);  // p[key][row]
  FACET_SHARED(Reach, reach, [tile_rows]);  // in shared memory, like own: registers are for o
  FACET_SHARED(Span, own, [1]);
  const int64_t b = blockIdx.z / static_cast<unsigned>(panels);
  const int32_t column = static_cast<int32_t>(blockIdx.z % static_cast<unsigned>(panels)) * width;
  const int32_t head = static_cast<int32_t>(blockIdx.y);
  const int32_t first = static_cast<int32_t>(gridDim.x - 1 - blockIdx.x) * tile_rows;
  const TileRows rows(p, first);
  Walk walk(own[0], false, index.key_spans + b * index.n_key_spans, tile_rows / granule, index.n_key_spans);
  const auto* const slots = index.keys + b * index.n_key_spans * granule;

  const T* q_row = nullptr;
  Reach mine = sees_nothing;
  if (rows.valid(my_row(tile_rows))) {
    int32_t t, g;
    rows.split(my_row(tile_rows), t, g);
    q_row = q.at(b, t, head * p.G + g);
    mine = reach_of(p, b, t);
  }
  if (threadIdx.x < tile_rows) reach[threadIdx.x] = mine;
  if (threadIdx.x == 0)
    own[0] = load_spans(index.query_spans + b * index.n_query_spans, first / granule, tile_rows / granule, index.n_query_spans);
  sync_block();
  const Score score(p);
  float o[4][width / 16] = {}, m[4], l[4] = {};
  for (float& x : m) x = -infinity;
  int32_t tile;
  bool whole;
  while (walk.next(p, tile, whole)) {
    const int32_t slot = tile * tile_rows;
    const int32_t key = slot + my_row(tile_rows);
    float s[4][4];
    product(s, q_row, q.packs, key < p.S ? k.at(b, key, head) : nullptr, k.packs, p.Dh, slices);
    score.apply(s);
    if (!whole) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const Pack<int32_t, 2> other = slots[slot + 4 * thread_x() + j];
        for (int i = 0; i < 4; ++i)
          if (!reach[4 * thread_y() + i].sees(other[0], other[1])) s[i][j] = -infinity;
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float most = s[i][0];
      for (int j = 1; j < 4; ++j) most = s[i][j] > most ? s[i][j] : most;
      most = line_max(most);
      most = m[i] > most ? m[i] : most;
      const float base = most == -infinity ? 0 : most, scale = fast_exp2(m[i] - base);
      m[i] = most;
      float sum = 0;
      for (int j = 0; j < 4; ++j) sum += s[i][j] = fast_exp2(s[i][j] - base);
      l[i] = l[i] * scale + sum;
      for (float& x : o[i]) x *= scale;
    }
#pragma unroll
    for (int j = 0; j < 4; ++j)  // accumulate() starts with a barrier; product() had several since these were read
      store_pack(weights + (4 * thread_x() + j) * stride + 4 * thread_y(), Pack<float, 4>{{s[0][j], s[1][j], s[2][j], s[3][j]}});
    accumulate<width>(o, weights, tile_rows, p.Dh - column, v.packs, slices,
                      [&](int i) { return slot + i < p.S ? v.at(b, slot + i, head) + column : nullptr; });
  }

#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float sum = line_sum(l[i]), inverse = sum == 0 ? 0 : 1 / sum;
    if (!rows.valid(4 * thread_y() + i)) continue;
    int32_t t, g;
    rows.split(4 * thread_y() + i, t, g);
    const int32_t h = head * p.G + g;
    if (lse && column == 0 && thread_x() == 0)
      lse[b * lse_batch + h * lse_head + t * lse_token] = sum == 0 ? -infinity : m[i] * Score::ln_2 + math::log(sum);
    put_line(y, y.at(b, t, h), column, p.Dh, o[i], inverse);
  }
}

}  // namespace

void plain_forward(const AttentionInputs& x, Out y, Out lse) {
  const Problem p = problem(x);
  const int64_t B = x.q.shape[0], rows = static_cast<int64_t>(p.T) * p.G;
  const Scratch scratch(index_bytes(B, p));
  const Index at = index(B, p, scratch.as<void>());
  const auto start = [&]<class T>(T, auto kernel, int width) {
    const int32_t panels = (p.Dh + width - 1) / width;
    launch("attention", kernel, dim3(blocks_for(rows, tile_rows), static_cast<unsigned>(p.K), static_cast<unsigned>(B * panels)),
           dim3(plain_threads), 0, p, at, heads<T>(x.q), heads<T>(x.k), heads<T>(x.v), target(y), lse.as<float>(), lse.stride[0], lse.stride[1],
           lse.stride[2], panels);
  };
  if (x.q.dtype == DType::bf16) start(bf16{}, forward_kernel<bf16, 256>, 256);
  else if (p.Dh <= 64) start(0.f, forward_kernel<float, 64>, 64);
  else if (p.Dh <= 128) start(0.f, forward_kernel<float, 128>, 128);
  else start(0.f, forward_kernel<float, 256>, 256);
}

}  // namespace facet::gpu::attn

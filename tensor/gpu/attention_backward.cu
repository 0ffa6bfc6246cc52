// Attention backward: the index of positions, delta, and then the kernels of dk, dv and of dq for the dtype and the head size.
//
// delta[i] = <dy[i], y[i]>: one warp per row reads y and dy once, bound by memory, and leaves what the others need of a row in 16 bytes, which
// they copy with the tiles.
#include "tensor/gpu/attention_mask.h"
#include "tensor/gpu/attention_paths.h"
#include "tensor/gpu/cudnn_attention.h"
#include "tensor/gpu/pool.h"

namespace facet::gpu {
namespace attn {
namespace {

constexpr int warps = 8;
constexpr int32_t most_tile = 128;  ///< infos are padded to the largest tile of rows

template <class T>
__global__ void __launch_bounds__(32 * warps) delta_kernel(Problem p, Heads<T> y, Heads<T> dy, const float* lse, int64_t lse_batch,
                                                           int64_t lse_head, int64_t lse_token, RowInfo* infos, int32_t n_rows) {
  const int64_t b = blockIdx.z;
  const int32_t head = static_cast<int32_t>(blockIdx.y);
  const int32_t row = static_cast<int32_t>(blockIdx.x) * warps + warp_id();
  if (row >= n_rows) return;
  RowInfo info{0, 0, -1, 0};
  if (row < p.rows()) {
    const int32_t t = row / p.G, h = head * p.G + row % p.G;
    const T *const a = y.at(b, t, h), *const c = dy.at(b, t, h);
    float sum = 0;
    if (y.packs && dy.packs) {
      constexpr int n = pack_of<T>;
      for (int i = lane_id() * n; i < p.Dh; i += 32 * n) {
        const auto u = load_pack<T, n>(a + i), w = load_pack<T, n>(c + i);
        for (int e = 0; e < n; ++e) sum += widen(u[e]) * widen(w[e]);
      }
    } else {
      for (int i = lane_id(); i < p.Dh; i += 32) sum += widen(a[i]) * widen(c[i]);
    }
    info = {lse[b * lse_batch + h * lse_head + t * lse_token] * Score::log2_e, warp_sum(sum), p.q_positions.at(b, t), p.q_segments.at(b, t)};
  }
  if (lane_id() == 0) infos[(b * p.K + head) * n_rows + row] = info;
}

}  // namespace
}  // namespace attn

void attention_backward(const AttentionInputs& x, View y, View lse, View dy, Out dq, Out dk, Out dv) {
  if (x.q.numel() == 0 && x.k.numel() == 0) return;
  attention_backward_by_choice(x, y, lse, dy, dq, dk, dv, own_attention_backward);
}

void own_attention_backward(const AttentionInputs& x, View y, View lse, View dy, Out dq, Out dk, Out dv) {
  using namespace attn;
  const attn::Problem p = problem(x);
  const int64_t B = x.q.shape[0];
  const int32_t n_rows = (p.rows() + most_tile - 1) / most_tile * most_tile;
  const size_t infos_bytes = static_cast<size_t>(B * p.K * n_rows) * sizeof(RowInfo);
  const Scratch scratch(infos_bytes + index_bytes(B, p));
  RowInfo* const infos = scratch.as<RowInfo>();
  const Index at = index(B, p, scratch.as<char>() + infos_bytes);
  const auto start = [&](auto kernel, auto y_heads, auto dy_heads) {
    launch("attention backward", kernel, dim3(blocks_for(n_rows, warps), static_cast<unsigned>(p.K), static_cast<unsigned>(B)),
           dim3(32 * warps), 0, p, y_heads, dy_heads, lse.as<float>(), lse.stride[0], lse.stride[1], lse.stride[2], infos, n_rows);
  };
  if (x.q.dtype == DType::bf16) start(delta_kernel<bf16>, heads<bf16>(y), heads<bf16>(dy));
  else start(delta_kernel<float>, heads<float>(y), heads<float>(dy));
  if (x.q.dtype == DType::bf16 && p.Dh <= 256) mma_backward(x, p, at, infos, n_rows, dy, dq, dk, dv);
  else plain_backward(x, p, at, infos, n_rows, dy, dq, dk, dv);
}

}  // namespace facet::gpu

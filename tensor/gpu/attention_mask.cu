// The index of an attention call: one warp per 32 slots or rows. Reads every position and segment once and writes 8 bytes per slot and
// 16 per 32: nothing beside the keys and values of one head (512 bytes and more per slot), and a single small launch.
#include "tensor/gpu/attention_mask.h"

#include "tensor/gpu/attention_paths.h"

namespace facet::gpu::attn {
namespace {

constexpr int warps = 4;

__device__ inline int32_t warp_least(int32_t v) {
  for (int m = 16; m > 0; m >>= 1) {
    const int32_t o = shfl_xor(v, m);
    v = o < v ? o : v;
  }
  return v;
}

__global__ void __launch_bounds__(32 * warps)
    index_kernel(Problem p, StoredSpan* key_spans, Pack<int32_t, 2>* keys, StoredSpan* query_spans, int32_t n_keys, int32_t n_queries) {
  const int64_t b = blockIdx.y;
  const int32_t i = static_cast<int32_t>(blockIdx.x) * warps + warp_id();
  if (i >= n_keys + n_queries) return;
  const bool of_keys = i < n_keys;
  int32_t position = -1, segment = 0;
  if (of_keys) {
    const int32_t slot = i * granule + lane_id();
    if (slot < p.S) {
      position = p.k_positions.at(b, slot);
      segment = p.k_segments.at(b, slot);
    }
    store_pack(reinterpret_cast<int32_t*>(keys + b * n_keys * granule + slot), Pack<int32_t, 2>{{position, segment}});
  } else {
    const int32_t row = (i - n_keys) * granule + lane_id();
    if (row < p.rows()) {
      position = p.q_positions.at(b, row / p.G);
      segment = p.q_segments.at(b, row / p.G);
    }
  }
  const bool there = position >= 0;
  const int32_t lo = warp_least(there ? position : no_limit), hi = warp_max(there ? position : -1);
  const int32_t segment_lo = warp_least(there ? segment : no_limit), segment_hi = warp_max(there ? segment : -no_limit);
  const bool hidden = any(!there);
  if (lane_id() == 0) {
    StoredSpan* to = of_keys ? key_spans + b * n_keys + i : query_spans + b * n_queries + (i - n_keys);
    *to = StoredSpan{{hidden ? static_cast<int32_t>(static_cast<uint32_t>(lo) | 0x80000000u) : lo, hi, segment_lo, segment_hi}};
  }
}

int64_t key_spans(const Problem& p) { return (p.S + pad - 1) / pad * (pad / granule); }
int64_t query_spans(const Problem& p) { return (static_cast<int64_t>(p.T) * p.G + granule - 1) / granule; }

}  // namespace

size_t index_bytes(int64_t batch, const Problem& p) {
  const int64_t spans = key_spans(p) + query_spans(p);
  return static_cast<size_t>(batch * (spans * 16 + key_spans(p) * granule * 8) + 16);
}

Index index(int64_t batch, const Problem& p, void* memory) {
  const int64_t n_keys = key_spans(p), n_queries = query_spans(p);
  StoredSpan* const k = static_cast<StoredSpan*>(memory);
  StoredSpan* const q = k + batch * n_keys;
  auto* const slots = reinterpret_cast<Pack<int32_t, 2>*>(q + batch * n_queries);
  launch("attention_index", index_kernel, dim3(blocks_for(n_keys + n_queries, warps), static_cast<unsigned>(batch)), dim3(32 * warps), 0, p,
         k, slots, q, n_keys, n_queries);
  return {k, q, slots, static_cast<int32_t>(n_keys), static_cast<int32_t>(n_queries)};
}

namespace {
size_t most_shared = static_cast<size_t>(-1);
int most_processors = INT32_MAX;
}  // namespace
size_t shared_limit() { return most_shared < device().shared_bytes ? most_shared : device().shared_bytes; }
void limit_shared(size_t bytes) { most_shared = bytes; }
int processors() { return most_processors < device().processors ? most_processors : device().processors; }
void limit_processors(int most) { most_processors = most; }

Target target(const Out& o) {
  if (!o) return {};
  const bool f32 = o.dtype == DType::f32;
  const bool even = o.shape[3] % 2 == 0 && o.stride[0] % 2 == 0 && o.stride[1] % 2 == 0 && o.stride[2] % 2 == 0;
  return {const_cast<void*>(o.data), o.stride[0], o.stride[1], o.stride[2], f32, o.accumulate,
          even && reinterpret_cast<uintptr_t>(o.data) % (f32 ? 8 : 4) == 0};
}

Problem problem(const AttentionInputs& x) {
  const auto line = [](const View& v) { return v ? Line{v.as<int32_t>(), v.stride[0], v.stride[1]} : Line{}; };
  Problem p{};
  p.T = static_cast<int32_t>(x.q.shape[1]);
  p.S = static_cast<int32_t>(x.k.shape[1]);
  p.K = static_cast<int32_t>(x.k.shape[2]);
  p.G = static_cast<int32_t>(x.q.shape[2] / x.k.shape[2]);
  p.Dh = static_cast<int32_t>(x.q.shape[3]);
  p.window = static_cast<int32_t>(x.window < no_limit ? x.window : 0);
  p.causal = x.causal;
  p.scale = static_cast<float>(x.scale);
  p.cap = static_cast<float>(x.cap);
  p.group_inverse = p.G > 0 ? static_cast<uint32_t>(((uint64_t{1} << 32) + p.G - 1) / p.G) : 0;
  p.q_positions = line(x.q_positions);
  p.k_positions = line(x.k_positions);
  p.q_segments = line(x.q_segments);
  p.k_segments = line(x.k_segments);
  return p;
}

}  // namespace facet::gpu::attn

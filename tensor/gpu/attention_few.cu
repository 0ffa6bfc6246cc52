// Attention forward of few queries over many keys: decoding against a cache, where keys and values are read once and nothing else counts.
//
// The slots are cut into pieces of 128, wherever the queries are and however many slots there are. A block takes one piece for up to R rows
// (all heads that share the keys), its four warps 32 slots each. D / 8 lanes hold one key, eight elements each, so a warp reads whole rows in
// 16-byte loads, 32 / R keys per group of lanes under way at once. Their products with R rows of q are added up across the lanes by exchange:
// each step halves the number of sums a lane carries, so 32 sums over 32 lanes cost 31 shuffles, and in the end every lane has other scores
// and takes its own exponentials. Each group of lanes keeps m, l and o; they meet in the order of groups. Where there are several pieces, the block
// that comes last joins them (last_block.h), a warp per row, in an order that the pieces' numbers decide. A piece without visible keys reads its
// positions and stops.
//
// Traffic: 2 S Dh elements per key head; o of every piece is written and read once, R (Dh + 2) f32 per 128 slots, 3% of the keys and values at
// R = 4 in bf16, and stays in L2. Bound by memory up to R = 4 (100 instructions of a warp per key of 1 KB, where memory leaves time for 280);
// at R = 8 about even. More rows than 8 take several blocks, which find the keys in L2. One block joins R rows, at the 64 bytes a clock that L2
// gives a multiprocessor: 1 us for four rows of 256 over 4,096 slots, where they read 4 MB of keys and values for each key head.
#include <algorithm>

#include "tensor/gpu/attention_mask.h"
#include "tensor/gpu/attention_paths.h"
#include "tensor/gpu/last_block.h"
#include "tensor/gpu/pool.h"

namespace facet::gpu::attn {
namespace {

constexpr int warps = 4, piece_slots = 32 * warps;

// Pieces that have arrived, for each unit of a launch: R rows that share a key head. More units take several launches, long enough for gaps not
// to count.
constexpr int32_t most_units = 2048;
__device__ int32_t arrived[most_units];

/// m and l of a row over a piece.
using State = Pack<float, 2>;

/// What becomes of the rows. lse may be null.
struct Results {
  Target y;
  float* lse;
  int64_t lse_batch, lse_head, lse_token;
  /// Columns c and c + 1 of a row of key head `head`, and its lse: x and z, where weights relative to 2^most add up to `sum`.
  __device__ void put(const Problem& p, int64_t b, int32_t head, int32_t row, int c, float x, float z, float most, float sum) const {
    const int32_t t = row / p.G, h = head * p.G + row % p.G;
    const float inverse = sum == 0 ? 0 : 1 / sum;
    put_pair(y, y.at(b, t, h), c, p.Dh, x * inverse, z * inverse);
    if (lse && c == 0) lse[b * lse_batch + h * lse_head + t * lse_token] = sum == 0 ? -infinity : most * Score::ln_2 + math::log(sum);
  }
};

/// Elements [c, c + 8) of a row.
template <class T>
__device__ inline Pack<T, 8> load_eight(const T* row, int c, int Dh, bool packs) {
  if (packs && c + 8 <= Dh) {
    if constexpr (sizeof(T) == 2) {
      return load_pack<T, 8>(row + c);
    } else {
      Pack<T, 8> x;
      const auto a = load_pack<T, 4>(row + c), b = load_pack<T, 4>(row + c + 4);
      for (int e = 0; e < 4; ++e) {
        x[e] = a[e];
        x[4 + e] = b[e];
      }
      return x;
    }
  }
  Pack<T, 8> x{};
  for (int e = 0; e < 8 && c + e < Dh; ++e) x[e] = row[c + e];
  return x;
}

/// The pieces of one row, by a warp: n groups, each of every n-th piece, then the groups in order. What the pieces of a step hold is loaded at once.
template <int D>
__device__ inline void join_row(const Problem& p, const Results& results, int64_t b, int32_t head, int32_t row, const float* piece_o,
                                const State* piece_states, int32_t pieces) {
  constexpr int groups = 2048 / D;  // so that a lane holds 64 sums
  constexpr int width = D < 128 ? 2 : 4, loads = D / (32 * width);
  const auto column = [](int load) { return (32 * load + lane_id()) * width; };

  float most = -infinity;
  for (int32_t i = lane_id(); i < pieces; i += 32) most = piece_states[i][0] > most ? piece_states[i][0] : most;
  most = warp_max(most);

  Pack<float, width> o[groups][loads] = {};
  float sum = 0;  // of the lane's own group
#pragma unroll 1
  for (int32_t first = 0; first < pieces; first += groups) {
    const int32_t own = first + lane_id();
    const State state = lane_id() < groups && own < pieces ? piece_states[own] : State{{-infinity, 0}};
    const float factor = state[0] == -infinity ? 0 : fast_exp2(state[0] - most);
    sum += state[1] * factor;
    const uint32_t seen = ballot(state[0] != -infinity);  // nothing was stored for the others
    Pack<float, width> x[groups][loads];
#pragma unroll
    for (int g = 0; g < groups; ++g)
      for (int k = 0; k < loads; ++k)
        x[g][k] = (seen >> g) & 1 ? load_pack<float, width>(piece_o + (int64_t{first} + g) * D + column(k)) : Pack<float, width>{};
#pragma unroll
    for (int g = 0; g < groups; ++g) {
      const float of_piece = shfl(factor, g);
      for (int k = 0; k < loads; ++k)
        for (int e = 0; e < width; ++e) o[g][k][e] += x[g][k][e] * of_piece;
    }
  }

  Pack<float, width> all[loads] = {};
  float total = 0;
#pragma unroll
  for (int g = 0; g < groups; ++g) {
    total += shfl(sum, g);
    for (int k = 0; k < loads; ++k)
      for (int e = 0; e < width; ++e) all[k][e] += o[g][k][e];
  }
  for (int k = 0; k < loads; ++k)
    for (int e = 0; e < width; e += 2) results.put(p, b, head, row, column(k) + e, all[k][e], all[k][e + 1], most, total);
}

template <class T, int D, int R>
__global__ void __launch_bounds__(32 * warps)
    few_kernel(Problem p, Heads<T> q, Heads<T> k, Heads<T> v, Results results, float* piece_o, State* piece_states, int32_t chunks, int32_t first_unit) {
  constexpr int lanes = D / 8, groups = 32 / lanes;    // lanes per key; keys side by side in a warp
  constexpr int steps = 32 / R, span = groups * steps; // keys per group of lanes at once, and of the warp
  constexpr int mine = 32 / lanes;                     // scores a lane has in the end: of one row
  constexpr int row_lanes = lanes / R;                 // lanes that share a row
  FACET_SHARED(float, all_o, [warps * groups * R * D]);
  FACET_SHARED(State, states, [warps * groups * R]);
  begin_overlapped();

  const int32_t unit = first_unit + static_cast<int32_t>(blockIdx.y);  // [B][K][chunks]
  const int64_t b = unit / (p.K * chunks);
  const int32_t head = unit / chunks % p.K, first = unit % chunks * R;
  const int lane = lane_id() % lanes, group = lane_id() / lanes, column = 8 * lane;
  const int32_t first_slot = static_cast<int32_t>(blockIdx.x) * piece_slots + 32 * warp_id();

  int32_t position = -1, segment = 0;
  if (first_slot + lane_id() < p.S) {
    position = p.k_positions.at(b, first_slot + lane_id());
    segment = p.k_segments.at(b, first_slot + lane_id());
  }
  float q_row[R][8];
  uint32_t anybody = 0, visible = 0;  // slots that some row sees; that the lane's own row sees
#pragma unroll
  for (int r = 0; r < R; ++r) {
    const bool there = first + r < p.rows();
    const int32_t t = there ? (first + r) / p.G : 0, g = there ? (first + r) % p.G : 0;
    const uint32_t seen = ballot(there && reach_of(p, b, t).sees(position, segment));
    anybody |= seen;
    if (lane / row_lanes == r) visible = seen;
    const Pack<T, 8> x = load_eight(q.at(b, t, head * p.G + g), column, p.Dh, q.packs);
    for (int e = 0; e < 8; ++e) q_row[r][e] = widen(x[e]);
  }

  const Score score(p);
  float o[R][8] = {}, m = -infinity, l = 0;
#pragma unroll 1
  for (int base = 0; base < 32; base += span) {
    if (((anybody >> base) & (span == 32 ? full_warp : (1u << span) - 1)) == 0) continue;
    Pack<T, 8> key[steps], value[steps];
#pragma unroll
    for (int i = 0; i < steps; ++i) {
      const int slot = base + i * groups + group;
      key[i] = value[i] = Pack<T, 8>{};
      if ((anybody >> slot) & 1) {
        key[i] = load_eight(k.at(b, first_slot + slot, head), column, p.Dh, k.packs);
        value[i] = load_eight(v.at(b, first_slot + slot, head), column, p.Dh, v.packs);
      }
    }
    float s[32];  // s[r * steps + i]
#pragma unroll
    for (int i = 0; i < steps; ++i)
#pragma unroll
      for (int r = 0; r < R; ++r) {
        float sum = 0;
        for (int e = 0; e < 8; ++e) sum += q_row[r][e] * widen(key[i][e]);
        s[r * steps + i] = sum;
      }
#pragma unroll
    for (int halving = 1; halving < lanes; halving *= 2) {
      const int half = lanes / 2 / halving, n = 16 / halving;
      const bool upper = (lane & half) != 0;
#pragma unroll
      for (int i = 0; i < n; ++i) {
        const float keep = upper ? s[i + n] : s[i], give = upper ? s[i] : s[i + n];
        s[i] = keep + shfl_xor(give, half);
      }
    }
    // Now s[i], i < mine, is sum lane * mine + i of before: row lane / row_lanes, keys from lane * mine % steps on.
    float own[1][mine];
    for (int i = 0; i < mine; ++i) own[0][i] = s[i];
    score.apply(own);
    float most = m;
#pragma unroll
    for (int i = 0; i < mine; ++i) {
      const int slot = base + (lane * mine % steps + i) * groups + group;
      if (((visible >> slot) & 1) == 0) own[0][i] = -infinity;
      most = own[0][i] > most ? own[0][i] : most;
    }
#pragma unroll
    for (int half = row_lanes / 2; half > 0; half /= 2) {
      const float other = shfl_xor(most, half);
      most = other > most ? other : most;
    }
    const float zero = most == -infinity ? 0 : most, shrink = fast_exp2(m - zero);
    m = most;
    l *= shrink;
#pragma unroll
    for (int i = 0; i < mine; ++i) l += own[0][i] = fast_exp2(own[0][i] - zero);
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const float row_shrink = shfl(shrink, r * row_lanes, lanes);
      for (int e = 0; e < 8; ++e) o[r][e] *= row_shrink;
#pragma unroll
      for (int i = 0; i < steps; ++i) {
        const float weight = shfl(own[0][i % mine], r * row_lanes + i / mine, lanes);
        for (int e = 0; e < 8; ++e) o[r][e] += weight * widen(value[i][e]);
      }
    }
  }
#pragma unroll
  for (int half = row_lanes / 2; half > 0; half /= 2) l += shfl_xor(l, half);
  if (l != l) m = 0;  // scores that are not numbers have no largest; -inf would say that nothing was seen

  const int part = warp_id() * groups + group;
  if (lane % row_lanes == 0) states[part * R + lane / row_lanes] = State{{m, l}};
#pragma unroll
  for (int r = 0; r < R; ++r)
    for (int e = 0; e < 8; e += 4)
      store_pack(all_o + (part * R + r) * D + column + e, Pack<float, 4>{{o[r][e], o[r][e + 1], o[r][e + 2], o[r][e + 3]}});
  sync_block();

  const int64_t pieces = gridDim.x, first_piece = int64_t{blockIdx.y} * (R * pieces);  // [unit][row][piece]
  for (int i = 2 * static_cast<int>(threadIdx.x); i < R * D; i += 64 * warps) {
    const int r = i / D, c = i % D;
    if (first + r >= p.rows()) continue;
    float most = -infinity, sum = 0, x = 0, z = 0;
    for (int w = 0; w < warps * groups; ++w) most = states[w * R + r][0] > most ? states[w * R + r][0] : most;
    for (int w = 0; w < warps * groups && most != -infinity; ++w) {
      const float factor = fast_exp2(states[w * R + r][0] - most);
      sum += states[w * R + r][1] * factor;
      x += all_o[(w * R + r) * D + c] * factor;
      z += all_o[(w * R + r) * D + c + 1] * factor;
    }
    if (pieces == 1) {
      results.put(p, b, head, first + r, c, x, z, most, sum);
    } else {
      const int64_t at = first_piece + r * pieces + blockIdx.x;
      if (c == 0) piece_states[at] = State{{most, sum}};
      if (most != -infinity) store_pack(piece_o + at * D + c, Pack<float, 2>{{x, z}});
    }
  }
  if (pieces == 1 || !last_block(&arrived[blockIdx.y], static_cast<int32_t>(pieces))) return;
  for (int r = warp_id(); r < R && first + r < p.rows(); r += warps) {
    const int64_t at = first_piece + r * pieces;
    join_row<D>(p, results, b, head, first + r, piece_o + at * D, piece_states + at, static_cast<int32_t>(pieces));
  }
}

template <class T, int D, int R>
void run(const AttentionInputs& x, const Problem& p, const Out& y, const Out& lse) {
  const int32_t chunks = (p.rows() + R - 1) / R, pieces = p.S > piece_slots ? (p.S + piece_slots - 1) / piece_slots : 1;
  const int32_t units = static_cast<int32_t>(x.q.shape[0]) * p.K * chunks, at_once = std::min(units, most_units);
  const size_t piece_rows = pieces > 1 ? static_cast<size_t>(at_once) * R * static_cast<size_t>(pieces) : 0;
  const Scratch scratch(piece_rows * (D * sizeof(float) + sizeof(State)) + 16);
  float* const piece_o = scratch.as<float>();
  State* const states = reinterpret_cast<State*>(piece_o + piece_rows * D);
  const Results results{target(y), lse.as<float>(), lse.stride[0], lse.stride[1], lse.stride[2]};
  for (int32_t first = 0; first < units; first += at_once)
    launch_overlapping("attention", few_kernel<T, D, R>, dim3(static_cast<unsigned>(pieces), static_cast<unsigned>(std::min(at_once, units - first))), dim3(32 * warps), 0,
           p, heads<T>(x.q), heads<T>(x.k), heads<T>(x.v), results, piece_o, states, chunks, first);
}

}  // namespace

void few_forward(const AttentionInputs& x, Out y, Out lse) {
  const Problem p = problem(x);
  const bool four = p.rows() <= 4;
  const auto call = x.q.dtype == DType::f32 ? p.Dh <= 64 ? run<float, 64, 4> : run<float, 256, 4>
                    : p.Dh <= 64            ? four ? run<bf16, 64, 4> : run<bf16, 64, 8>
                    : p.Dh <= 128           ? four ? run<bf16, 128, 4> : run<bf16, 128, 8>
                    : four                  ? run<bf16, 256, 4>
                                            : run<bf16, 256, 8>;
  call(x, p, y, lse);
}

}  // namespace facet::gpu::attn

// Who sees whom, for the attention kernels: the problem as kernels get it, rows of queries, and which tiles of keys (or of queries) a
// tile has to visit at all.
//
// Rows. The H/K query heads that share a key head are worked on together: row r of key head h is query token r / G, query head h G + r % G,
// with G = H/K, so a tile of rows loads its keys and values once for all of them, and covers few tokens (a narrow band under a window).
//
// Spans. index() reads positions and segments once per call and notes, for every 32 slots or rows, the smallest and largest position and
// segment. A Walk goes through the tiles some element of the own tile may see, 32 tiles per step, and says which are visible as a whole.
#pragma once
#include "tensor/gpu/launch.h"
#include "tensor/kernels/attention.h"

namespace facet::gpu::attn {

inline constexpr int granule = 32;  ///< slots or rows per Span
inline constexpr int pad = 64;      ///< slots are noted up to a multiple of it: the largest tile of keys

/// A window [B, T, H, Dh], dense along Dh.
template <class T>
struct Heads {
  const T* data;
  int64_t batch, token, head;
  bool packs;  ///< every row begins at a multiple of 16 bytes and has whole packs
  __device__ const T* at(int64_t b, int64_t t, int64_t h) const { return data + b * batch + t * token + h * head; }
};

/// An output window, f32 or bf16.
struct Target {
  void* data;
  int64_t batch, token, head;
  bool f32, accumulate;
  bool pairs;  ///< two neighbours may be stored at once
  __device__ int64_t at(int64_t b, int64_t t, int64_t h) const { return b * batch + t * token + h * head; }
};

/// i32 [B, n]; absent: zeros.
struct Line {
  const int32_t* data;
  int64_t batch, step;
  __device__ int32_t at(int64_t b, int64_t i) const { return data ? data[b * batch + i * step] : 0; }
};

struct Problem {
  int32_t T, S, K, G, Dh;
  int32_t window;  ///< 0: unlimited
  bool causal;
  float scale, cap;  ///< cap 0: none
  uint32_t group_inverse;
  Line q_positions, k_positions, q_segments, k_segments;
  FACET_INLINE int32_t rows() const { return T * G; }
};

/// Token and head within the group of the rows of a tile, dividing once per tile.
struct TileRows {
  int32_t token, offset, rows, first;
  uint32_t inverse;
  int32_t G;
  __device__ TileRows(const Problem& p, int32_t first_row)
      : token(first_row / p.G), offset(first_row % p.G), rows(p.rows()), first(first_row), inverse(p.group_inverse), G(p.G) {}
  __device__ bool valid(int i) const { return first + i < rows; }
  /// offset + i stays below G + 128, where the product with the inverse, ceil(2^32 / G), is exact.
  __device__ void split(int i, int32_t& t, int32_t& g) const {
    const uint32_t j = static_cast<uint32_t>(offset + i);
    const uint32_t more = G == 1 ? j : static_cast<uint32_t>((static_cast<uint64_t>(j) * inverse) >> 32);
    t = token + static_cast<int32_t>(more);
    g = static_cast<int32_t>(j) - static_cast<int32_t>(more) * G;
  }
};

inline constexpr int32_t no_limit = 0x7fffffff;
inline constexpr float infinity = __builtin_inff();
/// Numbers from 65536 on are trunk << 16 | branch: what such a query sees besides its own.
__device__ inline int32_t trunk_of(int32_t segment) { return segment >= 65536 ? segment & ~0xffff : segment; }

/// The keys a query sees: lo <= position <= hi in one of two segments.
struct Reach {
  int32_t lo, hi, segment, trunk;
  __device__ bool sees(int32_t position, int32_t other) const {
    return position >= lo && position <= hi && (other == segment || other == trunk);
  }
};
inline constexpr Reach sees_nothing{1, 0, 0, 0};
__device__ inline Reach reach_from(const Problem& p, int32_t position, int32_t segment) {
  if (position < 0) return sees_nothing;
  return {p.window > 0 && position >= p.window ? position - p.window + 1 : 0, p.causal ? position : no_limit, segment, trunk_of(segment)};
}
__device__ inline Reach reach_of(const Problem& p, int64_t b, int64_t t) {
  return reach_from(p, p.q_positions.at(b, t), p.q_segments.at(b, t));
}

/// Smallest and largest position and segment of those with a position; `hidden` when some have none.
struct Span {
  int32_t lo, hi, segment_lo, segment_hi;
  bool hidden;
  __device__ void merge(const Span& o) {
    lo = o.lo < lo ? o.lo : lo;
    hi = o.hi > hi ? o.hi : hi;
    segment_lo = o.segment_lo < segment_lo ? o.segment_lo : segment_lo;
    segment_hi = o.segment_hi > segment_hi ? o.segment_hi : segment_hi;
    hidden = hidden || o.hidden;
  }
};
inline constexpr Span nobody{no_limit, -1, no_limit, -no_limit, false};
/// Stored as 16 bytes; the sign of lo is `hidden`.
using StoredSpan = Pack<int32_t, 4>;
__device__ inline Span load_span(const StoredSpan* p) {
  const StoredSpan s = *p;
  return {s[0] & no_limit, s[1], s[2], s[3], s[0] < 0};
}
/// Of a tile: `count` neighbours from `first`, as far as there are any.
__device__ inline Span load_spans(const StoredSpan* spans, int32_t first, int32_t count, int32_t total) {
  Span r = nobody;
  for (int32_t i = first; i < first + count; ++i)
    if (i < total) r.merge(load_span(spans + i));
  return r;
}

enum class Sight { none, some, whole };
/// Never `none` when a query of q sees a key of k; `whole` only when each sees all.
__device__ inline Sight sight(const Problem& p, const Span& q, const Span& k) {
  if (q.hi < 0 || k.hi < 0) return Sight::none;
  if (p.causal && k.lo > q.hi) return Sight::none;
  if (p.window > 0 && q.lo - k.hi >= p.window) return Sight::none;
  const int32_t trunk_lo = trunk_of(q.segment_lo), trunk_hi = trunk_of(q.segment_hi);
  const bool own = k.segment_lo <= q.segment_hi && k.segment_hi >= q.segment_lo;
  const bool trunk = k.segment_lo <= trunk_hi && k.segment_hi >= trunk_lo;
  if (!own && !trunk) return Sight::none;
  const bool positions = !q.hidden && !k.hidden && (!p.causal || k.hi <= q.lo) && (p.window == 0 || q.hi - k.lo < p.window);
  const bool segments = k.segment_lo == k.segment_hi && ((q.segment_lo == k.segment_lo && q.segment_hi == k.segment_lo) ||
                                                         (trunk_lo == k.segment_lo && trunk_hi == k.segment_lo));
  return positions && segments ? Sight::whole : Sight::some;
}

/// What index() leaves behind. Of batch row b: key_spans from b * n_key_spans on, likewise query_spans; keys from b * n_key_spans * granule.
struct Index {
  const StoredSpan *key_spans, *query_spans;
  const Pack<int32_t, 2>* keys;  ///< position and segment of every slot, position -1 beyond S
  int32_t n_key_spans, n_query_spans;
};
/// Bytes that index() needs for `batch` rows, and the index at that place once its kernel has run.
size_t index_bytes(int64_t batch, const Problem& p);
Index index(int64_t batch, const Problem& p, void* memory);

/// The tiles that `own` sees (or is seen by, when own holds keys), ascending. `own` must outlive the walk. All 32 lanes must take every step.
class Walk {
 public:
  __device__ Walk(const Span& own, bool own_is_keys, const StoredSpan* spans, int32_t per_tile, int32_t n_spans)
      : own_(&own), spans_(spans), per_tile_(per_tile), n_spans_(n_spans), own_is_keys_(own_is_keys) {}
  /// False: there are no more.
  __device__ bool next(const Problem& p, int32_t& tile, bool& whole) {
    while (some_ == 0) {
      base_ += 32;
      if (static_cast<int64_t>(base_) * per_tile_ >= n_spans_) return false;
      const int32_t first = (base_ + lane_id()) * per_tile_;
      Sight s = Sight::none;
      if (first < n_spans_) {
        const Span other = load_spans(spans_, first, per_tile_, n_spans_);
        s = own_is_keys_ ? sight(p, other, *own_) : sight(p, *own_, other);
      }
      some_ = ballot(s != Sight::none);
      whole_ = ballot(s == Sight::whole);
    }
    const uint32_t lowest = some_ & (0u - some_);
    some_ ^= lowest;
    whole = (whole_ & lowest) != 0;
    tile = base_ + static_cast<int32_t>(__builtin_bit_cast(uint32_t, static_cast<float>(lowest)) >> 23) - 127;  // log2 of one bit
    return true;
  }

 private:
  const Span* own_;
  const StoredSpan* spans_;
  int32_t per_tile_, n_spans_, base_ = -32;
  bool own_is_keys_;
  uint32_t some_ = 0, whole_ = 0;
};

/// Scores in base 2, in place: exp2(applied s) = exp(cap tanh(scale s / cap)).
struct Score {
  float plain, inner, outer, outer_inverse;
  bool capped;
  __device__ explicit Score(const Problem& p)
      : plain(p.scale * log2_e), inner(p.cap > 0 ? p.scale / p.cap : 0), outer(p.cap * log2_e), outer_inverse(p.cap > 0 ? 1 / outer : 0), capped(p.cap > 0) {}
  template <int M, int N>
  __device__ void apply(float (&s)[M][N]) const {
    if (capped) {
#pragma unroll
      for (int n = 0; n < M; ++n)
#pragma unroll
        for (int e = 0; e < N; ++e) s[n][e] = outer * math::tanh(s[n][e] * inner);
    } else {
#pragma unroll
      for (int n = 0; n < M; ++n)
#pragma unroll
        for (int e = 0; e < N; ++e) s[n][e] *= plain;
    }
  }
  /// Of the cap, at an applied score: 1 - tanh^2.
  __device__ float slope(float applied) const {
    const float t = applied * outer_inverse;
    return 1 - t * t;
  }
  static constexpr float log2_e = 1.44269504088896341f;
  static constexpr float ln_2 = 0.693147180559945309f;
};

/// Two neighbours of an output row, at column c; columns from Dh on are padding.
__device__ inline void put_pair(const Target& to, int64_t row_at, int c, int Dh, float x, float y) {
  const int64_t at = row_at + c;
  if (to.pairs) {
    if (c >= Dh) return;
    if (to.f32) {
      float* const p = static_cast<float*>(to.data) + at;
      Pack<float, 2> v{{x, y}};
      if (to.accumulate) {
        const auto old = load_pack<float, 2>(p);
        v[0] += old[0];
        v[1] += old[1];
      }
      store_pack(p, v);
    } else {
      bf16* const p = static_cast<bf16*>(to.data) + at;
      if (to.accumulate) {
        const auto old = load_pack<bf16, 2>(p);
        x += widen(old[0]);
        y += widen(old[1]);
      }
      store_pack(p, Pack<bf16, 2>{{narrow<bf16>(x), narrow<bf16>(y)}});
    }
    return;
  }
  for (int e = 0; e < 2 && c + e < Dh; ++e) {
    if (to.f32) put(static_cast<float*>(to.data) + at + e, e ? y : x, to.accumulate);
    else put(static_cast<bf16*>(to.data) + at + e, e ? y : x, to.accumulate);
  }
}

/// What the backward kernels need of a row of queries. [B, K, n_rows], where the rows beyond T * G have no position.
struct alignas(16) RowInfo {
  float lse2;  ///< in base 2
  float delta;
  int32_t position, segment;
};
__device__ inline Reach reach_of(const Problem& p, const RowInfo& row) { return reach_from(p, row.position, row.segment); }

/// p and ds of an applied score: p = exp(c - lse), ds = p (dp - delta) times the slope of the cap. (scale is left to the end.)
struct Gradient {
  float p, ds;
};
__device__ inline Gradient gradient(const Score& score, float s, float dp, const RowInfo& row) {
  const float p = fast_exp2(s - row.lse2);
  return {p, p * (dp - row.delta) * score.slope(s)};
}

// ---- the host's side

template <class T>
Heads<T> heads(const View& v) {
  const int64_t pack = pack_of<T>;
  return {v.as<T>(), v.stride[0], v.stride[1], v.stride[2],
          aligned16(v.data) && v.shape[3] % pack == 0 && v.stride[0] % pack == 0 && v.stride[1] % pack == 0 && v.stride[2] % pack == 0};
}
Target target(const Out& o);
Problem problem(const AttentionInputs& x);

}  // namespace facet::gpu::attn

// The machinery both passes of attention stand on: one register-tiled product, transposition between rows of Dh and columns of
// queries, and the visibility of blocks. For tier files only: everything lives in the tier's namespace.
//
// Scores are kept transposed, [keys][queries], with queries along the vector lanes: the T*H/K queries that share a key head fill the
// lanes whatever Dh is, maxima and sums over keys are vertical, and rows of k and v are read as they lie, as broadcast scalars.
#pragma once
#ifdef __AVX2__
#include <immintrin.h>
#endif

#include "tensor/cpu/simd.h"
#include "tensor/kernels/attention.h"
#include "tensor/parallel.h"

namespace facet {  // of tensor/storage.h, whose inline functions may not be compiled here
void* pool_alloc(size_t bytes);
void pool_free(void* p) noexcept;
}  // namespace facet

namespace facet::cpu::FACET_TIER {

#if defined(__AVX512F__)
constexpr int tile_rows = 12;
#else
constexpr int tile_rows = 6;
#endif
/// Queries are worked on in panels of two vectors.
template <class A>
constexpr int panel = 2 * width<A>;
constexpr int key_block = 64;       ///< keys per step of the online softmax; part of the numerical contract
constexpr int piece = 8 * key_block;  ///< keys that are summed apart from the others; part of the contract too
constexpr int query_columns = 128;  ///< queries (times heads that share a key head) that pass over a block of keys together

template <class A>
using Int = std::conditional_t<std::is_same_v<A, double>, int64_t, int32_t>;
template <class A>
using IntVec = std::conditional_t<std::is_same_v<A, double>, int64_t, vi>;

/// exp(x) for x <= 0, exactly 0 below -87 (where masked scores live): no result is a denormal, which would cost hundreds of cycles.
FACET_INLINE vf exp_down(vf x) {
  vi n;
  const vf r = math::detail::reduce_ln2(max(x, splat(-87)), n);
  return x < -87 ? vf{} : (math::detail::expm1_reduced(r) + 1) * math::detail::power_of_two<vf>(n);
}
FACET_INLINE double exp_down(double x) { return math::exp(x); }

/// a * b + c, fused wherever the tier can. Left to the compiler, a product and a sum that it places in different blocks of code, or
/// vectorises, stay apart, and two forms of one formula would differ in the last bit.
FACET_INLINE vf multiply_add(vf a, vf b, vf c) {
#if defined(__AVX512F__)
  return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
  return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__FP_FAST_FMAF)
  for (int i = 0; i < lanes; ++i) c[i] = __builtin_fmaf(a[i], b[i], c[i]);  // one vector instruction after optimisation
  return c;
#else
  return a * b + c;
#endif
}
FACET_INLINE double multiply_add(double a, double b, double c) {
#ifdef __FP_FAST_FMA
  return __builtin_fma(a, b, c);
#else
  return a * b + c;
#endif
}

// ---- scratch

/// One block of the pool, cut into 64-byte aligned pieces.
class Workspace {
 public:
  FACET_INLINE explicit Workspace(int64_t bytes) : base_(static_cast<char*>(pool_alloc(static_cast<size_t>(bytes)))), next_(base_) {}
  FACET_INLINE ~Workspace() { pool_free(base_); }
  Workspace(const Workspace&) = delete;
  template <class A>
  FACET_INLINE A* take(int64_t n) {
    A* p = reinterpret_cast<A*>(next_);
    next_ += size<A>(n);
    return p;
  }
  template <class A>
  FACET_INLINE static int64_t size(int64_t n) {
    return (n * static_cast<int64_t>(sizeof(A)) + 63) / 64 * 64;
  }

 private:
  char* base_;
  char* next_;
};

// ---- the product

enum class Walk { rows, columns };  ///< the broadcast operand: element (i, k) at a[i * lda + k] or at a[k * lda + i]

/// c[R][C vectors] = or += sum_k a(i, k) b[k][..]; with alpha: c = alpha * c + .. (alpha per column).
template <int R, int C, Walk walk, class A>
FACET_INLINE void tile(const A* a, int64_t lda, const A* b, int64_t ldb, int64_t depth, A* c, int64_t ldc, bool add, const A* alpha) {
  constexpr int W = width<A>;
  Vec<A> sum[R][C];
#pragma GCC unroll 12
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 2
    for (int j = 0; j < C; ++j) {
      sum[i][j] = add ? load(c + i * ldc + j * W) : Vec<A>{};
      if (alpha) sum[i][j] *= load(alpha + j * W);
    }
  for (int64_t k = 0; k < depth; ++k) {
    Vec<A> row[C];
#pragma GCC unroll 2
    for (int j = 0; j < C; ++j) row[j] = load(b + j * W);
#pragma GCC unroll 12
    for (int i = 0; i < R; ++i) {
      const Vec<A> x = broadcast<A>(walk == Walk::rows ? a[i * lda] : a[i]);
#pragma GCC unroll 2
      for (int j = 0; j < C; ++j) sum[i][j] = multiply_add(x, row[j], sum[i][j]);
    }
    a += walk == Walk::rows ? 1 : lda;
    b += ldb;
  }
#pragma GCC unroll 12
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 2
    for (int j = 0; j < C; ++j) store(c + i * ldc + j * W, sum[i][j]);
}

template <int R, int C, Walk walk, class A>
FACET_INLINE void strip(int64_t& i, int64_t rows, const A* a, int64_t lda, const A* b, int64_t ldb, int64_t depth, A* c, int64_t ldc,
                        bool add, const A* alpha) {
  for (; i + R <= rows; i += R)
    tile<R, C, walk, A>(a + (walk == Walk::rows ? i * lda : i), lda, b, ldb, depth, c + i * ldc, ldc, add, alpha);
}

/// c[rows][C vectors], any number of rows.
template <int C, Walk walk, class A>
void product(int64_t rows, const A* a, int64_t lda, const A* b, int64_t ldb, int64_t depth, A* c, int64_t ldc, bool add,
             const A* alpha = nullptr) {
  int64_t i = 0;
  strip<tile_rows, C, walk, A>(i, rows, a, lda, b, ldb, depth, c, ldc, add, alpha);
  if constexpr (tile_rows > 8) strip<8, C, walk, A>(i, rows, a, lda, b, ldb, depth, c, ldc, add, alpha);
  strip<4, C, walk, A>(i, rows, a, lda, b, ldb, depth, c, ldc, add, alpha);
  strip<2, C, walk, A>(i, rows, a, lda, b, ldb, depth, c, ldc, add, alpha);
  strip<1, C, walk, A>(i, rows, a, lda, b, ldb, depth, c, ldc, add, alpha);
}

// ---- rows of Dh <-> columns of queries

/// Transposes W vectors of W lanes by exchanging off-diagonal blocks of W/2, W/4, .. 1.
FACET_INLINE void transpose(vf (&r)[lanes]) {
#pragma GCC unroll 4
  for (int h = lanes / 2; h > 0; h /= 2) {
    vi upper = iota(), lower = iota();  // lanes of the pair (a, b): b's are numbered from `lanes` on
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i) {
      if (i & h) upper[i] = lanes + i - h, lower[i] = lanes + i;
      else lower[i] = i + h;
    }
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i)
      if (!(i & h)) {
        const vf a = r[i], b = r[i + h];
        r[i] = __builtin_shuffle(a, b, upper);
        r[i + h] = __builtin_shuffle(a, b, lower);
      }
  }
}
FACET_INLINE void transpose(double (&)[1]) {}

/// columns[d][0..W) = factor * row[0..W)[d]: W rows into one vector of columns; the columns' lines are `ld` apart.
template <class A, class T>
void to_columns(const T* const* row, int64_t Dh, A factor, A* columns, int64_t ld) {
  constexpr int W = width<A>;
  if (Dh < W) {
    for (int i = 0; i < W; ++i)
      for (int64_t d = 0; d < Dh; ++d) columns[d * ld + i] = convert<A>(row[i][d]) * factor;
    return;
  }
  for (int64_t d = 0; d < Dh; d += W) {
    if (d > Dh - W) d = Dh - W;  // the last block overlaps the one before: the same values again
    Vec<A> r[W];
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) r[i] = load(row[i] + d);
    transpose(r);
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) store(columns + (d + i) * ld, r[i] * factor);
  }
}

/// row[0..W) (+)= v; with += the first `skip` lanes stay as they are.
template <class T, class V>
FACET_INLINE void put_lanes(T* row, V v, int skip, bool add) {
  if (!add || skip == 0) return put(row, v, All{}, add);
  Acc<T> lane[width<T>];
  store(lane, v);
  for (int i = skip; i < width<T>; ++i) row[i] = convert<T>(convert<Acc<T>>(row[i]) + lane[i]);
}

/// row[i][d] (+)= columns[d][i] * factor[i] for i < n <= W.
template <class A, class T>
void from_columns(const A* columns, int64_t ld, int64_t Dh, const A* factor, T* const* row, int n, bool add) {
  constexpr int W = width<A>;
  if (Dh < W) {
    for (int i = 0; i < n; ++i)
      for (int64_t d = 0; d < Dh; ++d) {
        const A x = columns[d * ld + i] * factor[i];
        row[i][d] = convert<T>(add ? convert<A>(row[i][d]) + x : x);
      }
    return;
  }
  const Vec<A> by = load(factor);
  for (int64_t d = 0; d < Dh; d += W) {
    int skip = 0;
    if (d > Dh - W) {
      skip = static_cast<int>(d - (Dh - W));
      d = Dh - W;
    }
    Vec<A> r[W];
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) r[i] = load(columns + (d + i) * ld) * by;
    transpose(r);
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i)
      if (i < n) put_lanes(row[i] + d, r[i], skip, add);
  }
}

/// y[0..Dh) = factor * x[0..Dh), then zeros up to `padded`.
template <class A, class T>
FACET_INLINE void to_row(const T* x, int64_t Dh, A factor, A* y, int64_t padded) {
  for_row<A>(Dh, [&](int64_t i, auto part) { store(y + i, load(x + i, part) * factor, part); });
  for (int64_t d = Dh; d < padded; ++d) y[d] = 0;
}

// ---- who sees whom

/// Key positions a query sees, an interval; empty when lo > hi.
struct Interval {
  int64_t lo, hi;
};
FACET_INLINE Interval visible_positions(const AttentionInputs& x, int64_t position) {
  if (position < 0) return {1, 0};
  const int64_t lo = x.window > 0 && position - x.window + 1 > 0 ? position - x.window + 1 : 0;
  return {lo, x.causal ? position : int64_t{1} << 31};
}

/// The segment whose keys a query sees besides those of its own: a branch sees its trunk, everybody else only himself.
FACET_INLINE int64_t trunk_of(int64_t segment) { return segment >= 65536 ? segment & ~int64_t{0xffff} : segment; }

/// What the keys of one block have in common.
struct KeyRange {
  int64_t lo = INT64_MAX, hi = -1, segment_lo = INT64_MAX, segment_hi = INT64_MIN;
  bool all = true;  ///< no empty slot
};

/// What the queries of one panel have in common; queries that see nothing do not count, but spoil `all`.
struct QueryRange {
  int64_t lo_min = INT64_MAX, lo_max = -1, hi_min = INT64_MAX, hi_max = -1;
  int64_t segment_lo = INT64_MAX, segment_hi = INT64_MIN, trunk_lo = INT64_MAX, trunk_hi = INT64_MIN;
  bool all = true;

  FACET_INLINE void include(const Interval& i, int64_t segment) {
    if (i.lo > i.hi) {
      all = false;
      return;
    }
    lo_min = i.lo < lo_min ? i.lo : lo_min;
    lo_max = i.lo > lo_max ? i.lo : lo_max;
    hi_min = i.hi < hi_min ? i.hi : hi_min;
    hi_max = i.hi > hi_max ? i.hi : hi_max;
    segment_lo = segment < segment_lo ? segment : segment_lo;
    segment_hi = segment > segment_hi ? segment : segment_hi;
    const int64_t trunk = trunk_of(segment);
    trunk_lo = trunk < trunk_lo ? trunk : trunk_lo;
    trunk_hi = trunk > trunk_hi ? trunk : trunk_hi;
  }
  /// No query sees a key whose position and segment lie in these ranges. Own segments and trunks are two ranges: what lies between
  /// them are other branches.
  FACET_INLINE bool sees_none(int64_t lo, int64_t hi, int64_t first, int64_t last) const {
    const bool own = last >= segment_lo && first <= segment_hi, trunk = last >= trunk_lo && first <= trunk_hi;
    return hi < lo_min || lo > hi_max || !(own || trunk);
  }
  /// Every query sees every key of that segment in this range of positions. via: the segment as branches of it see it, or hidden_trunk.
  FACET_INLINE bool sees(int64_t lo, int64_t hi, int64_t segment, int64_t via) const {
    const bool own = segment == segment_lo && segment == segment_hi, trunk = via == trunk_lo && via == trunk_hi;
    return all && lo >= lo_max && hi <= hi_min && (own || trunk);
  }
};

FACET_INLINE bool may_see(const QueryRange& q, const KeyRange& k) { return !q.sees_none(k.lo, k.hi, k.segment_lo, k.segment_hi); }
FACET_INLINE bool sees_all(const QueryRange& q, const KeyRange& k) {
  return k.all && k.segment_lo == k.segment_hi && q.sees(k.lo, k.hi, k.segment_lo, k.segment_lo);
}

/// The sizes of a call, and where its rows are.
struct Geometry {
  int64_t B, T, H, Dh, S, K, G, padded, key_blocks;
  const AttentionInputs& x;

  FACET_INLINE explicit Geometry(const AttentionInputs& in, int64_t width)
      : B(in.q.shape[0]), T(in.q.shape[1]), H(in.q.shape[2]), Dh(in.q.shape[3]), S(in.k.shape[1]), K(in.k.shape[2]), G(H / K),
        padded((Dh + width - 1) / width * width), key_blocks((S + key_block - 1) / key_block), x(in) {}

  FACET_INLINE int64_t q_position(int64_t b, int64_t t) const { return at(x.q_positions, b, t); }
  FACET_INLINE int64_t k_position(int64_t b, int64_t s) const { return at(x.k_positions, b, s); }
  FACET_INLINE int64_t q_segment(int64_t b, int64_t t) const { return x.q_segments ? at(x.q_segments, b, t) : 0; }
  FACET_INLINE int64_t k_segment(int64_t b, int64_t s) const { return x.k_segments ? at(x.k_segments, b, s) : 0; }
  FACET_INLINE static int64_t at(const View& v, int64_t b, int64_t i) {
    return v.as<int32_t>()[b * v.stride.dim[0] + i * v.stride.dim[1]];
  }
  /// Row (b, t, h) of a [B, T, H, Dh] window.
  template <class T>
  FACET_INLINE static T* row(const Out& v, int64_t b, int64_t t, int64_t h) {
    return v.as<T>() + b * v.stride.dim[0] + t * v.stride.dim[1] + h * v.stride.dim[2];
  }
  template <class T>
  FACET_INLINE static const T* row(const View& v, int64_t b, int64_t t, int64_t h) {
    return v.as<T>() + b * v.stride.dim[0] + t * v.stride.dim[1] + h * v.stride.dim[2];
  }

  /// ranges[b * key_blocks + block].
  void find_key_ranges(KeyRange* ranges) const {
    parallel_for(B * key_blocks, 16, key_block, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        const int64_t b = i / key_blocks, begin = i % key_blocks * key_block;
        const int64_t end = begin + key_block < S ? begin + key_block : S;
        KeyRange r;
        for (int64_t s = begin; s < end; ++s) {
          const int64_t position = k_position(b, s), segment = k_segment(b, s);
          if (position < 0) {
            r.all = false;
            continue;
          }
          r.lo = position < r.lo ? position : r.lo;
          r.hi = position > r.hi ? position : r.hi;
          r.segment_lo = segment < r.segment_lo ? segment : r.segment_lo;
          r.segment_hi = segment > r.segment_hi ? segment : r.segment_hi;
        }
        ranges[i] = r;
      }
    });
  }
};

/// The queries of tokens [t0, t1) under one key head, column m = (t - t0) * G + g, and what each may see.
template <class A>
struct Columns {
  int64_t b, head, t0, count, panels;  ///< head: the first query head
  const Geometry* geometry;
  Int<A>*lo, *hi, *segment, *trunk;    ///< [panels * panel]
  int32_t *token, *member;             ///< [panels * panel], m = token * G + member; the last query's for columns beyond it
  QueryRange* range;                   ///< [panels]

  static FACET_INLINE int64_t bytes(int64_t panels) {
    return 4 * Workspace::size<Int<A>>(panels * panel<A>) + 2 * Workspace::size<int32_t>(panels * panel<A>) +
           Workspace::size<QueryRange>(panels);
  }

  Columns(const Geometry& g, Workspace& space, int64_t most)
      : b(0), head(0), t0(0), count(0), panels(0), geometry(&g), lo(space.take<Int<A>>(most * panel<A>)),
        hi(space.take<Int<A>>(most * panel<A>)), segment(space.take<Int<A>>(most * panel<A>)), trunk(space.take<Int<A>>(most * panel<A>)),
        token(space.take<int32_t>(most * panel<A>)), member(space.take<int32_t>(most * panel<A>)), range(space.take<QueryRange>(most)) {}

  void choose(int64_t batch, int64_t kv_head, int64_t begin, int64_t end) {
    const Geometry& g = *geometry;
    b = batch;
    head = kv_head * g.G;
    t0 = begin;
    count = (end - begin) * g.G;
    panels = (count + panel<A> - 1) / panel<A>;
    for (int64_t p = 0; p < panels; ++p) range[p] = {};
    int64_t m = 0;
    for (int64_t t = begin; t < end; ++t) {
      const int64_t s = g.q_segment(b, t);
      const Interval i = visible_positions(g.x, g.q_position(b, t));
      for (int64_t last = m, member_of = 0; member_of < g.G; ++member_of, ++m) {
        lo[m] = static_cast<Int<A>>(i.lo);
        hi[m] = static_cast<Int<A>>(i.hi < INT32_MAX ? i.hi : INT32_MAX);
        segment[m] = static_cast<Int<A>>(s);
        trunk[m] = static_cast<Int<A>>(trunk_of(s));
        token[m] = static_cast<int32_t>(t - begin);
        member[m] = static_cast<int32_t>(member_of);
        if (m == last || m % panel<A> == 0) range[m / panel<A>].include(i, s);
      }
    }
    for (; m < panels * panel<A>; ++m) {  // columns that fill the last panel: their results are never read
      lo[m] = 1;
      hi[m] = 0;
      segment[m] = trunk[m] = 0;
      token[m] = token[count - 1];
      member[m] = member[count - 1];
    }
  }

  /// Vectors of panel p that hold a query.
  FACET_INLINE int vectors(int64_t p) const { return count - p * panel<A> > width<A> ? 2 : 1; }
  /// Where the row of column m starts in a [B, T, H, Dh] window.
  FACET_INLINE int64_t row(const View& v, int64_t m) const {
    return b * v.stride.dim[0] + (t0 + token[m]) * v.stride.dim[1] + (head + member[m]) * v.stride.dim[2];
  }
  /// The same in a [B, H, T] window.
  FACET_INLINE int64_t scalar(const View& v, int64_t m) const {
    return b * v.stride.dim[0] + (head + member[m]) * v.stride.dim[1] + (t0 + token[m]) * v.stride.dim[2];
  }

  /// columns[p][d][..] = factor * v^T for all panels; columns beyond the last query repeat it.
  template <class T>
  void gather(const View& v, A factor, A* columns) const {
    constexpr int W = width<A>;
    for (int64_t m = 0; m < count; m += W) {
      const T* rows[W];
      for (int i = 0; i < W; ++i) rows[i] = v.as<T>() + row(v, m + i);
      to_columns<A, T>(rows, geometry->Dh, factor, columns + m / panel<A> * geometry->Dh * panel<A> + m % panel<A>, panel<A>);
    }
  }
  /// v (+)= (columns * factor)^T.
  template <class T>
  void scatter(const A* columns, const A* factor, const Out& v, bool add) const {
    constexpr int W = width<A>;
    for (int64_t m = 0; m < count; m += W) {
      const int n = count - m < W ? static_cast<int>(count - m) : W;
      T* rows[W];
      for (int i = 0; i < n; ++i) rows[i] = v.as<T>() + row(v, m + i);
      from_columns<A, T>(columns + m / panel<A> * geometry->Dh * panel<A> + m % panel<A>, panel<A>, geometry->Dh, factor + m, rows, n,
                         add);
    }
  }

  /// The keys of [begin, end) that panel p may see: shrinks both ends past what no query of the panel sees.
  void trim(int64_t p, int64_t& begin, int64_t& end) const {
    const QueryRange& r = range[p];
    const auto hopeless = [&](int64_t s) {
      const int64_t position = geometry->k_position(b, s), in = geometry->k_segment(b, s);
      return r.sees_none(position, position, in, in);
    };
    while (begin < end && hopeless(begin)) ++begin;
    while (begin < end && hopeless(end - 1)) --end;
  }

};

/// The visibility of single keys to C vectors of a panel.
template <int C, class A>
class PanelMask {
 public:
  FACET_INLINE PanelMask(const Columns<A>& columns, int64_t p, bool all_visible)
      : range_(columns.range[p]), all_visible_(all_visible), segments_(static_cast<bool>(columns.geometry->x.q_segments)) {
    for (int j = 0; j < C; ++j) {
      const int64_t m = p * panel<A> + j * width<A>;
      __builtin_memcpy(&lo_[j], columns.lo + m, sizeof lo_[j]);
      __builtin_memcpy(&hi_[j], columns.hi + m, sizeof hi_[j]);
      __builtin_memcpy(&segment_[j], columns.segment + m, sizeof segment_[j]);
      __builtin_memcpy(&trunk_[j], columns.trunk + m, sizeof trunk_[j]);
    }
  }
  /// True when nothing of this key is hidden, which spares the test of its lanes.
  FACET_INLINE bool open(int64_t position, int64_t segment, int64_t via) const {
    return all_visible_ || range_.sees(position, position, segment, via);
  }
  /// x where the key is visible, else `hidden`. lo >= 0, so that an empty slot, position -1, is hidden from all.
  FACET_INLINE Vec<A> apply(int j, int64_t position, int64_t segment, int64_t via, Vec<A> x, Vec<A> hidden) const {
    const Int<A> at = static_cast<Int<A>>(position), in = static_cast<Int<A>>(segment), over = static_cast<Int<A>>(via);
    auto inside = (lo_[j] <= at) & (hi_[j] >= at);
    if (segments_) inside &= (segment_[j] == in) | (trunk_[j] == over);
    return inside ? x : hidden;
  }

 private:
  const QueryRange range_;
  bool all_visible_, segments_;
  IntVec<A> lo_[C], hi_[C], segment_[C], trunk_[C];
};

/// Joins a piece to the sum of those before it, (m, l, o) with (m', l', o'): the one with the larger maximum stays as it is, the
/// other is scaled down to it. A piece that holds nothing, or comes first, changes nothing.
template <class A>
class Joint {
 public:
  FACET_INLINE Joint(Vec<A> m, Vec<A> next) : next_larger_(next > m) {
    const Vec<A> low = next_larger_ ? m : next;
    top = next_larger_ ? next : m;
    factor_ = exp_down(low - (top == -static_cast<A>(__builtin_inff()) ? Vec<A>{} : top));
  }
  FACET_INLINE Vec<A> operator()(Vec<A> sum, Vec<A> next) const {
    return multiply_add(next_larger_ ? sum : next, factor_, next_larger_ ? next : sum);  // one product: no choice what to fuse
  }
  Vec<A> top;  ///< the new maximum

 private:
  decltype(Vec<A>{} > Vec<A>{}) next_larger_;
  Vec<A> factor_;
};

/// Rows of k or v, ld apart, in the compute type: in place, or converted to `room`.
template <class A, class T>
FACET_INLINE const A* converted_rows(const T* first, int64_t count, int64_t Dh, A* room, int64_t& ld) {
  if constexpr (std::is_same_v<A, T>) {
    return first;
  } else {
    for (int64_t s = 0; s < count; ++s) to_row<A>(first + s * ld, Dh, A(1), room + s * Dh, Dh);
    ld = Dh;
    return room;
  }
}

}  // namespace facet::cpu::FACET_TIER

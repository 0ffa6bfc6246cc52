// Attention of a few queries over many keys, as in decoding: every row of k and v is read once, in order, at the speed of memory.
// Here the lanes run along Dh. Long caches are cut into pieces, a function of S alone, whose partial results (m, l, o) meet in
// order; blocks of keys as in the panel form.
#pragma once
#include "tensor/cpu/attention_tile.h"

namespace facet::cpu::FACET_TIER {

constexpr int few_queries = 16;  ///< T * H/K up to which this form is used

/// scores[r * key_block + i] = <query r, key i> for R queries and N keys.
template <int R, int N, class A, class T>
FACET_INLINE void dots(const A* q, int64_t q_ld, const T* k, int64_t k_ld, int64_t Dh, A* scores) {
  Vec<A> sum[R][N];
  for (int r = 0; r < R; ++r)
    for (int i = 0; i < N; ++i) sum[r][i] = Vec<A>{};
  for_row<A>(Dh, [&](int64_t d, auto part) {
    Vec<A> key[N];
    for (int i = 0; i < N; ++i) key[i] = load(k + i * k_ld + d, part);
    for (int r = 0; r < R; ++r) {
      const Vec<A> query = load(q + r * q_ld + d);
      for (int i = 0; i < N; ++i) sum[r][i] += query * key[i];
    }
  });
  for (int r = 0; r < R; ++r)
    for (int i = 0; i < N; ++i) scores[r * key_block + i] = reduce_add(sum[r][i]);
}

/// o[r] += sum_i weights[r * key_block + i] v[i] for R queries and N keys.
template <int R, int N, class A, class T>
FACET_INLINE void blend(const A* weights, const T* v, int64_t v_ld, int64_t Dh, A* o, int64_t o_ld) {
  for_row<A>(Dh, [&](int64_t d, auto part) {
    Vec<A> value[N];
    for (int i = 0; i < N; ++i) value[i] = load(v + i * v_ld + d, part);
    for (int r = 0; r < R; ++r) {
      Vec<A> sum = load(o + r * o_ld + d);
      for (int i = 0; i < N; ++i) sum += broadcast<A>(weights[r * key_block + i]) * value[i];
      store(o + r * o_ld + d, sum);
    }
  });
}

/// Asks for a row of k or v some rows ahead: rows of one head may lie pages apart, where the machine does not look by itself.
template <class T>
FACET_INLINE void prefetch(const T* row, int64_t Dh) {
  const char* p = reinterpret_cast<const char*>(row);
  for (int64_t i = 0; i < Dh * static_cast<int64_t>(sizeof(T)); i += 64) __builtin_prefetch(p + i);
}
constexpr int64_t ahead = 8;  ///< rows

/// Calls f(r, i, R, N) over count queries in fours and keys in twos or fours; R and N are compile-time constants.
template <int N, class F>
FACET_INLINE void by_fours(int64_t count, int64_t keys, F&& f) {
  const auto over_queries = [&](int64_t i, auto n) {
    int64_t r = 0;
    for (; r + 4 <= count; r += 4) f(r, i, std::integral_constant<int, 4>{}, n);
    for (; r < count; ++r) f(r, i, std::integral_constant<int, 1>{}, n);
  };
  int64_t i = 0;
  for (; i + N <= keys; i += N) over_queries(i, std::integral_constant<int, N>{});
  for (; i < keys; ++i) over_queries(i, std::integral_constant<int, 1>{});
}

template <class A>
struct Partial {
  A *m, *l, *o;  ///< [few_queries], [few_queries], [few_queries][padded]
  static FACET_INLINE int64_t size(int64_t padded) { return few_queries * (padded + 2); }
  FACET_INLINE Partial(A* at, int64_t padded) : m(at + few_queries * padded), l(m + few_queries), o(at) {}
};

/// Keys [begin, end), a multiple of key_block from 0, against all queries of one sequence under one key head.
template <class T, class A>
void few_over_piece(const Columns<A>& columns, const KeyRange* ranges, int64_t kv_head, int64_t begin, int64_t end, const A* q,
                    A* scores, Partial<A> sum) {
  const Geometry& g = *columns.geometry;
  const AttentionInputs& x = g.x;
  const A infinity = __builtin_inff(), cap = static_cast<A>(x.cap), inverse_cap = cap > 0 ? 1 / cap : 0;
  const int64_t count = columns.count;
  for (int64_t r = 0; r < count; ++r) sum.m[r] = -infinity, sum.l[r] = 0;
  __builtin_memset(sum.o, 0, static_cast<size_t>(count * g.padded) * sizeof(A));
  for (int64_t n0 = begin; n0 < end; n0 += key_block) {
    const KeyRange& range = ranges[columns.b * g.key_blocks + n0 / key_block];
    bool any = false;
    for (int64_t p = 0; p < columns.panels; ++p) any |= may_see(columns.range[p], range);
    if (!any) continue;
    const int64_t keys = n0 + key_block < end ? key_block : end - n0;
    const T *k = Geometry::row<T>(x.k, columns.b, n0, kv_head), *v = Geometry::row<T>(x.v, columns.b, n0, kv_head);
    const int64_t k_ld = x.k.stride.dim[1], v_ld = x.v.stride.dim[1];
    by_fours<2>(count, keys, [&](int64_t r, int64_t i, auto R, auto N) {
      if (r == 0)
        for (int64_t n = i + ahead; n < i + ahead + N(); ++n) prefetch(n < keys ? k + n * k_ld : v + (n - keys) * v_ld, g.Dh);
      dots<R(), N(), A, T>(q + r * g.padded, g.padded, k + i * k_ld, k_ld, g.Dh, scores + r * key_block + i);
    });
    Int<A> position[key_block], segment[key_block];
    for (int64_t i = 0; i < key_block; ++i) {
      position[i] = i < keys ? static_cast<Int<A>>(g.k_position(columns.b, n0 + i)) : -1;
      segment[i] = i < keys ? static_cast<Int<A>>(g.k_segment(columns.b, n0 + i)) : 0;
    }
    for (int64_t r = 0; r < count; ++r) {
      A* const s = scores + r * key_block;
      Vec<A> top = broadcast<A>(sum.m[r]);
      for (int64_t i = 0; i < key_block; i += width<A>) {
        IntVec<A> at, in;
        __builtin_memcpy(&at, position + i, sizeof at);
        __builtin_memcpy(&in, segment + i, sizeof in);
        Vec<A> c = load(s + i);
        if (cap > 0) c = cap * math::tanh(c * inverse_cap);
        c = (at >= columns.lo[r]) & (at <= columns.hi[r]) & (in == columns.segment[r]) ? c : broadcast<A>(-infinity);
        store(s + i, c);
        top = max(c, top);
      }
      const A m = reduce_max(top), base = m == -infinity ? 0 : m;
      const A alpha = sum.m[r] == -infinity ? 0 : math::exp(sum.m[r] - base);
      Vec<A> total{};
      for (int64_t i = 0; i < key_block; i += width<A>) {
        const Vec<A> e = exp_down(load(s + i) - base);
        store(s + i, e);
        total += e;
      }
      sum.m[r] = m;
      sum.l[r] = sum.l[r] * alpha + reduce_add(total);
      if (alpha != 1)
        for (int64_t d = 0; d < g.padded; d += width<A>) store(sum.o + r * g.padded + d, load(sum.o + r * g.padded + d) * alpha);
    }
    by_fours<4>(count, keys, [&](int64_t r, int64_t i, auto R, auto N) {
      if (r == 0)
        for (int64_t n = i + ahead; n < i + ahead + N() && n < keys; ++n) prefetch(v + n * v_ld, g.Dh);
      blend<R(), N(), A, T>(scores + r * key_block + i, v + i * v_ld, v_ld, g.Dh, sum.o + r * g.padded, g.padded);
    });
  }
}

template <class T>
void forward_few(const AttentionInputs& x, const Out& y, const Out& lse) {
  using A = Acc<T>;
  const Geometry g(x, width<A>);
  const A infinity = __builtin_inff();
  const int64_t panels = (g.T * g.G + panel<A> - 1) / panel<A>;
  const int64_t piece = key_block * (g.key_blocks < 16 ? 16 : (g.key_blocks + 31) / 32 < 8 ? 8 : (g.key_blocks + 31) / 32);
  const int64_t pieces = g.S > piece ? (g.S + piece - 1) / piece : 1;
  Workspace shared(Workspace::size<KeyRange>(g.B * g.key_blocks) + Workspace::size<A>(g.B * g.K * pieces * Partial<A>::size(g.padded)));
  KeyRange* const ranges = shared.take<KeyRange>(g.B * g.key_blocks);
  A* const partial = shared.take<A>(g.B * g.K * pieces * Partial<A>::size(g.padded));
  g.find_key_ranges(ranges);
  const int64_t bytes = Columns<A>::bytes(panels) + Workspace::size<A>(few_queries * g.padded) + Workspace::size<A>(few_queries * key_block);
  const int64_t rows = g.B * g.K * pieces;
  parallel_for(rows, 1, piece * g.Dh, [&](int64_t first, int64_t last) {
    Workspace space(bytes);
    Columns<A> columns(g, space, panels);
    A* const q = space.take<A>(few_queries * g.padded);
    A* const scores = space.take<A>(few_queries * key_block);
    for (int64_t i = first; i < last; ++i) {
      const int64_t b = i / (pieces * g.K), n = i / g.K % pieces, head = i % g.K;  // heads of one piece together: they share pages
      columns.choose(b, head, 0, g.T);
      for (int64_t r = 0; r < columns.count; ++r)
        to_row(x.q.as<T>() + columns.row(x.q, r), g.Dh, static_cast<A>(x.scale), q + r * g.padded, g.padded);
      few_over_piece<T, A>(columns, ranges, head, n * piece, (n + 1) * piece < g.S ? (n + 1) * piece : g.S, q, scores,
                           Partial<A>(partial + ((b * g.K + head) * pieces + n) * Partial<A>::size(g.padded), g.padded));
    }
  });
  parallel_for(g.B * g.K, 4, pieces * g.T * g.G * g.Dh, [&](int64_t first, int64_t last) {
    for (int64_t pair = first; pair < last; ++pair)
      for (int64_t r = 0; r < g.T * g.G; ++r) {
        const auto part = [&](int64_t i) { return Partial<A>(partial + (pair * pieces + i) * Partial<A>::size(g.padded), g.padded); };
        A m = -infinity, l = 0;
        for (int64_t i = 0; i < pieces; ++i) m = part(i).m[r] > m ? part(i).m[r] : m;
        A* const o = part(0).o + r * g.padded;
        for (int64_t i = 0; i < pieces; ++i) {
          const Partial<A> p = part(i);
          const A weight = p.m[r] == -infinity ? 0 : math::exp(p.m[r] - m);
          l += weight * p.l[r];
          for (int64_t d = 0; d < g.padded; d += width<A>) {
            const Vec<A> add = load(p.o + r * g.padded + d) * weight;
            store(o + d, i == 0 ? add : load(o + d) + add);
          }
        }
        const int64_t b = pair / g.K, t = r / g.G, h = pair % g.K * g.G + r % g.G;
        const A inverse = l > 0 ? 1 / l : 0;
        T* const to = Geometry::row<T>(y, b, t, h);
        for_row<A>(g.Dh, [&](int64_t d, auto some) { store(to + d, load(o + d) * inverse, some); });
        if (lse) lse.as<A>()[b * lse.stride.dim[0] + h * lse.stride.dim[1] + t * lse.stride.dim[2]] = l > 0 ? m + math::log(l) : -infinity;
      }
  });
}

}  // namespace facet::cpu::FACET_TIER

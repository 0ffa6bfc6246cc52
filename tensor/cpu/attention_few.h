// Attention of a few queries over many keys, as in decoding: every row of k and v is read once, in order, at the speed of memory.
// Rows of k are transposed in registers, so that the lanes run along the keys and a score is summed over d one term after the other,
// like in the panel form; every other sum too runs in the order of the panel form, and a row of y has the same bits either way.
// Long caches are cut into pieces that are worked on at once and join in order.
#pragma once
#include "tensor/cpu/attention_keys.h"

namespace facet::cpu::FACET_TIER {

constexpr int few_queries = 16;  ///< T * H/K up to which this form is used
template <class A>
constexpr int score_row = key_block + width<A>;  ///< scores of a query; a vector that begins on the last keys of a step has room

/// c[j] = element j of rows 0 .. W-1, for j < W; rows are `bytes` apart.
template <class A>
FACET_INLINE void columns_of(const void* row, int64_t bytes, Vec<A> (&c)[width<A>]) {
  const auto at = [&](int64_t i, int64_t d) { return reinterpret_cast<const A*>(static_cast<const char*>(row) + i * bytes) + d; };
#ifdef __AVX512F__
  if constexpr (std::is_same_v<A, float>) {
    // A quarter vector of rows t, t + 4, t + 8, t + 12 side by side costs loads only; what remains is to transpose 4 x 4 in place.
    vi low = iota(), high = iota(), even = iota(), odd = iota();
    for (int i = 0; i < lanes; ++i) {
      const int quarter = i / 4 * 4, k = i % 4;
      low[i] = quarter + k / 2 + (k % 2) * lanes, high[i] = low[i] + 2;
      even[i] = quarter + k % 2 + (k / 2) * lanes, odd[i] = even[i] + 2;
    }
#pragma GCC unroll 4
    for (int d = 0; d < lanes; d += 4) {
      vf r[4];
#pragma GCC unroll 4
      for (int t = 0; t < 4; ++t) {
        __m512 v = _mm512_zextps128_ps512(_mm_loadu_ps(at(t, d)));
        v = _mm512_mask_broadcast_f32x4(v, 0x00f0, _mm_loadu_ps(at(t + 4, d)));
        v = _mm512_mask_broadcast_f32x4(v, 0x0f00, _mm_loadu_ps(at(t + 8, d)));
        r[t] = (vf)_mm512_mask_broadcast_f32x4(v, 0xf000, _mm_loadu_ps(at(t + 12, d)));
      }
      const vf a = __builtin_shuffle(r[0], r[1], low), b = __builtin_shuffle(r[0], r[1], high);
      const vf e = __builtin_shuffle(r[2], r[3], low), f = __builtin_shuffle(r[2], r[3], high);
      c[d] = __builtin_shuffle(a, e, even);
      c[d + 1] = __builtin_shuffle(a, e, odd);
      c[d + 2] = __builtin_shuffle(b, f, even);
      c[d + 3] = __builtin_shuffle(b, f, odd);
    }
    return;
  }
#endif
#pragma GCC unroll 16
  for (int i = 0; i < width<A>; ++i) c[i] = load(at(i, 0));
  transpose(c);
}

/// Elements of one step along Dh: those of a vector, for bf16 of one that holds pairs.
template <class T>
constexpr int step_of = sizeof(T) == 2 ? 2 * width<T> : width<T>;

/// sum[r] += q[r][d] k[..][d] for d = skip .. step_of<T> - 1, one after the other; k: W rows, the lanes of sum.
template <int R, class A, class T>
FACET_INLINE void dots_step(const A* q, int64_t q_ld, const T* k, int64_t k_ld, int skip, Vec<A>* sum, int stride) {
  constexpr int W = width<A>;
  Vec<A> c[W];
  const auto add = [&](int d, Vec<A> column) __attribute__((always_inline)) {
    if (d < skip) return;
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) sum[r * stride] = multiply_add(broadcast<A>(q[r * q_ld + d]), column, sum[r * stride]);
  };
  if constexpr (sizeof(T) == 2) {
    columns_of<A>(k, k_ld * static_cast<int64_t>(sizeof(T)), c);
#pragma GCC unroll 16
    for (int j = 0; j < W; ++j) {
      const vu pair = __builtin_bit_cast(vu, c[j]);
      add(2 * j, __builtin_bit_cast(vf, pair << 16));
      add(2 * j + 1, __builtin_bit_cast(vf, pair & 0xffff0000u));
    }
  } else {
    columns_of<A>(k, k_ld * static_cast<int64_t>(sizeof(T)), c);
#pragma GCC unroll 16
    for (int j = 0; j < W; ++j) add(j, c[j]);
  }
}

/// Asks for a row of k or v some rows ahead: rows of one head may lie pages apart, where the machine does not look by itself.
template <class T>
FACET_INLINE void prefetch(const T* row, int64_t Dh) {
  const char* p = reinterpret_cast<const char*>(row);
  for (int64_t i = 0; i < Dh * static_cast<int64_t>(sizeof(T)); i += 64) __builtin_prefetch(p + i);
}

/// scores[r * score_row + i] = <query r, key i> for R queries and N vectors of keys; asks for as many rows of `ahead` meanwhile, row
/// by row, which the machine's own prefetching understands.
template <int R, int N, class A, class T>
FACET_INLINE void dots(const A* q, int64_t q_ld, const T* k, int64_t k_ld, int64_t Dh, A* scores, const T* ahead, int64_t ahead_ld) {
  constexpr int W = width<A>, step = step_of<T>;
  Vec<A> sum[R][N];
  for (int r = 0; r < R; ++r)
    for (int n = 0; n < N; ++n) sum[r][n] = Vec<A>{};
  int64_t d = 0, due = 0;
  for (; d + step <= Dh; d += step) {
    for (due += N * W * step; due >= Dh; due -= Dh, ahead += ahead_ld) prefetch(ahead, Dh);
#pragma GCC unroll 2
    for (int n = 0; n < N; ++n) dots_step<R, A, T>(q + d, q_ld, k + n * W * k_ld + d, k_ld, 0, &sum[0][n], N);
  }
  if (const int rest = static_cast<int>(Dh - d); rest > 0) {
    const int64_t last = Dh - step;
    for (int n = 0; n < N; ++n) {
      if (last >= 0) {  // once more what was there, and only the new columns are used
        dots_step<R, A, T>(q + last, q_ld, k + n * W * k_ld + last, k_ld, step - rest, &sum[0][n], N);
      } else {
        for (int64_t i = 0; i < rest; ++i) {
          Vec<A> column;
          A key[W];
          for (int j = 0; j < W; ++j) key[j] = convert<A>(k[(n * W + j) * k_ld + i]);
          __builtin_memcpy(&column, key, sizeof column);
          for (int r = 0; r < R; ++r) sum[r][n] = multiply_add(broadcast<A>(q[r * q_ld + i]), column, sum[r][n]);
        }
      }
    }
  }
  for (int r = 0; r < R; ++r)
    for (int n = 0; n < N; ++n) store(scores + r * score_row<A> + n * W, sum[r][n]);
}

#if defined(__AVX512F__)
constexpr int score_registers = 8;
#else
constexpr int score_registers = 4;
#endif

/// scores[r * score_row + i] for count queries and one or two vectors of keys.
template <class A, class T>
void score_keys(int64_t count, bool two, const A* q, int64_t q_ld, const T* k, int64_t k_ld, int64_t Dh, A* scores, const T* ahead,
                int64_t ahead_ld) {
  const auto go = [&](auto R) {
    if constexpr (2 * R() <= score_registers) {
      if (two) return dots<R(), 2, A, T>(q, q_ld, k, k_ld, Dh, scores, ahead, ahead_ld);
    }
    constexpr int W = width<A>;
    for (int n = 0; n < (two ? 2 : 1); ++n)
      dots<R(), 1, A, T>(q, q_ld, k + n * W * k_ld, k_ld, Dh, scores + n * W, ahead + n * W * ahead_ld, ahead_ld);
  };
  while (count > 0) {
    int64_t some = count < score_registers ? count : score_registers;
    if (some >= 8) go(std::integral_constant<int, score_registers>{}), some = score_registers;
    else if (some >= 4) go(std::integral_constant<int, 4>{}), some = 4;
    else if (some >= 3) go(std::integral_constant<int, 3>{}), some = 3;
    else if (some >= 2) go(std::integral_constant<int, 2>{}), some = 2;
    else go(std::integral_constant<int, 1>{});
    count -= some;
    q += some * q_ld;
    scores += some * score_row<A>;
  }
}

/// o[r] += sum_i weights[r * score_row<A> + i] v[i] for R queries and N keys, in the order of keys.
template <int R, int N, class A, class T>
FACET_INLINE void blend(const A* weights, const T* v, int64_t v_ld, int64_t Dh, A* o, int64_t o_ld) {
  for_row<A>(Dh, [&](int64_t d, auto part) {
    Vec<A> value[N];
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) value[i] = load(v + i * v_ld + d, part);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      Vec<A> sum = load(o + r * o_ld + d);
#pragma GCC unroll 8
      for (int i = 0; i < N; ++i) sum = multiply_add(broadcast<A>(weights[r * score_row<A> + i]), value[i], sum);
      store(o + r * o_ld + d, sum);
    }
  });
}

/// Calls f(r, i, R, N) over count queries in fours and keys in eights; R and N are compile-time constants.
template <class F>
FACET_INLINE void by_fours_and_eights(int64_t count, int64_t keys, F&& f) {
  const auto over_queries = [&](int64_t i, auto n) {
    int64_t r = 0;
    for (; r + 4 <= count; r += 4) f(r, i, std::integral_constant<int, 4>{}, n);
    for (; r < count; ++r) f(r, i, std::integral_constant<int, 1>{}, n);
  };
  int64_t i = 0;
  for (; i + 8 <= keys; i += 8) over_queries(i, std::integral_constant<int, 8>{});
  for (; i < keys; ++i) over_queries(i, std::integral_constant<int, 1>{});
}

template <class A>
FACET_INLINE A first_lane(Vec<A> v) {
  A x;
  __builtin_memcpy(&x, &v, sizeof x);
  return x;
}

/// Lanes [from, to].
template <class A>
FACET_INLINE auto inside(int64_t from, int64_t to) {
  if constexpr (width<A> == 1) {
    return from <= 0 && to >= 0;
  } else {
    const auto near = [](int64_t i) { return static_cast<int32_t>(i < -1 ? -1 : i > lanes ? lanes : i); };
    return (iota() >= near(from)) & (iota() <= near(to));
  }
}

template <class A>
struct Partial {
  A *m, *l, *o;  ///< [few_queries], [few_queries], [few_queries][padded]
  static FACET_INLINE int64_t size(int64_t padded) { return few_queries * (padded + 2); }
  FACET_INLINE Partial(A* at, int64_t padded) : m(at + few_queries * padded), l(m + few_queries), o(at) {}
};

/// The runs of one piece against all queries of one sequence under one key head.
template <class T, class A>
void few_over_piece(const Columns<A>& columns, const Run* run, const Run* end, int64_t kv_head, const A* q, A* scores, T* room,
                    Partial<A> sum) {
  constexpr int W = width<A>;
  const Geometry& g = *columns.geometry;
  const AttentionInputs& x = g.x;
  const A infinity = __builtin_inff(), cap = static_cast<A>(x.cap), inverse_cap = cap > 0 ? 1 / cap : 0;
  const int64_t count = columns.count;
  for (int64_t r = 0; r < count; ++r) sum.m[r] = -infinity, sum.l[r] = 0;
  __builtin_memset(sum.o, 0, static_cast<size_t>(count * g.padded) * sizeof(A));
  for (; run < end; ++run) {
    bool any = false;
    for (int64_t p = 0; p < columns.panels; ++p) any |= run->met_by(columns.range[p]);
    if (!any) continue;
    const int64_t keys = run->count(), lead = run->lead(key_block), origin = run->position - lead;
    int64_t k_ld = 0, v_ld = 0;
    const T* const k = rows_in_order(x.k, columns.b, *run, g.S, kv_head, g.Dh, room + W * g.Dh, k_ld);
    const T* const v = rows_in_order(x.v, columns.b, *run, g.S, kv_head, g.Dh, room + (W + key_block) * g.Dh, v_ld);
    for (int64_t i = 0; i < keys;) {
      const T* from = k + i * k_ld;
      int64_t ld = k_ld;
      if (keys - i < W) {  // rows to the end of a vector
        for (int64_t j = 0; j < W; ++j) {
          if (i + j < keys) __builtin_memcpy(room + j * g.Dh, from + j * k_ld, static_cast<size_t>(g.Dh) * sizeof(T));
          else __builtin_memset(room + j * g.Dh, 0, static_cast<size_t>(g.Dh) * sizeof(T));
        }
        from = room, ld = g.Dh;
      }
      const bool two = keys - i >= 2 * W;
      const int64_t next = i + (two ? 2 * W : W);
      score_keys<A, T>(count, two, q, g.padded, from, ld, g.Dh, scores + lead + i, next < keys ? k + next * k_ld : v,
                       next < keys ? k_ld : v_ld);
      i = next;
    }
    const int64_t first = lead - lead % W, rest = lead + keys;  // lanes: position origin + i
    for (int64_t r = 0; r < count; ++r) {
      A* const s = scores + r * score_row<A>;
      const bool meets = columns.segment[r] == run->segment || columns.trunk[r] == run->via;
      const int64_t from = columns.lo[r] > run->position ? columns.lo[r] - origin : lead;
      const int64_t to = !meets ? -1 : columns.hi[r] < run->last() ? columns.hi[r] - origin : rest - 1;
      Vec<A> top = broadcast<A>(sum.m[r]);
      for (int64_t i = first; i < rest; i += W) {
        Vec<A> c = load(s + i);
        if (cap > 0) c = cap * math::tanh(c * inverse_cap);
        c = inside<A>(from - i, to - i) ? c : broadcast<A>(-infinity);
        store(s + i, c);
        top = max(c, top);
      }
      const A m = reduce_max(top), base = m == -infinity ? 0 : m;
      const A alpha = first_lane<A>(exp_down(broadcast<A>(sum.m[r] - base)));
      Vec<A> total{};
      for (int64_t i = first; i < rest; i += W) {
        const Vec<A> e = exp_down(load(s + i) - base);
        store(s + i, e);
        total += e;
      }
      sum.m[r] = m;
      sum.l[r] = first_lane<A>(multiply_add(broadcast<A>(sum.l[r]), broadcast<A>(alpha), broadcast<A>(reduce_add(total))));
      if (alpha != 1)
        for (int64_t d = 0; d < g.padded; d += W) store(sum.o + r * g.padded + d, load(sum.o + r * g.padded + d) * alpha);
    }
    const T* const k_next = run + 1 < end ? Geometry::row<T>(x.k, columns.b, run[1].begin, kv_head) : v;
    by_fours_and_eights(count, keys, [&](int64_t r, int64_t i, auto R, auto N) {
      if (r == 0) {
        for (int64_t n = i + 8; n < i + 8 + N() && n < keys; ++n) prefetch(v + n * v_ld, g.Dh);
        for (int64_t n = i / 2; n < (i + N()) / 2; ++n) prefetch(k_next + n * k_ld, g.Dh);  // those that score_keys begins with
      }
      blend<R(), N(), A, T>(scores + r * score_row<A> + lead + i, v + i * v_ld, v_ld, g.Dh, sum.o + r * g.padded, g.padded);
    });
  }
}

template <class T>
void forward_few(const AttentionInputs& x, const Out& y, const Out& lse) {
  using A = Acc<T>;
  const Geometry g(x, width<A>);
  const A infinity = __builtin_inff();
  const int64_t panels = (g.T * g.G + panel<A> - 1) / panel<A>;
  Workspace lists(Runs::bytes(g));
  const Runs runs(g, lists);
  const int64_t pieces = runs.most_pieces() > 1 ? runs.most_pieces() : 1;
  Workspace shared(Workspace::size<A>(g.B * g.K * pieces * Partial<A>::size(g.padded)));
  A* const partial = shared.take<A>(g.B * g.K * pieces * Partial<A>::size(g.padded));
  const auto part = [&](int64_t b, int64_t head, int64_t i) {
    return Partial<A>(partial + ((b * g.K + head) * pieces + i) * Partial<A>::size(g.padded), g.padded);
  };
  const int64_t bytes = Columns<A>::bytes(panels) + Workspace::size<A>(few_queries * g.padded) +
                        Workspace::size<A>(few_queries * score_row<A>) + Workspace::size<T>((width<A> + 2 * key_block) * g.Dh);
  const int64_t rows = g.B * g.K * pieces;
  parallel_for(rows, 1, piece * g.Dh, [&](int64_t first, int64_t last) {
    Workspace space(bytes);
    Columns<A> columns(g, space, panels);
    A* const q = space.take<A>(few_queries * g.padded);
    A* const scores = space.take<A>(few_queries * score_row<A>);
    T* const room = space.take<T>((width<A> + 2 * key_block) * g.Dh);
    for (int64_t i = first; i < last; ++i) {
      const int64_t b = i / (pieces * g.K), n = i / g.K % pieces, head = i % g.K;  // heads of one piece together: they share pages
      if (n > 0 && n >= runs.pieces(b)) continue;
      columns.choose(b, head, 0, g.T);
      for (int64_t r = 0; r < columns.count; ++r)
        to_row(x.q.as<T>() + columns.row(x.q, r), g.Dh, static_cast<A>(x.scale), q + r * g.padded, g.padded);
      const Run* const from = runs.begin(b, n);
      few_over_piece<T, A>(columns, from, n < runs.pieces(b) ? runs.end(b, n) : from, head, q, scores, room, part(b, head, n));
    }
  });
  parallel_for(g.B * g.K, 4, pieces * g.T * g.G * g.Dh, [&](int64_t first, int64_t last) {
    for (int64_t pair = first; pair < last; ++pair)
      for (int64_t r = 0; r < g.T * g.G; ++r) {
        const int64_t b = pair / g.K, head = pair % g.K, t = r / g.G, h = head * g.G + r % g.G;
        const Partial<A> whole = part(b, head, 0);
        Vec<A> m = broadcast<A>(whole.m[r]), l = broadcast<A>(whole.l[r]);
        A* const o = whole.o + r * g.padded;
        for (int64_t i = 1; i < runs.pieces(b); ++i) {
          const Partial<A> next = part(b, head, i);
          const Joint<A> joint(m, broadcast<A>(next.m[r]));
          m = joint.top;
          l = joint(l, broadcast<A>(next.l[r]));
          for (int64_t d = 0; d < g.padded; d += width<A>) store(o + d, joint(load(o + d), load(next.o + r * g.padded + d)));
        }
        const Vec<A> none{}, inverse = l > none ? 1 / l : none;
        T* const to = Geometry::row<T>(y, b, t, h);
        for_row<A>(g.Dh, [&](int64_t d, auto some) { store(to + d, load(o + d) * inverse, some); });
        if (lse)
          lse.as<A>()[b * lse.stride.dim[0] + h * lse.stride.dim[1] + t * lse.stride.dim[2]] =
              first_lane<A>(l > none ? m + math::log(l) : broadcast<A>(-infinity));
      }
  });
}

}  // namespace facet::cpu::FACET_TIER

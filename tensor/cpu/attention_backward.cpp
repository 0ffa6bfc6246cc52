// A task is a group of keys against a group of queries under one key head; within it, blocks of queries pass over blocks of keys
// as in the forward pass, five products each. dk and dv of the group of keys and dq of a block of queries stay in scratch meanwhile.
//
// Tasks that share keys or queries may not run at once, so long sequences take turns: in turn t the key group i meets the query
// group i + t (modulo their number). Every row of dq, dk and dv then gets its parts one turn after another, whoever computes them:
// no partial gradients are kept, nothing is computed twice, and the sums do not depend on the number of threads.
#include "tensor/cpu/attention_tile.h"
#include "tensor/kernels/copy.h"

namespace facet::cpu::FACET_TIER {
namespace {

// probabilities[n][..] = p, gradients[n][..] = ds from the raw scores and dp that they hold on entry.
template <int C, class A>
void differentiate(const Columns<A>& columns, int64_t p, int64_t begin, int64_t end, bool all_visible, A* probabilities, A* gradients,
                   int64_t ld, const A* lse, const A* delta) {
  constexpr int W = width<A>;
  const Geometry& g = *columns.geometry;
  const A cap = static_cast<A>(g.x.cap), inverse_cap = cap > 0 ? 1 / cap : 0;
  const PanelMask<C, A> mask(columns, p, all_visible);
  Vec<A> base[C], mean[C];
  for (int j = 0; j < C; ++j) {
    base[j] = load(lse + j * W);
    mean[j] = load(delta + j * W);
  }
  for (int64_t s = begin; s < end; ++s) {
    const int64_t position = all_visible ? 0 : g.k_position(columns.b, s), segment = all_visible ? 0 : g.k_segment(columns.b, s);
    const bool open = mask.open(position, segment, segment);
    for (int j = 0; j < C; ++j) {
      A* const at = probabilities + (s - begin) * ld + j * W;
      A* const ds = gradients + (s - begin) * ld + j * W;
      Vec<A> c = load(at), slope = broadcast<A>(1);
      if (cap > 0) {
        const Vec<A> t = math::tanh(c * inverse_cap);
        c = cap * t;
        slope = 1 - t * t;
      }
      Vec<A> e = exp_down(c - base[j]);
      if (!open) e = mask.apply(j, position, segment, segment, e, Vec<A>{});
      store(at, e);
      store(ds, e * (load(ds) - mean[j]) * slope);
    }
  }
}

template <class T>
struct Backward {
  using A = Acc<T>;
  const AttentionInputs& x;
  const View &y, &lse, &dy;
  const Out &dq, &dk, &dv;
  Geometry g;
  const KeyRange* ranges;
  int64_t tokens, most;  ///< per block of queries: tokens, panels
  int64_t group;         ///< tokens and keys per group

  struct Room {
    A *q, *dy, *dq;         ///< [panel][Dh][panel columns]
    A *q_rows, *dy_rows;    ///< [column][padded]
    A *lse, *delta, *scale; ///< [column]
    A *p, *ds;              ///< [key_block][columns]
    A *dk, *dv;             ///< [group][padded]
    A *k, *v;               ///< [group][Dh], converted; null when used in place
  };
  int64_t wide() const { return most * panel<A>; }
  int64_t converted() const { return std::is_same_v<A, T> ? 0 : group * g.Dh; }
  int64_t bytes() const {
    return Columns<A>::bytes(most) + 3 * Workspace::size<A>(wide() * g.Dh) + 2 * Workspace::size<A>(wide() * g.padded) +
           3 * Workspace::size<A>(wide()) + 2 * Workspace::size<A>(key_block * wide()) + 2 * Workspace::size<A>(group * g.padded) +
           2 * Workspace::size<A>(converted());
  }
  Room cut(Workspace& space) const {
    Room r;
    r.q = space.take<A>(wide() * g.Dh);
    r.dy = space.take<A>(wide() * g.Dh);
    r.dq = space.take<A>(wide() * g.Dh);
    r.q_rows = space.take<A>(wide() * g.padded);
    r.dy_rows = space.take<A>(wide() * g.padded);
    r.lse = space.take<A>(wide());
    r.delta = space.take<A>(wide());
    r.scale = space.take<A>(wide());
    r.p = space.take<A>(key_block * wide());
    r.ds = space.take<A>(key_block * wide());
    r.dk = space.take<A>(group * g.padded);
    r.dv = space.take<A>(group * g.padded);
    r.k = space.take<A>(converted());
    r.v = space.take<A>(converted());
    return r;
  }

  /// Both layouts of q (scaled) and dy, lse and delta of the chosen columns; dq starts from zero.
  void bring_queries(const Columns<A>& columns, const Room& r) const {
    const A scale = static_cast<A>(x.scale);
    columns.template gather<T>(x.q, scale, r.q);
    columns.template gather<T>(dy, A(1), r.dy);
    columns.template gather<T>(y, A(1), r.dq);  // until delta is known
    for (int64_t p = 0; p < columns.panels; ++p) {
      // Summed over d in the order of dp: a query that sees a single key, whose y is v, gets ds = p (dp - delta) = 0 exactly.
      const int64_t first = p * panel<A> * g.Dh;
      Vec<A> sum[2] = {};
      for (int64_t i = 0; i < g.Dh * panel<A>; i += panel<A>)
        for (int j = 0; j < columns.vectors(p); ++j)
          sum[j] += load(r.dy + first + i + j * width<A>) * load(r.dq + first + i + j * width<A>);
      for (int j = 0; j < 2; ++j) store(r.delta + p * panel<A> + j * width<A>, sum[j]);
    }
    __builtin_memset(r.dq, 0, static_cast<size_t>(columns.panels * panel<A> * g.Dh) * sizeof(A));
    for (int64_t m = 0; m < columns.panels * panel<A>; ++m) {
      r.scale[m] = scale;
      if (m >= columns.count) {
        r.lse[m] = 0;
        continue;
      }
      to_row(x.q.as<T>() + columns.row(x.q, m), g.Dh, scale, r.q_rows + m * g.padded, g.padded);
      to_row(dy.as<T>() + columns.row(dy, m), g.Dh, A(1), r.dy_rows + m * g.padded, g.padded);
      const A l = lse.as<A>()[columns.scalar(lse, m)];
      r.lse[m] = l == -static_cast<A>(__builtin_inff()) ? 0 : l;  // saw no key: the mask makes every p zero
    }
  }

  /// Scores, p and ds of keys [begin, end) against panel p, and their part of dq.
  template <int C>
  void score(const Columns<A>& columns, const Room& r, int64_t p, int64_t begin, int64_t end, bool all, const A* k, int64_t k_ld,
             const A* v, int64_t v_ld) const {
    const int64_t ld = wide(), c = p * panel<A>;
    product<C, Walk::rows, A>(end - begin, k, k_ld, r.q + c * g.Dh, panel<A>, g.Dh, r.p + c, ld, false);
    product<C, Walk::rows, A>(end - begin, v, v_ld, r.dy + c * g.Dh, panel<A>, g.Dh, r.ds + c, ld, false);
    differentiate<C, A>(columns, p, begin, end, all, r.p + c, r.ds + c, ld, r.lse + c, r.delta + c);
    if (dq) product<C, Walk::columns, A>(g.Dh, k, k_ld, r.ds + c, ld, end - begin, r.dq + c * g.Dh, panel<A>, true);
  }

  /// sum[key][d] += scores[key][column] rows[column][d] over columns [c0, c1).
  void collect(const A* scores, const A* rows, int64_t keys, int64_t c0, int64_t c1, A* sum) const {
    for (int64_t d = 0; d < g.padded; d += panel<A>) {
      const auto go = g.padded - d > width<A> ? product<2, Walk::rows, A> : product<1, Walk::rows, A>;
      go(keys, scores + c0, wide(), rows + c0 * g.padded + d, g.padded, c1 - c0, sum + d, g.padded, true, nullptr);
    }
  }

  /// The chosen block of queries against keys [s0, s1). False when none of them sees any.
  bool meet(const Columns<A>& columns, const Room& r, int64_t s0, int64_t s1, const A* k, int64_t k_ld, const A* v, int64_t v_ld) const {
    bool met = false;
    for (int64_t n0 = s0; n0 < s1; n0 += key_block) {
      const KeyRange& range = ranges[columns.b * g.key_blocks + n0 / key_block];
      const int64_t n1 = n0 + key_block < s1 ? n0 + key_block : s1;
      int64_t run = 0, run_begin = 0, run_end = 0;  // neighbouring panels that see the same keys share the products for dk and dv
      const auto flush = [&](int64_t p) {
        if (run_begin < run_end) {
          const int64_t c0 = run * panel<A>, c1 = p * panel<A> < columns.count ? p * panel<A> : columns.count;
          if (dv) collect(r.p, r.dy_rows, run_end - run_begin, c0, c1, r.dv + (run_begin - s0) * g.padded);
          if (dk) collect(r.ds, r.q_rows, run_end - run_begin, c0, c1, r.dk + (run_begin - s0) * g.padded);
        }
        run = p;
      };
      for (int64_t p = 0; p < columns.panels; ++p) {
        int64_t begin = n0, end = n1;
        const bool all = sees_all(columns.range[p], range);
        if (!may_see(columns.range[p], range)) end = begin;
        else if (!all) columns.trim(p, begin, end);
        if (begin != run_begin || end != run_end) {
          flush(p);
          run_begin = begin;
          run_end = end;
        }
        if (begin == end) continue;
        if (!met) {
          bring_queries(columns, r);
          met = true;
        }
        const A *kn = k + (begin - s0) * k_ld, *vn = v + (begin - s0) * v_ld;
        if (columns.vectors(p) == 2) score<2>(columns, r, p, begin, end, all, kn, k_ld, vn, v_ld);
        else score<1>(columns, r, p, begin, end, all, kn, k_ld, vn, v_ld);
      }
      flush(columns.panels);
    }
    return met;
  }

  void write_keys(const A* rows, int64_t b, int64_t s0, int64_t s1, int64_t head, const Out& to) const {
    by_float_dtype(to.dtype, [&](auto t) {
      using D = decltype(t);
      if constexpr (std::is_same_v<Acc<D>, A>) {
        for (int64_t s = s0; s < s1; ++s) {
          D* const row = Geometry::row<D>(to, b, s, head);
          const A* const sum = rows + (s - s0) * g.padded;
          for_row<A>(g.Dh, [&](int64_t d, auto part) { put(row + d, load(sum + d, part), part, to.accumulate); });
        }
      }
    });
  }

  void task(int64_t b, int64_t head, int64_t key_group, int64_t query_group, bool only, Columns<A>& columns, const Room& r) const {
    const int64_t s0 = key_group * group, s1 = s0 + group < g.S ? s0 + group : g.S;
    const int64_t t0 = query_group * group, t1 = t0 + group < g.T ? t0 + group : g.T;
    int64_t k_ld = x.k.stride.dim[1], v_ld = x.v.stride.dim[1];
    const A *k = nullptr, *v = nullptr;
    bool any = false;
    for (int64_t t = t0; t < t1; t += tokens) {
      columns.choose(b, head, t, t + tokens < t1 ? t + tokens : t1);
      bool sees = false;
      for (int64_t n = s0 / key_block; n * key_block < s1; ++n)
        for (int64_t p = 0; p < columns.panels; ++p) sees |= may_see(columns.range[p], ranges[b * g.key_blocks + n]);
      if (sees && !any) {
        k = converted_rows<A>(Geometry::row<T>(x.k, b, s0, head), s1 - s0, g.Dh, r.k, k_ld);
        v = converted_rows<A>(Geometry::row<T>(x.v, b, s0, head), s1 - s0, g.Dh, r.v, v_ld);
        __builtin_memset(r.dk, 0, static_cast<size_t>((s1 - s0) * g.padded) * sizeof(A));
        __builtin_memset(r.dv, 0, static_cast<size_t>((s1 - s0) * g.padded) * sizeof(A));
        any = true;
      }
      const bool met = sees && meet(columns, r, s0, s1, k, k_ld, v, v_ld);
      if (!dq || (!met && !only)) continue;
      if (!met) {
        __builtin_memset(r.dq, 0, static_cast<size_t>(columns.panels * panel<A> * g.Dh) * sizeof(A));
        for (int64_t m = 0; m < columns.panels * panel<A>; ++m) r.scale[m] = 0;
      }
      by_float_dtype(dq.dtype, [&](auto d) {
        if constexpr (std::is_same_v<Acc<decltype(d)>, A>)
          columns.template scatter<decltype(d)>(r.dq, r.scale, dq, dq.accumulate);
      });
    }
    if (!any && !only) return;
    if (!any) {
      __builtin_memset(r.dk, 0, static_cast<size_t>((s1 - s0) * g.padded) * sizeof(A));
      __builtin_memset(r.dv, 0, static_cast<size_t>((s1 - s0) * g.padded) * sizeof(A));
    }
    if (dk) write_keys(r.dk, b, s0, s1, head, dk);
    if (dv) write_keys(r.dv, b, s0, s1, head, dv);
  }
};

// Groups of 128 up to 2048 tokens, then a sixteenth of the sequence up to 512: enough tasks for many threads, large enough that
// bringing q, dy, k and v into place does not count.
FACET_INLINE int64_t group_size(int64_t longest) {
  const int64_t sixteenth = (longest / 16 + key_block - 1) / key_block * key_block;
  return sixteenth < 128 ? 128 : sixteenth > 512 ? 512 : sixteenth;
}

template <class T>
void backward(const AttentionInputs& x, const View& y, const View& lse, const View& dy, const Out& dq, const Out& dk, const Out& dv) {
  using A = Acc<T>;
  const Geometry g(x, width<A>);
  Workspace shared(Workspace::size<KeyRange>(g.B * g.key_blocks));
  KeyRange* ranges = shared.take<KeyRange>(g.B * g.key_blocks);
  g.find_key_ranges(ranges);
  const int64_t longest = g.T > g.S ? g.T : g.S;
  int64_t group = group_size(longest);
  const int64_t groups = (longest + group - 1) / group;
  if (groups <= 1) group = longest > 0 ? longest : 1;
  int64_t tokens = g.G < query_columns ? query_columns / g.G : 1;
  if (tokens > group) tokens = group;
  const int64_t most = (tokens * g.G + panel<A> - 1) / panel<A>;
  const Backward<T> pass{x, y, lse, dy, dq, dk, dv, g, ranges, tokens, most, group};
  const int64_t pairs = g.B * g.K;
  for (int64_t turn = 0; turn < groups; ++turn) {
    parallel_for(pairs * groups, 1, group * group * g.G * g.Dh, [&](int64_t first, int64_t last) {
      Workspace space(pass.bytes());
      Columns<A> columns(pass.g, space, most);
      const auto room = pass.cut(space);
      for (int64_t i = first; i < last; ++i) {
        const int64_t key_group = i / pairs, query_group = (key_group + turn) % groups, pair = i % pairs;
        if (key_group * group >= g.S && groups > 1) continue;
        if (query_group * group >= g.T && groups > 1) continue;
        pass.task(pair / g.K, pair % g.K, key_group, query_group, groups <= 1, columns, room);
      }
    });
  }
}

// Where several turns add up: the destination itself, from zero or from what is there, or f32 in scratch for a bf16 destination,
// which is rounded once at the end.
class Sum {
 public:
  FACET_INLINE Sum(const Out& to, DType dtype, bool turns)
      : to_(to), apart_(to && turns && to.dtype != dtype), space_(apart_ ? to.numel() * size_of(dtype) : 0) {
    if (!apart_) {
      sum = to;
    } else {
      sum.data = space_.take<char>(0);
      sum.dtype = dtype;
      sum.shape = to.shape;
      sum.stride = dense_strides(to.shape);
    }
    if (!to || !turns) return;
    if (!sum.accumulate) cpu::fill(sum, 0);
    sum.accumulate = true;
  }
  FACET_INLINE void finish() const {
    if (apart_) cpu::copy(sum, to_);
  }
  Out sum;

 private:
  const Out& to_;
  bool apart_;
  Workspace space_;
};

}  // namespace

void attention_backward(const AttentionInputs& x, View y, View lse, View dy, Out dq, Out dk, Out dv) {
  const int64_t T = x.q.shape[1], S = x.k.shape[1], longest = T > S ? T : S;
  const bool turns = longest > group_size(longest);
  const Sum q(dq, acc_dtype(x.q.dtype), turns), k(dk, acc_dtype(x.q.dtype), turns), v(dv, acc_dtype(x.q.dtype), turns);
  by_float_dtype(x.q.dtype, [&](auto t) { backward<decltype(t)>(x, y, lse, dy, q.sum, k.sum, v.sum); });
  q.finish();
  k.finish();
  v.finish();
}

}  // namespace facet::cpu::FACET_TIER

FACET_TIERED(attention_backward)

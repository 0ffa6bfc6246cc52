#include "tensor/cpu/attention_few.h"

namespace facet::cpu::FACET_TIER {
namespace {

// One step of the online softmax on a panel: scores[n][..] become exp(c - m'), l and m are brought up to date, and alpha is the
// factor for what was summed before. C vectors of columns.
template <int C, class A>
void soften(const Columns<A>& columns, int64_t p, int64_t begin, int64_t end, bool all_visible, A* scores, A* m, A* l, A* alpha) {
  constexpr int W = width<A>;
  const Geometry& g = *columns.geometry;
  const A cap = static_cast<A>(g.x.cap), inverse_cap = cap > 0 ? 1 / cap : 0;
  const A infinity = __builtin_inff();
  const PanelMask<C, A> mask(columns, p, all_visible);
  Vec<A> top[C], sum[C];
  for (int j = 0; j < C; ++j) {
    top[j] = load(m + j * W);
    sum[j] = Vec<A>{};
  }
  for (int64_t s = begin; s < end; ++s) {
    const int64_t position = all_visible ? 0 : g.k_position(columns.b, s), segment = all_visible ? 0 : g.k_segment(columns.b, s);
    const bool open = mask.open(position, segment);
    for (int j = 0; j < C; ++j) {
      A* const at = scores + (s - begin) * panel<A> + j * W;
      Vec<A> c = load(at);
      if (cap > 0) c = cap * math::tanh(c * inverse_cap);
      if (!open) c = mask.apply(j, position, segment, c, broadcast<A>(-infinity));
      if (cap > 0 || !open) store(at, c);
      top[j] = max(c, top[j]);
    }
  }
  Vec<A> base[C];
  for (int j = 0; j < C; ++j) {
    base[j] = top[j] == -infinity ? Vec<A>{} : top[j];  // nothing seen yet: exp(-inf - 0) = 0, never inf - inf
    store(alpha + j * W, exp_down(load(m + j * W) - base[j]));
    store(m + j * W, top[j]);
  }
  for (int64_t i = 0; i < end - begin; ++i)
    for (int j = 0; j < C; ++j) {
      A* at = scores + i * panel<A> + j * W;
      const Vec<A> e = exp_down(load(at) - base[j]);
      sum[j] += e;
      store(at, e);
    }
  for (int j = 0; j < C; ++j) store(l + j * W, load(l + j * W) * load(alpha + j * W) + sum[j]);
}

template <int C, class A>
void panel_step(const Columns<A>& columns, int64_t p, int64_t begin, int64_t end, bool all, const A* k, int64_t k_ld, const A* v,
                int64_t v_ld, const A* q, A* scores, A* m, A* l, A* alpha, A* o) {
  const int64_t Dh = columns.geometry->Dh;
  product<C, Walk::rows, A>(end - begin, k, k_ld, q, panel<A>, Dh, scores, panel<A>, false);
  soften<C, A>(columns, p, begin, end, all, scores, m, l, alpha);
  product<C, Walk::columns, A>(Dh, v, v_ld, scores, panel<A>, end - begin, o, panel<A>, true, alpha);
}

template <class T>
void forward(const AttentionInputs& x, const Out& y, const Out& lse) {
  using A = Acc<T>;
  const Geometry g(x, width<A>);
  const int64_t tokens = g.G < query_columns ? query_columns / g.G : 1;
  const int64_t blocks = (g.T + tokens - 1) / tokens;
  const int64_t most = (tokens * g.G + panel<A> - 1) / panel<A>;  // panels
  const int64_t wide = most * panel<A>;
  Workspace shared(Workspace::size<KeyRange>(g.B * g.key_blocks));
  KeyRange* keys = shared.take<KeyRange>(g.B * g.key_blocks);
  g.find_key_ranges(keys);
  const int64_t converted = std::is_same_v<A, T> ? 0 : key_block * g.Dh;
  const int64_t bytes = Columns<A>::bytes(most) + 2 * Workspace::size<A>(wide * g.Dh) + 2 * Workspace::size<A>(wide) +
                        Workspace::size<A>(panel<A>) + Workspace::size<A>(key_block * panel<A>) + 2 * Workspace::size<A>(converted);
  const int64_t reach = x.window > 0 && x.window < g.S ? x.window : g.S;
  parallel_for(g.B * g.K * blocks, 1, tokens * g.G * reach * g.Dh, [&](int64_t first, int64_t last) {
    Workspace space(bytes);
    Columns<A> columns(g, space, most);
    A* q = space.take<A>(wide * g.Dh);
    A* o = space.take<A>(wide * g.Dh);
    A* m = space.take<A>(wide);
    A* l = space.take<A>(wide);
    A* alpha = space.take<A>(panel<A>);
    A* scores = space.take<A>(key_block * panel<A>);
    A* k_room = space.take<A>(converted);
    A* v_room = space.take<A>(converted);
    for (int64_t i = first; i < last; ++i) {
      const int64_t block = blocks - 1 - i / (g.B * g.K);  // the last queries see most: start with them
      const int64_t b = i % (g.B * g.K) / g.K, head = i % g.K;
      columns.choose(b, head, block * tokens, (block + 1) * tokens < g.T ? (block + 1) * tokens : g.T);
      columns.template gather<T>(x.q, static_cast<A>(x.scale), q);
      const A infinity = __builtin_inff();
      for (int64_t c = 0; c < columns.panels * panel<A>; ++c) m[c] = -infinity, l[c] = 0;
      __builtin_memset(o, 0, static_cast<size_t>(columns.panels * panel<A> * g.Dh) * sizeof(A));
      for (int64_t n = 0; n < g.key_blocks; ++n) {
        const KeyRange& range = keys[b * g.key_blocks + n];
        const int64_t n0 = n * key_block, n1 = n0 + key_block < g.S ? n0 + key_block : g.S;
        const A *k = nullptr, *v = nullptr;
        int64_t k_ld = 0, v_ld = 0;
        for (int64_t p = 0; p < columns.panels; ++p) {
          if (!may_see(columns.range[p], range)) continue;
          if (!k) {
            k = rows_of<A, T>(x.k, b, n0, n1, head, g.Dh, k_room, k_ld);
            v = rows_of<A, T>(x.v, b, n0, n1, head, g.Dh, v_room, v_ld);
          }
          const bool all = sees_all(columns.range[p], range);
          int64_t begin = n0, end = n1;
          if (!all) columns.trim(p, begin, end);
          if (begin == end) continue;
          const int64_t c = p * panel<A>;
          const auto step = columns.vectors(p) == 2 ? panel_step<2, A> : panel_step<1, A>;
          step(columns, p, begin, end, all, k + (begin - n0) * k_ld, k_ld, v + (begin - n0) * v_ld, v_ld, q + c * g.Dh, scores, m + c,
               l + c, alpha, o + c * g.Dh);
        }
      }
      for (int64_t c = 0; c < columns.panels * panel<A>; c += width<A>) {  // l: 1 / l, m: lse
        const Vec<A> sum = load(l + c), none = Vec<A>{};
        store(m + c, sum > none ? load(m + c) + math::log(sum) : broadcast<A>(-infinity));
        store(l + c, sum > none ? 1 / sum : none);
      }
      if (lse)
        for (int64_t c = 0; c < columns.count; ++c) lse.as<A>()[columns.scalar(lse, c)] = m[c];
      columns.template scatter<T>(o, l, y, false);
    }
  });
}

}  // namespace

void attention_forward(const AttentionInputs& x, Out y, Out lse) {
  const bool few = x.q.shape[1] * (x.q.shape[2] / x.k.shape[2]) <= few_queries;
  by_float_dtype(x.q.dtype, [&](auto t) { few ? forward_few<decltype(t)>(x, y, lse) : forward<decltype(t)>(x, y, lse); });
}

}  // namespace facet::cpu::FACET_TIER

FACET_TIERED(attention_forward)

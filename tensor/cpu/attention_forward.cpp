#include "tensor/cpu/attention_few.h"

namespace facet::cpu::FACET_TIER {
namespace {

// The sum of a column over rows of scores: rows alike modulo W first, then those W sums by halves, as a vector of keys and
// reduce_add give it in attention_few.h.
template <int H, class A>
FACET_INLINE Vec<A> sum_of_rows(const A* row, const A* end) {
  constexpr int W = width<A>;
  if constexpr (H < W) {
    return sum_of_rows<2 * H, A>(row, end) + sum_of_rows<2 * H, A>(row + H * panel<A>, end);
  } else {
    Vec<A> sum = load(row);
    for (row += W * panel<A>; row < end; row += W * panel<A>) sum += load(row);
    return sum;
  }
}

// One step of the online softmax on a panel: scores[n][..] become exp(c - m'), l and m are brought up to date, and alpha is the
// factor for what was summed before. C vectors of columns; the keys' rows of scores begin at row keys.lead(W).
template <int C, class A>
void soften(const Columns<A>& columns, int64_t p, const Run& keys, bool all_visible, A* scores, A* m, A* l, A* alpha) {
  constexpr int W = width<A>;
  const int64_t lead = keys.lead(W), end = lead + keys.count(), rows = (end + W - 1) / W * W;
  const Geometry& g = *columns.geometry;
  const A cap = static_cast<A>(g.x.cap), inverse_cap = cap > 0 ? 1 / cap : 0;
  const A infinity = __builtin_inff();
  const PanelMask<C, A> mask(columns, p, all_visible);
  Vec<A> top[C];
  for (int j = 0; j < C; ++j) top[j] = load(m + j * W);
  for (int64_t i = lead; i < end; ++i) {
    const int64_t position = keys.position + i - lead;
    const bool open = mask.open(position, keys.segment, keys.via);
    for (int j = 0; j < C; ++j) {
      A* const at = scores + i * panel<A> + j * W;
      Vec<A> c = load(at);
      if (cap > 0) c = cap * math::tanh(c * inverse_cap);
      if (!open) c = mask.apply(j, position, keys.segment, keys.via, c, broadcast<A>(-infinity));
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
  const auto clear = [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i)
      for (int j = 0; j < C; ++j) store(scores + i * panel<A> + j * W, Vec<A>{});
  };
  clear(0, lead);
  for (int64_t i = lead; i < end; ++i)
    for (int j = 0; j < C; ++j) {
      A* const at = scores + i * panel<A> + j * W;
      store(at, exp_down(load(at) - base[j]));
    }
  clear(end, rows);
  for (int j = 0; j < C; ++j) {
    const Vec<A> sum = sum_of_rows<1, A>(scores + j * W, scores + rows * panel<A> + j * W);
    store(l + j * W, multiply_add(load(l + j * W), load(alpha + j * W), sum));
  }
}

// One run of keys against a panel; k and v: the run's first rows.
template <int C, class A>
void panel_step(const Columns<A>& columns, int64_t p, const Run& keys, bool all, const A* k, int64_t k_ld, const A* v, int64_t v_ld,
                const A* q, A* scores, A* m, A* l, A* alpha, A* o) {
  const int64_t Dh = columns.geometry->Dh, count = keys.count();
  A* const first = scores + keys.lead(width<A>) * panel<A>;
  product<C, Walk::rows, A>(count, k, k_ld, q, panel<A>, Dh, first, panel<A>, false);
  soften<C, A>(columns, p, keys, all, scores, m, l, alpha);
  product<C, Walk::columns, A>(Dh, v, v_ld, first, panel<A>, count, o, panel<A>, true, alpha);
}

/// What a panel has seen: m and l [panel], o [Dh][panel].
template <class A>
struct Seen {
  A *m, *l, *o;
  FACET_INLINE Seen at(int64_t p, int64_t Dh) const { return {m + p * panel<A>, l + p * panel<A>, o + p * panel<A> * Dh}; }
  FACET_INLINE void clear(int64_t panels, int64_t Dh) const {
    for (int64_t c = 0; c < panels * panel<A>; ++c) m[c] = -static_cast<A>(__builtin_inff()), l[c] = 0;
    __builtin_memset(o, 0, static_cast<size_t>(panels * panel<A> * Dh) * sizeof(A));
  }
  FACET_INLINE void join(const Seen& next, int64_t Dh) const {
    for (int64_t c = 0; c < panel<A>; c += width<A>) {
      const Joint<A> joint(load(m + c), load(next.m + c));
      store(m + c, joint.top);
      store(l + c, joint(load(l + c), load(next.l + c)));
      for (int64_t i = c; i < panel<A> * Dh; i += panel<A>) store(o + i, joint(load(o + i), load(next.o + i)));
    }
  }
};

template <class T>
void forward(const AttentionInputs& x, const Out& y, const Out& lse) {
  using A = Acc<T>;
  const Geometry g(x, width<A>);
  const int64_t tokens = g.G < query_columns ? query_columns / g.G : 1;
  const int64_t blocks = (g.T + tokens - 1) / tokens;
  const int64_t most = (tokens * g.G + panel<A> - 1) / panel<A>;  // panels
  const int64_t wide = most * panel<A>;
  Workspace shared(Runs::bytes(g));
  const Runs runs(g, shared);
  const int64_t converted = std::is_same_v<A, T> ? 0 : key_block * g.Dh;
  const bool pieces = runs.most_pieces() > 1;
  const int64_t seen = 2 * Workspace::size<A>(wide) + Workspace::size<A>(wide * g.Dh);
  const int64_t bytes = Columns<A>::bytes(most) + Workspace::size<A>(wide * g.Dh) + (pieces ? 2 : 1) * seen +
                        Workspace::size<A>((1 + key_block) * panel<A>) + Workspace::size<char>(most) +
                        2 * Workspace::size<A>(converted) + 2 * Workspace::size<T>(key_block * g.Dh);
  const int64_t reach = x.window > 0 && x.window < g.S ? x.window : g.S;
  parallel_for(g.B * g.K * blocks, 1, tokens * g.G * reach * g.Dh, [&](int64_t first, int64_t last) {
    Workspace space(bytes);
    Columns<A> columns(g, space, most);
    A* q = space.take<A>(wide * g.Dh);
    const auto take = [&] { return Seen<A>{space.take<A>(wide), space.take<A>(wide), space.take<A>(wide * g.Dh)}; };
    const Seen<A> total = take(), now = pieces ? take() : total;
    A* scores = space.take<A>((key_block + 1) * panel<A>);
    A* alpha = scores + key_block * panel<A>;
    enum State : char { nothing, first_piece, summed, next_piece };  // what panels have seen
    State* state = space.take<State>(most);
    A* k_room = space.take<A>(converted);
    A* v_room = space.take<A>(converted);
    T* k_rows = space.take<T>(key_block * g.Dh);
    T* v_rows = space.take<T>(key_block * g.Dh);
    for (int64_t i = first; i < last; ++i) {
      const int64_t block = blocks - 1 - i / (g.B * g.K);  // the last queries see most: start with them
      const int64_t b = i % (g.B * g.K) / g.K, head = i % g.K;
      columns.choose(b, head, block * tokens, (block + 1) * tokens < g.T ? (block + 1) * tokens : g.T);
      columns.template gather<T>(x.q, static_cast<A>(x.scale), q);
      const A infinity = __builtin_inff();
      total.clear(columns.panels, g.Dh);
      __builtin_memset(state, nothing, static_cast<size_t>(most));
      for (int64_t n = 0; n < runs.pieces(b); ++n) {
        for (const Run* run = runs.begin(b, n); run < runs.end(b, n); ++run) {
          const A *k = nullptr, *v = nullptr;
          int64_t k_ld = 0, v_ld = 0;
          for (int64_t p = 0; p < columns.panels; ++p) {
            if (!run->met_by(columns.range[p])) continue;
            if (!k) {
              const T* const keys = rows_in_order(x.k, b, *run, g.S, head, g.Dh, k_rows, k_ld);
              const T* const values = rows_in_order(x.v, b, *run, g.S, head, g.Dh, v_rows, v_ld);
              k = converted_rows<A>(keys, run->count(), g.Dh, k_room, k_ld);
              v = converted_rows<A>(values, run->count(), g.Dh, v_room, v_ld);
            }
            const Run seen = run->within(columns.range[p]);
            const int64_t skipped = seen.begin;
            if (state[p] == nothing) state[p] = first_piece;  // joins nothing: goes where the whole is summed
            const Seen<A> here = (state[p] == first_piece ? total : now).at(p, g.Dh);
            if (state[p] == summed) here.clear(1, g.Dh), state[p] = next_piece;
            const auto step = columns.vectors(p) == 2 ? panel_step<2, A> : panel_step<1, A>;
            step(columns, p, seen, run->open_to(columns.range[p]), k + skipped * k_ld, k_ld, v + skipped * v_ld, v_ld,
                 q + p * panel<A> * g.Dh, scores, here.m, here.l, alpha, here.o);
          }
        }
        for (int64_t p = 0; p < columns.panels && pieces; ++p) {
          if (state[p] == next_piece) total.at(p, g.Dh).join(now.at(p, g.Dh), g.Dh);
          if (state[p] != nothing) state[p] = summed;
        }
      }
      for (int64_t c = 0; c < columns.panels * panel<A>; c += width<A>) {  // l: 1 / l, m: lse
        const Vec<A> sum = load(total.l + c), none = Vec<A>{};
        store(total.m + c, sum > none ? load(total.m + c) + math::log(sum) : broadcast<A>(-infinity));
        store(total.l + c, sum > none ? 1 / sum : none);
      }
      if (lse)
        for (int64_t c = 0; c < columns.count; ++c) lse.as<A>()[columns.scalar(lse, c)] = total.m[c];
      columns.template scatter<T>(total.o, total.l, y, false);
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

#include "tensor/kernels/logit_rows.h"

#include "tensor/cpu/simd.h"
#include "tensor/parallel.h"

namespace facet::cpu::FACET_TIER {
namespace {

constexpr int64_t block = 4096;  // columns summed in the row's own precision before the total goes on in f64

// Lanes beyond the end of a row take `fill`.
FACET_INLINE vf inside(vf v, float, All) { return v; }
FACET_INLINE vf inside(vf v, float fill, Some part) { return select(iota() < part.n, v, splat(fill)); }
FACET_INLINE double inside(double v, double, All) { return v; }
FACET_INLINE double inside(double v, double, Some) { return v; }

template <class T>
FACET_INLINE void stats_row(T* z, int64_t V, int32_t label, double cap, double scale, bool mean, bool entropy, Acc<T>* stats) {
  using A = Acc<T>;
  const Vec<T> in = broadcast<T>(static_cast<A>(cap > 0 ? 1 / cap : scale));
  const Vec<T> bound = broadcast<T>(static_cast<A>(cap * scale));
  const A lowest = -static_cast<A>(__builtin_inf());
  Vec<T> top = broadcast<T>(lowest);
  double total = 0;
  for (int64_t b = 0; b < V; b += block) {
    Vec<T> sum{};
    for_row<T>(V - b < block ? V - b : block, [&](int64_t i, auto part) {
      Vec<T> v = load(z + b + i, part);
      if (cap > 0 || scale != 1) {
        v = cap > 0 ? bound * math::tanh(v * in) : v * in;
        store(z + b + i, v, part);
        if constexpr (sizeof(T) == 2) v = load(z + b + i, part);  // what the gradient will find there
      }
      if (mean) sum += v;  // zeros beyond the end
      top = max(inside(v, lowest, part), top);
    });
    if (mean) total += static_cast<double>(reduce_add(sum));
  }
  stats[0] = reduce_max(top);
  stats[2] = convert<A>(z[label]);
  stats[3] = static_cast<A>(total / static_cast<double>(V));

  const Vec<T> highest = broadcast<T>(stats[0]);
  total = 0;
  for (int64_t b = 0; b < V; b += block) {
    Vec<T> sum{};
    for_row<T>(V - b < block ? V - b : block, [&](int64_t i, auto part) {
      sum += inside(math::exp(load(z + b + i, part) - highest), A(0), part);
    });
    total += static_cast<double>(reduce_add(sum));
  }
  stats[1] = static_cast<A>(total);
  if (!entropy) return;

  const Vec<T> least = broadcast<T>(-1000);  // exp is 0 there: a logit of -inf adds nothing
  double spread = 0;  // sum_v exp(z_v - max) (z_v - max)
  for (int64_t b = 0; b < V; b += block) {
    Vec<T> sum{};
    for_row<T>(V - b < block ? V - b : block, [&](int64_t i, auto part) {
      const Vec<T> d = max(load(z + b + i, part) - highest, least);
      sum += inside(math::exp(d) * d, A(0), part);
    });
    spread += static_cast<double>(reduce_add(sum));
  }
  stats[4] = static_cast<A>(math::log(total) - spread / total);
}

template <class T, class D>
FACET_INLINE void grad_row(const T* z, int64_t V, int32_t label, const Acc<T>* coef, double bound, D* dz) {
  using A = Acc<T>;
  const A inverse = static_cast<A>(bound > 0 ? 1 / bound : 0), at_label = convert<A>(z[label]) * inverse, slope = 1 - at_label * at_label;
  const A of_label = (coef[1] * math::exp(convert<A>(z[label]) - coef[0]) + coef[3] + coef[2]) * slope;
  const Vec<T> highest = broadcast<T>(coef[0]), of_lse = broadcast<T>(coef[1]), of_mean = broadcast<T>(coef[3]);
  const Vec<T> in = broadcast<T>(inverse), one = broadcast<T>(1);
  for_row<T>(V, [&](int64_t i, auto part) {
    const Vec<T> v = load(z + i, part);
    Vec<T> d = of_lse * math::exp(v - highest) + of_mean;
    if (bound > 0) d = d * (one - (v * in) * (v * in));
    store(dz + i, d, part);
  });
  dz[label] = convert<D>(of_label);
}

// Sums go on in f64 from block to block; within the block that crosses the target, weight by weight.
template <class T>
FACET_INLINE int32_t draw_row(const T* z, int64_t V, Acc<T> top, double target) {
  constexpr int64_t few = 256;
  const Vec<T> highest = broadcast<T>(top);
  alignas(64) Acc<T> weight[few] = {};
  double before = 0;
  int64_t last = 0;  // start of the last block with a positive weight
  bool crossed = false;
  const auto block_of = [&](int64_t b) {
    Vec<T> sum{};
    for_row<T>(V - b < few ? V - b : few, [&](int64_t i, auto part) {
      const Vec<T> w = inside(math::exp(load(z + b + i, part) - highest), Acc<T>(0), part);
      store(weight + i, w, part);
      sum += w;
    });
    return static_cast<double>(reduce_add(sum));
  };
  for (int64_t b = 0; b < V; b += few) {
    const double after = before + block_of(b);
    if (after > before) last = b;
    crossed = after > target;
    if (crossed) break;
    before = after;
  }
  block_of(last);
  if (!crossed) target = static_cast<double>(__builtin_inff());  // rounding leaves nobody above it: the last one of positive weight
  int32_t id = 0;
  for (int64_t i = 0; i < few && last + i < V; ++i) {
    if (!(weight[i] > 0)) continue;
    id = static_cast<int32_t>(last + i);
    before += static_cast<double>(weight[i]);
    if (before > target) break;
  }
  return id;
}

// Rows per task: enough that short vocabularies do not pay for handing out work.
FACET_INLINE int64_t rows_per_task(int64_t V) { return V >= 8192 ? 1 : 8192 / (V + 1) + 1; }

}  // namespace

void logit_stats(Out z, View labels, double cap, double scale, bool mean, Out stats) {
  const int64_t C = z.shape[0], V = z.shape[1], step = z.stride[0];
  const int32_t* y = labels.as<int32_t>();
  const bool entropy = stats.shape[1] > 4;
  by_float_dtype(z.dtype, [&](auto e) {
    using T = decltype(e);
    T* pz = z.as<T>();
    auto* ps = stats.as<Acc<T>>();
    parallel_for(C, rows_per_task(V), 8 * V, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) stats_row<T>(pz + r * step, V, y[r], cap, scale, mean, entropy, ps + r * stats.stride[0]);
    });
  });
}

void logit_grad(Out z, View labels, View coef, double bound, Out dz) {
  const int64_t C = z.shape[0], V = z.shape[1], step = z.stride[0];
  const int32_t* y = labels.as<int32_t>();
  if (!dz) dz = z;
  const auto run = [&](auto e, auto g) {
    using T = decltype(e);
    using D = decltype(g);
    const T* pz = z.as<T>();
    D* pd = dz.as<D>();
    const auto* pc = coef.as<Acc<T>>();
    parallel_for(C, rows_per_task(V), 8 * V, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) grad_row<T, D>(pz + r * step, V, y[r], pc + r * coef.stride[0], bound, pd + r * dz.stride[0]);
    });
  };
  if (z.dtype == DType::f64) run(double{}, double{});
  else if (z.dtype == DType::bf16) run(bf16{}, bf16{});
  else if (dz.dtype == DType::bf16) run(float{}, bf16{});
  else run(float{}, float{});
}

void logit_draw(View z, View stats, View u, Out ids) {
  const int64_t C = z.shape[0], V = z.shape[1], step = z.stride[0], wide = stats.stride[0];
  const float* pu = u.as<float>();
  int32_t* to = ids.as<int32_t>();
  by_float_dtype(z.dtype, [&](auto e) {
    using T = decltype(e);
    const T* pz = z.as<T>();
    const auto* ps = stats.as<Acc<T>>();
    parallel_for(C, rows_per_task(V), 4 * V, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r)
        to[r] = draw_row<T>(pz + r * step, V, ps[r * wide], static_cast<double>(pu[r]) * static_cast<double>(ps[r * wide + 1]));
    });
  });
}

}  // namespace facet::cpu::FACET_TIER

FACET_TIERED(logit_draw)
FACET_TIERED(logit_stats)
FACET_TIERED(logit_grad)

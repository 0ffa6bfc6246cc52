// The loss head's two passes over logits, and draws. Bytes per logit: logit_stats reads it once (and writes it where cap or scale change
// it), logit_grad reads and writes it once, logit_draw reads it once. Every row is cut into segments of 16,384 columns, one block each: a
// single row of 262,144 words keeps 16 processors busy, and a row's bits are the same alone as in a chunk of thousands. The hardware's 2^x
// takes the place of the polynomial: with it bf16 logits would be bound by arithmetic.
#include "tensor/kernels/logit_rows.h"

#include "tensor/gpu/launch.h"
#include "tensor/gpu/pool.h"

namespace facet::gpu {
namespace {

constexpr int threads = 256;
constexpr int ahead = 2;  // packs a thread asks for before it looks at the first: what only reads needs twice the loads under way
constexpr int64_t segment = 16384;
constexpr float infinity = __builtin_inff();

__device__ inline float exp_of(float d) { return fast_exp2(d * 1.44269504088896341f); }

/// max, sum exp(z - max), sum exp(z - max) (z - max), sum z: of a thread, a segment, a row.
struct alignas(16) Part {
  float max = -infinity, sum = 0, spread = 0, total = 0;

  // The same sums seen from a larger maximum.
  __device__ void raise(float to) {
    if (!(to > max)) return;
    const float d = max - to, f = exp_of(d);
    spread = max > -infinity ? f * (spread + d * sum) : spread * f;
    sum *= f;
    max = to;
  }
};

template <class T, int W>
__device__ inline void load_logits(const T* p, bool together, int64_t left, float (&v)[W]) {
  if (together && left >= W) {
    const Pack<T, W> x = load_pack<T, W>(p);
    for (int j = 0; j < W; ++j) v[j] = widen(x[j]);
  } else {
    for (int j = 0; j < W; ++j) v[j] = j < left ? widen(p[j]) : -infinity;
  }
}
/// Which of the W words from c on is the label; -1: none.
template <int W>
__device__ inline int place_of(int64_t label, int64_t c) {
  return label >= c && label < c + W ? static_cast<int>(label - c) : -1;
}
template <class T, int W>
__device__ inline void store_logits(T* p, bool together, int64_t left, const float (&v)[W]) {
  if (together && left >= W) {
    Pack<T, W> x;
    for (int j = 0; j < W; ++j) x[j] = narrow<T>(v[j]);
    store_pack(p, x);
  } else {
    for (int j = 0; j < W; ++j)
      if (j < left) p[j] = narrow<T>(v[j]);
  }
}

struct Rows {
  int64_t V, step, segments;
  bool together;  ///< all rows begin at multiples of 16 bytes
};

template <class T>
__global__ void __launch_bounds__(threads) stats_kernel(Rows r, T* z, const int32_t* labels, float cap, float in, float bound, bool mean, bool entropy,
                                                        Part* parts, float* stats, int64_t wide) {
  constexpr int W = pack_of<T>;
  FACET_SHARED(float, slots, [threads / 32]);
  begin_overlapped();
  const int64_t row = blockIdx.x / r.segments, begin = blockIdx.x % r.segments * segment;
  const int64_t end = begin + segment < r.V ? begin + segment : r.V, label = labels[row];
  T* const pz = z + row * r.step;
  Part p;
  for (int64_t first = begin + static_cast<int64_t>(threadIdx.x) * W; first < end; first += ahead * threads * W) {
    float both[ahead][W];
#pragma unroll
    for (int u = 0; u < ahead; ++u) {
      const int64_t c = first + u * threads * W;
      load_logits(pz + c, r.together, end - c, both[u]);
    }
#pragma unroll
    for (int u = 0; u < ahead; ++u) {
      const int64_t c = first + u * threads * W, left = end - c;  // none left: logits of -inf, which add nothing
      float(&v)[W] = both[u];
      if (bound != 0 || in != 1) {
#pragma unroll
        for (int j = 0; j < W; ++j) v[j] = widen(narrow<T>(bound != 0 ? bound * math::tanh(v[j] * in) : v[j] * in));
        store_logits(pz + c, r.together, left, v);
        if (left < W) {
#pragma unroll
          for (int j = 0; j < W; ++j) v[j] = j < left ? v[j] : -infinity;
        }
      }
      if (const int own = place_of<W>(label, c); own >= 0) {
#pragma unroll
        for (int j = 0; j < W; ++j)
          if (j == own) stats[row * wide + 2] = v[j];
      }
      float top = -infinity;
#pragma unroll
      for (int j = 0; j < W; ++j) top = v[j] > top ? v[j] : top;
      p.raise(top);
      const float from = p.max > -infinity ? p.max : 0.0f;
#pragma unroll
      for (int j = 0; j < W; ++j) {
        const float d = v[j] - from, e = exp_of(d);
        p.sum += e;
        if (entropy) p.spread += e * (d < -1000 ? -1000.0f : d);  // a logit of -inf adds nothing
      }
      if (mean) {
#pragma unroll
        for (int j = 0; j < W; ++j)
          if (j < left) p.total += v[j];
      }
    }
  }
  p.raise(block_max<threads>(p.max, slots));
  p.sum = block_sum<threads>(p.sum, slots);
  if (entropy) p.spread = block_sum<threads>(p.spread, slots);
  if (mean) p.total = block_sum<threads>(p.total, slots);
  if (threadIdx.x == 0) parts[blockIdx.x] = p;
}

// A thread adds up the segments of a row.
__global__ void __launch_bounds__(threads) finish_kernel(Rows r, int64_t rows, const int32_t* labels, const Part* parts, bool mean, bool entropy, float* stats,
                                                         int64_t wide) {
  begin_overlapped();
  const int64_t row = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (row >= rows) return;
  const Part* p = parts + row * r.segments;
  float top = -infinity;
  for (int64_t s = 0; s < r.segments; ++s) top = p[s].max > top ? p[s].max : top;
  double sum = 0, spread = 0, total = 0;
  for (int64_t s = 0; s < r.segments; ++s) {
    Part q = p[s];
    q.raise(top);
    sum += static_cast<double>(q.sum), spread += static_cast<double>(q.spread), total += static_cast<double>(q.total);
  }
  const float nan = __builtin_nanf("");
  float* to = stats + row * wide;
  to[0] = top;
  to[1] = top > -infinity ? static_cast<float>(sum) : nan;
  if (labels[row] < 0 || labels[row] >= r.V) to[2] = nan;
  to[3] = mean ? static_cast<float>(total / static_cast<double>(r.V)) : 0.0f;
  if (entropy) to[4] = top > -infinity ? static_cast<float>(math::log(sum) - spread / sum) : nan;
}

template <class T, class D>
__global__ void __launch_bounds__(threads) grad_kernel(Rows r, const T* z, const int32_t* labels, const float* coef, int64_t wide, float inverse, D* dz,
                                                       int64_t dz_step) {
  constexpr int W = pack_of<T>;
  const int64_t row = blockIdx.x / r.segments, begin = blockIdx.x % r.segments * segment;
  const int64_t end = begin + segment < r.V ? begin + segment : r.V, label = labels[row];
  const float* k = coef + row * wide;
  const float highest = k[0], of_lse = k[1], of_label = k[2], of_mean = k[3];
  for (int64_t c = begin + static_cast<int64_t>(threadIdx.x) * W; c < end; c += threads * W) {
    float v[W];
    load_logits(z + row * r.step + c, r.together, end - c, v);
    const int own = place_of<W>(label, c);
    float slope[W];  // of the cap
    for (int j = 0; j < W; ++j) slope[j] = 1;
    if (inverse != 0)
      for (int j = 0; j < W; ++j) slope[j] = 1 - v[j] * inverse * (v[j] * inverse);
    for (int j = 0; j < W; ++j) v[j] = (of_lse * exp_of(v[j] - highest) + of_mean + (j == own ? of_label : 0.0f)) * slope[j];
    store_logits(dz + row * dz_step + c, r.together, end - c, v);
  }
}

// ---- draws: the weight of every stretch of columns, the stretch where the running sum crosses the target, the word in it.

constexpr int64_t stretch = 4096, per = stretch / threads;

template <class T>
__global__ void __launch_bounds__(threads) weights_kernel(Rows r, int64_t stretches, const T* z, const float* stats, int64_t wide, float* sums) {
  constexpr int W = pack_of<T>;
  FACET_SHARED(float, slots, [threads / 32]);
  const int64_t row = blockIdx.x / stretches, begin = blockIdx.x % stretches * stretch;
  const int64_t end = begin + stretch < r.V ? begin + stretch : r.V;
  const float top = stats[row * wide];
  float sum = 0;
  for (int64_t c = begin + static_cast<int64_t>(threadIdx.x) * W; c < end; c += threads * W) {
    float v[W];
    load_logits(z + row * r.step + c, r.together, end - c, v);
    const int n = end - c < W ? static_cast<int>(end - c) : W;
    for (int j = 0; j < W; ++j) sum += j < n ? exp_of(v[j] - top) : 0.0f;
  }
  sum = block_sum<threads>(sum, slots);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

template <class T>
__global__ void __launch_bounds__(threads) draw_kernel(Rows r, int64_t stretches, const T* z, const float* stats, int64_t wide, const float* u, const float* sums,
                                                       int32_t* ids) {
  FACET_SHARED(double, before, [threads + 1]);  // weight before each thread's words; then the target
  FACET_SHARED(int64_t, chosen, [1]);
  const int64_t row = blockIdx.x;
  const int thread = static_cast<int>(threadIdx.x);
  if (thread == 0) {
    double sum = 0, target = static_cast<double>(u[row]) * static_cast<double>(stats[row * wide + 1]), at = 0;
    int64_t last = 0;  // the last stretch of positive weight
    bool crossed = false;
#pragma unroll 8
    for (int64_t s = 0; s < stretches; ++s) {  // to the end: loads that wait for a comparison come one after the other, 0.2 us each
      const double after = sum + static_cast<double>(sums[row * stretches + s]);
      if (!crossed && after > sum) last = s, at = sum;
      crossed = crossed || after > target;
      sum = after;
    }
    before[0] = at;
    before[threads] = crossed ? target : static_cast<double>(infinity);  // rounding leaves nobody above it: the last one of positive weight
    chosen[0] = last;
  }
  sync_block();
  const int64_t begin = chosen[0] * stretch + thread * per;
  const double start = before[0], target = before[threads];
  const float top = stats[row * wide];
  float w[per];
  double sum = 0;
  for (int j = 0; j < per; ++j) {
    w[j] = begin + j < r.V ? exp_of(widen(z[row * r.step + begin + j]) - top) : 0.0f;
    sum += static_cast<double>(w[j]);
  }
  sync_block();
  before[thread] = sum;
  sync_block();
  if (thread == 0) {
    double running = start;
    for (int t = 0; t < threads; ++t) {
      const double own = before[t];
      before[t] = running;
      running += own;
    }
  }
  sync_block();
  // The first word whose running sum exceeds the target has the smallest id; else the last with a weight.
  int32_t first = INT32_MAX, last = -1;
  double running = before[thread];
  for (int j = 0; j < per; ++j) {
    if (!(w[j] > 0)) continue;
    running += static_cast<double>(w[j]);
    last = static_cast<int32_t>(begin + j);
    if (running > target && first == INT32_MAX) first = last;
  }
  FACET_SHARED(int32_t, best, [2]);
  if (thread == 0) best[0] = INT32_MAX, best[1] = 0;
  sync_block();
  if (first != INT32_MAX) atomic_min(&best[0], first);
  if (last >= 0) atomic_max(&best[1], last);
  sync_block();
  if (thread == 0) ids[row] = best[0] != INT32_MAX ? best[0] : best[1];
}

Rows rows_of(const View& z) {
  const int64_t V = z.shape[1], W = 16 / size_of(z.dtype);
  return {V, z.stride[0], (V + segment - 1) / segment, aligned16(z.data) && (z.stride[0] % W == 0 || z.shape[0] == 1)};
}

template <class F>
void by_logits(DType t, F&& f) {
  if (t == DType::bf16) f(bf16{});
  else f(float{});
}

}  // namespace

void logit_stats(Out z, View labels, double cap, double scale, bool mean, Out stats) {
  const int64_t C = z.shape[0];
  if (C == 0) return;
  const Rows r = rows_of(z);
  const bool entropy = stats.shape[1] > 4;
  const Scratch parts(static_cast<size_t>(C * r.segments) * sizeof(Part), "logit_stats");
  by_logits(z.dtype, [&](auto e) {
    using T = decltype(e);
    launch_for_rows(C, "logit_stats", stats_kernel<T>, blocks_for(C * r.segments, 1, INT32_MAX), threads, 0, r, z.as<T>(), labels.as<int32_t>(), cap,
           cap > 0 ? 1 / cap : scale, cap * scale, mean, entropy, parts.as<Part>(), stats.as<float>(), stats.stride[0]);
  });
  launch_for_rows(C, "logit_stats", finish_kernel, blocks_for(C, threads), threads, 0, r, C, labels.as<int32_t>(), parts.as<Part>(), mean, entropy, stats.as<float>(),
         stats.stride[0]);
}

void logit_grad(Out z, View labels, View coef, double bound, Out dz) {
  const int64_t C = z.shape[0];
  if (C == 0) return;
  if (!dz) dz = z;
  Rows r = rows_of(z);
  r.together = r.together && aligned16(dz.data) && dz.stride[0] * size_of(dz.dtype) % 16 == 0;
  const auto run = [&](auto e, auto g) {
    using T = decltype(e);
    using D = decltype(g);
    launch("logit_grad", grad_kernel<T, D>, blocks_for(C * r.segments, 1, INT32_MAX), threads, 0, r, z.as<T>(), labels.as<int32_t>(), coef.as<float>(),
           coef.stride[0], bound > 0 ? 1 / bound : 0.0, dz.as<D>(), dz.stride[0]);
  };
  if (z.dtype == DType::bf16) run(bf16{}, bf16{});
  else if (dz.dtype == DType::bf16) run(float{}, bf16{});
  else run(float{}, float{});
}

void logit_draw(View z, View stats, View u, Out ids) {
  const int64_t C = z.shape[0];
  if (C == 0) return;
  const Rows r = rows_of(z);
  const int64_t stretches = (r.V + stretch - 1) / stretch;
  const Scratch sums(static_cast<size_t>(C * stretches) * sizeof(float), "logit_draw");
  by_logits(z.dtype, [&](auto e) {
    using T = decltype(e);
    launch("logit_draw", weights_kernel<T>, blocks_for(C * stretches, 1, INT32_MAX), threads, 0, r, stretches, z.as<T>(), stats.as<float>(), stats.stride[0],
           sums.as<float>());
    launch("logit_draw", draw_kernel<T>, blocks_for(C, 1, INT32_MAX), threads, 0, r, stretches, z.as<T>(), stats.as<float>(), stats.stride[0], u.as<float>(),
           sums.as<float>(), ids.as<int32_t>());
  });
}

}  // namespace facet::gpu

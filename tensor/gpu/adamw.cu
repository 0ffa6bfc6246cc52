// adamw, sum_of_squares. Bound by memory: adamw moves 28 bytes a parameter in f32, 30 with a bf16 value beside its master, 22 without a
// master, 8 less with bf16 moments. A thread has four elements: three or four loads of 16 bytes under way. Predicted 88% of copy rate.
#include "tensor/kernels/adamw.h"

#include "tensor/gpu/rows.h"
#include "tensor/gpu/step_constants.h"

namespace facet::gpu {
namespace {

constexpr int threads = 256;

// For elements 4 block ... 4 block + 3: four 16-bit halves of one draw, at a counter that begins with `draws`.
__device__ inline void chances(const AdamwConstants<float>& c, int64_t block, uint32_t draws, uint32_t (&r)[4]) {
  uint32_t a = static_cast<uint32_t>(static_cast<uint64_t>(block) >> 32) | draws, b = static_cast<uint32_t>(block);
  threefry_rounds<1>(c.key_hi, c.key_lo, &a, &b);
  r[0] = a & 0xffffu, r[1] = a >> 16, r[2] = b & 0xffffu, r[3] = b >> 16;
}
__device__ inline bf16 rounded(float w, uint32_t r) {
  const auto u = __builtin_bit_cast(uint32_t, w);
  if ((u & 0x7f800000u) == 0x7f800000u) return narrow<bf16>(w);
  return bf16{static_cast<uint16_t>((u + r) >> 16)};
}

// Rounds N values from element i on by chance.
template <int N>
__device__ inline Pack<bf16, N> rounded(const AdamwConstants<float>& c, const Pack<float, N>& w, int64_t i, uint32_t draws) {
  uint32_t r[4];
  chances(c, i / 4, draws, r);
  Pack<bf16, N> p;
#pragma unroll
  for (int j = 0; j < N; ++j) p[j] = rounded(w[j], N == 4 ? r[j] : r[i & 3]);
  return p;
}
template <int N>
__device__ inline Pack<float, N> widened(const Pack<bf16, N>& p) {
  Pack<float, N> w;
#pragma unroll
  for (int j = 0; j < N; ++j) w[j] = widen(p[j]);
  return w;
}

template <class P, class M>
struct Update {
  P* p;
  float* master;  // null: p is what is updated
  const float* g;
  M *m, *v;
  int64_t n;
  StepConstants<AdamwConstants<float>> step;
};

template <class P, class M, int N>
__global__ void __launch_bounds__(threads) update(Update<P, M> a) {
  const AdamwConstants<float> c = a.step.get();
  if (c.skip) return;
  for (int64_t i = (static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x) * N; i < a.n; i += static_cast<int64_t>(gridDim.x) * threads * N) {
    const Pack<float, N> g = load_pack<float, N>(a.g + i);
    Pack<float, N> m, v, w;
    if constexpr (sizeof(M) == 2) m = widened(load_pack<M, N>(a.m + i)), v = widened(load_pack<M, N>(a.v + i));
    else m = load_pack<M, N>(a.m + i), v = load_pack<M, N>(a.v + i);
    Pack<P, N> p;
    if constexpr (sizeof(P) == 2) w = a.master ? load_pack<float, N>(a.master + i) : widened(load_pack<P, N>(a.p + i));
    else w = load_pack<P, N>(a.p + i);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const float d = g[j] * c.grad_scale;
      m[j] = m[j] * c.beta1 + d * c.one_minus_beta1;
      v[j] = v[j] * c.beta2 + d * d * c.one_minus_beta2;
      w[j] = w[j] - (c.rate * m[j] / (__builtin_sqrtf(v[j] * c.unbias + c.eps_root) + c.eps) + c.decay * w[j]);
      p[j] = narrow<P>(w[j]);
    }
    if constexpr (sizeof(M) == 2) {
      store_pack(a.m + i, rounded(c, m, i, adamw_draws_of_m));
      store_pack(a.v + i, rounded(c, v, i, adamw_draws_of_v));
    } else {
      store_pack(a.m + i, m);
      store_pack(a.v + i, v);
    }
    if constexpr (sizeof(P) == 2) {
      if (a.master) store_pack(a.master + i, w);
      if (c.stochastic) p = rounded(c, w, i, 0);
    }
    store_pack(a.p + i, p);
  }
}

template <class P, class M>
void run(const Out& p, const Out& master, const View& g, const Out& m, const Out& v, const StepConstants<AdamwConstants<float>>& step) {
  const Update<P, M> a{p.as<P>(), sizeof(P) == 2 ? master.as<float>() : nullptr, g.as<float>(), m.as<M>(), v.as<M>(), p.numel(), step};
  const bool fit = packable<P, 4>(p, a.n) && packable<float, 4>(master, a.n) && packable<float, 4>(g, a.n) && packable<M, 4>(m, a.n) && packable<M, 4>(v, a.n);
  if (fit) launch("adamw", update<P, M, 4>, blocks_for(a.n, threads * 4), threads, 0, a);
  else launch("adamw", update<P, M, 1>, blocks_for(a.n, threads), threads, 0, a);
}

// ---- norms

// A block a block of squares: 32 packs of four for each thread.
template <class T, int N>
__global__ void __launch_bounds__(threads) square_blocks(const T* x, int64_t n, double* sums) {
  FACET_SHARED(double, slots, [threads / 32]);
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * squares_block;
  const int64_t count = n - begin < squares_block ? n - begin : squares_block;
  Acc<T> part[N] = {};
#pragma unroll 8
  for (int64_t i = static_cast<int64_t>(threadIdx.x) * N; i < count; i += threads * N) {
    const Pack<T, N> v = load_pack<T, N>(x + begin + i);
#pragma unroll
    for (int j = 0; j < N; ++j) part[j] += v[j] * v[j];
  }
  double sum = 0;
#pragma unroll
  for (int j = 0; j < N; ++j) sum += static_cast<double>(part[j]);
  sum = block_sum<threads>(sum, slots);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

template <class T>
void squares(const View& x, const Out& sums) {
  constexpr int N = pack_of<T>;
  const int64_t n = x.numel();
  if (packable<T, N>(x, n)) launch("sum_of_squares", square_blocks<T, N>, blocks_for(n, squares_block, INT32_MAX), threads, 0, x.as<T>(), n, sums.as<double>());
  else launch("sum_of_squares", square_blocks<T, 1>, blocks_for(n, squares_block, INT32_MAX), threads, 0, x.as<T>(), n, sums.as<double>());
}

}  // namespace

void adamw(Out p, Out master, View g, Out m, Out v, const AdamwStep& s, const AdamwConstants<float>* uploaded) {
  const StepConstants<AdamwConstants<float>> step{constants_of<float>(s), uploaded};
  const bool narrow = m.dtype == DType::bf16;
  if (p.dtype == DType::bf16) (narrow ? run<bf16, bf16> : run<bf16, float>)(p, master, g, m, v, step);
  else (narrow ? run<float, bf16> : run<float, float>)(p, master, g, m, v, step);
}
void sum_of_squares(View x, Out sums) {
  if (x.dtype == DType::f64) squares<double>(x, sums);
  else squares<float>(x, sums);
}

}  // namespace facet::gpu

// lion. Bound by memory: 20 bytes a parameter in f32, 22 with a bf16 value beside its master; predicted 88% of copy rate.
#include "tensor/kernels/lion.h"

#include "tensor/gpu/rows.h"
#include "tensor/gpu/step_constants.h"

namespace facet::gpu {
namespace {

constexpr int threads = 256;

template <class P>
struct Update {
  P* p;
  float* master;  // null: p is what is updated
  const float* g;
  float* m;
  int64_t n;
  StepConstants<LionConstants<float>> step;
};

template <class P, int N>
__global__ void __launch_bounds__(threads) update(Update<P> a) {
  const LionConstants<float> c = a.step.get();
  if (c.skip) return;
  for (int64_t i = (static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x) * N; i < a.n; i += static_cast<int64_t>(gridDim.x) * threads * N) {
    const Pack<float, N> g = load_pack<float, N>(a.g + i);
    Pack<float, N> m = load_pack<float, N>(a.m + i), w;
    Pack<P, N> p;
    if (a.master) {
      w = load_pack<float, N>(a.master + i);
    } else {
      p = load_pack<P, N>(a.p + i);
#pragma unroll
      for (int j = 0; j < N; ++j) w[j] = widen(p[j]);
    }
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const float d = g[j] * c.grad_scale, mix = m[j] * c.beta1 + d * c.one_minus_beta1;
      m[j] = m[j] * c.beta2 + d * c.one_minus_beta2;
      const float sign = mix > 0 ? 1 : mix < 0 ? -1 : mix;  // 0 and NaN stay what they are
      w[j] = w[j] - c.lr * (sign + c.weight_decay * w[j]);
      p[j] = narrow<P>(w[j]);
    }
    store_pack(a.m + i, m);
    if (a.master) store_pack(a.master + i, w);
    store_pack(a.p + i, p);
  }
}

template <class P>
void run(const Out& p, const Out& master, const View& g, const Out& m, const StepConstants<LionConstants<float>>& step) {
  const Update<P> a{p.as<P>(), sizeof(P) == 2 ? master.as<float>() : nullptr, g.as<float>(), m.as<float>(), p.numel(), step};
  const auto fits = [&](const View& x) { return packable<float, 4>(x, a.n); };
  if (packable<P, 4>(p, a.n) && fits(master) && fits(g) && fits(m)) launch("lion", update<P, 4>, blocks_for(a.n, threads * 4), threads, 0, a);
  else launch("lion", update<P, 1>, blocks_for(a.n, threads), threads, 0, a);
}

}  // namespace

void lion(Out p, Out master, View g, Out m, const LionStep& s, const LionConstants<float>* uploaded) {
  const StepConstants<LionConstants<float>> step{constants_of<float>(s), uploaded};
  if (p.dtype == DType::bf16) run<bf16>(p, master, g, m, step);
  else run<float>(p, master, g, m, step);
}

}  // namespace facet::gpu

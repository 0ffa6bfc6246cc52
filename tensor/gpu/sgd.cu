// sgd. Bound by memory: 20 bytes a parameter with a trace, 12 without; predicted 88% of copy rate.
#include "tensor/kernels/sgd.h"

#include "tensor/gpu/rows.h"
#include "tensor/gpu/step_constants.h"

namespace facet::gpu {
namespace {

constexpr int threads = 256;

struct Update {
  float* p;
  const float* g;
  float* trace;  // null: no momentum
  int64_t n;
  StepConstants<SgdConstants<float>> step;
};

template <int N>
__global__ void __launch_bounds__(threads) update(Update a) {
  const SgdConstants<float> c = a.step.get();
  if (c.skip) return;
  for (int64_t i = (static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x) * N; i < a.n; i += static_cast<int64_t>(gridDim.x) * threads * N) {
    const Pack<float, N> g = load_pack<float, N>(a.g + i);
    Pack<float, N> p = load_pack<float, N>(a.p + i), trace = a.trace ? load_pack<float, N>(a.trace + i) : zero_pack<float, N>();
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const float d = g[j] * c.grad_scale;
      trace[j] = trace[j] * c.momentum + d;
      p[j] -= c.lr * (a.trace && c.nesterov ? d + c.momentum * trace[j] : a.trace ? trace[j] : d);
    }
    if (a.trace) store_pack(a.trace + i, trace);
    store_pack(a.p + i, p);
  }
}

}  // namespace

void sgd(Out p, View g, Out trace, const SgdStep& s, const SgdConstants<float>* uploaded) {
  const Update a{p.as<float>(), g.as<float>(), trace.as<float>(), p.numel(), {constants_of<float>(s), uploaded}};
  const auto fits = [&](const View& x) { return packable<float, 4>(x, a.n); };
  if (fits(p) && fits(g) && fits(trace)) launch("sgd", update<4>, blocks_for(a.n, threads * 4), threads, 0, a);
  else launch("sgd", update<1>, blocks_for(a.n, threads), threads, 0, a);
}

}  // namespace facet::gpu

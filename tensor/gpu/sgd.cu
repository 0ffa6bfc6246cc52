// sgd. Bound by memory: 20 bytes a parameter with a trace, 12 without; predicted 88% of copy rate.
#include "tensor/kernels/sgd.h"

#include "tensor/gpu/rows.h"

namespace facet::gpu {
namespace {

constexpr int threads = 256;

struct Update {
  float* p;
  const float* g;
  float* trace;  // null: no momentum
  int64_t n;
  float lr, momentum, grad_scale;
  bool nesterov;
};

template <int N>
__global__ void __launch_bounds__(threads) update(Update a) {
  for (int64_t i = (static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x) * N; i < a.n; i += static_cast<int64_t>(gridDim.x) * threads * N) {
    const Pack<float, N> g = load_pack<float, N>(a.g + i);
    Pack<float, N> p = load_pack<float, N>(a.p + i), trace = a.trace ? load_pack<float, N>(a.trace + i) : zero_pack<float, N>();
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const float d = g[j] * a.grad_scale;
      trace[j] = trace[j] * a.momentum + d;
      p[j] -= a.lr * (a.trace && a.nesterov ? d + a.momentum * trace[j] : a.trace ? trace[j] : d);
    }
    if (a.trace) store_pack(a.trace + i, trace);
    store_pack(a.p + i, p);
  }
}

}  // namespace

void sgd(Out p, View g, Out trace, const SgdStep& s) {
  const Update a{p.as<float>(),           g.as<float>(),  trace.as<float>(), p.numel(), static_cast<float>(s.lr), static_cast<float>(s.momentum),
                 static_cast<float>(s.grad_scale), s.nesterov};
  const auto fits = [&](const View& x) { return packable<float, 4>(x, a.n); };
  if (fits(p) && fits(g) && fits(trace)) launch("sgd", update<4>, blocks_for(a.n, threads * 4), threads, 0, a);
  else launch("sgd", update<1>, blocks_for(a.n, threads), threads, 0, a);
}

}  // namespace facet::gpu

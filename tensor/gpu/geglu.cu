// geglu. Bound by memory: bf16 6 bytes an element forward, 10 backward. A thread has one pack of every operand: two or three loads of 16
// bytes under way, at 44 registers 40 KB and more for a multiprocessor. Predicted 90% of copy rate in bf16; in f32 the polynomial
// takes half of the arithmetic there is.
#include "tensor/kernels/geglu.h"

#include "tensor/gpu/fast_math.h"
#include "tensor/gpu/rows.h"

namespace facet::gpu {
namespace {

constexpr int threads = 256;

// Where pack number i of a window lies. Dense windows need no division.
template <int N>
__device__ inline int64_t place(const Rows& rows, bool dense, int64_t i) {
  if (dense) return i * N;
  const int64_t packs = rows.d / N;
  return rows.at(i / packs) + i % packs * N;
}

template <class T, int N>
__global__ void __launch_bounds__(threads)
geglu_packs(Rows gate_rows, Rows up_rows, bool dense, int64_t packs, const T* gate, const T* up, T* y, bool accumulate) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; i < packs; i += static_cast<int64_t>(gridDim.x) * threads) {
    const Pack<T, N> g = load_pack<T, N>(gate + place<N>(gate_rows, dense, i));
    const Pack<T, N> u = load_pack<T, N>(up + place<N>(up_rows, dense, i));
    float f[N];
#pragma unroll
    for (int j = 0; j < N; ++j) f[j] = gelu_tanh_for<T>(widen(g[j])) * widen(u[j]);
    put_pack(y + i * N, f, accumulate);
  }
}

template <class T>
struct Back {
  Rows dy_rows, gate_rows, up_rows;
  bool dense;
  int64_t packs;
  const T *dy, *gate, *up;
  T *dgate, *dup;  // null: skipped
  bool add_dgate, add_dup;
};

template <class T, int N>
__global__ void __launch_bounds__(threads) geglu_back_packs(Back<T> a) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; i < a.packs; i += static_cast<int64_t>(gridDim.x) * threads) {
    const Pack<T, N> d = load_pack<T, N>(a.dy + place<N>(a.dy_rows, a.dense, i));
    const Pack<T, N> g = load_pack<T, N>(a.gate + place<N>(a.gate_rows, a.dense, i));
    const Pack<T, N> u = a.dgate ? load_pack<T, N>(a.up + place<N>(a.up_rows, a.dense, i)) : zero_pack<T, N>();
    float dg[N], du[N];
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const math::Pair<float> gelu = gelu_tanh_pair_for<T>(widen(g[j]));
      dg[j] = widen(d[j]) * widen(u[j]) * gelu.slope;
      du[j] = widen(d[j]) * gelu.value;
    }
    if (a.dgate) put_pack(a.dgate + i * N, dg, a.add_dgate);
    if (a.dup) put_pack(a.dup + i * N, du, a.add_dup);
  }
}

template <class T>
void forward(const View& gate, const View& up, const Out& y) {
  const Rows g(gate), u(up);
  const bool dense = g.dense() && u.dense();
  const auto run = [&](auto kernel, int64_t packs) {
    launch("geglu", kernel, blocks_for(packs, threads), threads, 0, g, u, dense, packs, gate.as<T>(), up.as<T>(), y.as<T>(), y.accumulate);
  };
  constexpr int N = pack_of<T>;
  if (packable<T>(g, gate.data) && packable<T>(u, up.data) && packable<T>(y, g.d)) run(geglu_packs<T, N>, g.n * g.d / N);
  else run(geglu_packs<T, 1>, g.n * g.d);
}

template <class T>
void backward(const View& dy, const View& gate, const View& up, const Out& dgate, const Out& dup) {
  const Rows d(dy), g(gate), u(up);
  const auto run = [&](auto kernel, int64_t packs) {
    launch("geglu_backward", kernel, blocks_for(packs, threads), threads, 0,
           Back<T>{d, g, u, d.dense() && g.dense() && u.dense(), packs, dy.as<T>(), gate.as<T>(), up.as<T>(), dgate.as<T>(), dup.as<T>(),
                   dgate.accumulate, dup.accumulate});
  };
  constexpr int N = pack_of<T>;
  if (packable<T>(d, dy.data) && packable<T>(g, gate.data) && packable<T>(u, up.data) && packable<T>(dgate, g.d) && packable<T>(dup, g.d))
    run(geglu_back_packs<T, N>, g.n * g.d / N);
  else run(geglu_back_packs<T, 1>, g.n * g.d);
}

}  // namespace

void geglu(View gate, View up, Out y) {
  if (y.dtype == DType::bf16) forward<bf16>(gate, up, y);
  else forward<float>(gate, up, y);
}
void geglu_backward(View dy, View gate, View up, Out dgate, Out dup) {
  if (dy.dtype == DType::bf16) backward<bf16>(dy, gate, up, dgate, dup);
  else backward<float>(dy, gate, up, dgate, dup);
}

}  // namespace facet::gpu

// geglu. Bound by memory: bf16 6 bytes an element forward, 10 backward. A thread has one pack of every operand: two or three loads of 16
// bytes under way, at 40 registers 70 KB for a multiprocessor. Predicted 90% of copy rate in bf16; in f32 the polynomial
// takes half of the arithmetic there is.
#include "tensor/kernels/geglu.h"

#include "tensor/gpu/fast_math.h"
#include "tensor/gpu/rows.h"

namespace facet::gpu {
namespace {

constexpr int threads = 256;

// Where pack number i lies in windows of one shape. Dense ones are a single row and need no division; of others the division is one for all of
// them, of 32 bits wherever that does.
struct Place {
  int64_t row, column;
  __device__ inline int64_t in(const Rows& rows) const { return rows.at(row) + column; }
};
template <int N>
__device__ inline Place place(int64_t i, int64_t d, bool dense) {
  if (dense) return {0, i * N};
  const int64_t packs = d / N;
  const int64_t row = i >> 32 ? i / packs : static_cast<uint32_t>(i) / static_cast<uint32_t>(packs);
  return {row, (i - row * packs) * N};
}

template <class T, int N>
__global__ void __launch_bounds__(threads)
geglu_packs(Rows gate_rows, Rows up_rows, Rows y_rows, bool dense, int64_t packs, const T* gate, const T* up, T* y, bool accumulate) {
  begin_overlapped();
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; i < packs; i += static_cast<int64_t>(gridDim.x) * threads) {
    const Place at = place<N>(i, gate_rows.d, dense);
    const Pack<T, N> g = load_pack<T, N>(gate + at.in(gate_rows));
    const Pack<T, N> u = load_pack<T, N>(up + at.in(up_rows));
    float f[N];
#pragma unroll
    for (int j = 0; j < N; ++j) f[j] = gelu_tanh_for<T>(widen(g[j])) * widen(u[j]);
    put_pack(y + at.in(y_rows), f, accumulate);
  }
}

template <class T>
struct Back {
  Rows dy_rows, gate_rows, up_rows, dgate_rows, dup_rows;
  bool dense;  // all of them
  int64_t packs;
  const T *dy, *gate, *up;
  T *dgate, *dup;  // null: skipped
  bool add_dgate, add_dup;
};

template <class T, int N>
__global__ void __launch_bounds__(threads) geglu_back_packs(Back<T> a) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; i < a.packs; i += static_cast<int64_t>(gridDim.x) * threads) {
    const Place at = place<N>(i, a.gate_rows.d, a.dense);
    const Pack<T, N> d = load_pack<T, N>(a.dy + at.in(a.dy_rows));
    const Pack<T, N> g = load_pack<T, N>(a.gate + at.in(a.gate_rows));
    const Pack<T, N> u = a.dgate ? load_pack<T, N>(a.up + at.in(a.up_rows)) : zero_pack<T, N>();
    float dg[N], du[N];
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const math::Pair<float> gelu = gelu_tanh_pair_for<T>(widen(g[j]));
      dg[j] = widen(d[j]) * widen(u[j]) * gelu.slope;
      du[j] = widen(d[j]) * gelu.value;
    }
    if (a.dgate) put_pack(a.dgate + at.in(a.dgate_rows), dg, a.add_dgate);
    if (a.dup) put_pack(a.dup + at.in(a.dup_rows), du, a.add_dup);
  }
}

template <class T>
void forward(const View& gate, const View& up, const Out& y) {
  const Rows g(gate), u(up), to(y);
  const bool dense = g.dense() && u.dense() && to.dense();
  const auto run = [&](auto kernel, int64_t packs) {
    launch_for_rows(g.n, "geglu", kernel, blocks_for(packs, threads), threads, 0, g, u, to, dense, packs, gate.as<T>(), up.as<T>(), y.as<T>(), y.accumulate);
  };
  constexpr int N = pack_of<T>;
  if (packable<T>(g, gate.data) && packable<T>(u, up.data) && packable<T>(to, y.data)) run(geglu_packs<T, N>, g.n * g.d / N);
  else run(geglu_packs<T, 1>, g.n * g.d);
}

template <class T>
void backward(const View& dy, const View& gate, const View& up, const Out& dgate, const Out& dup) {
  const View windows[] = {dy, gate, up, dgate ? dgate : gate, dup ? dup : gate};  // an absent one is in nobody's way
  bool dense = true, packs = true;
  for (const View& v : windows) {
    const Rows rows(v);
    dense = dense && rows.dense(), packs = packs && packable<T>(rows, v.data);
  }
  const Back<T> a{Rows(windows[0]), Rows(windows[1]), Rows(windows[2]), Rows(windows[3]), Rows(windows[4]), dense, gate.numel() / (packs ? pack_of<T> : 1),
                  dy.as<T>(), gate.as<T>(), up.as<T>(), dgate.as<T>(), dup.as<T>(), dgate.accumulate, dup.accumulate};
  launch("geglu_backward", packs ? geglu_back_packs<T, pack_of<T>> : geglu_back_packs<T, 1>, blocks_for(a.packs, threads), threads, 0, a);
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

// norm_rope. Bound by memory: bf16 4 bytes an element forward, 6 backward, and Dh f32 of the table for each token, which come from L2
// (the table of 2,048 positions has 2 MB) and serve all heads of the token. A head lies across Dh / 2 / pack lanes: each holds a pack of
// the first half and its partner of the second, so a turn needs no exchange, and a warp holds two heads of 256 in bf16. Predicted 80% of
// copy rate.
#include "tensor/kernels/norm_rope.h"

#include "tensor/gpu/pool.h"
#include "tensor/gpu/turn_heads.h"

namespace facet::gpu {
namespace {

template <class T>
struct Turn {
  Heads heads, y_heads;
  int lanes;  // of a head
  const T* x;
  Weights w;
  float eps, sign;  // sign -1: the opposite angle
  const int32_t* positions;
  RopeRows table;
  T* y;
  bool accumulate;
  float* rstd;  // null: skipped
};

template <class T, bool norm>
__global__ void __launch_bounds__(row_threads) turn_heads(Turn<T> a) {
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * row_threads + threadIdx.x, r = thread / a.lanes;
  const int lane = static_cast<int>(threadIdx.x) & (a.lanes - 1);
  const bool valid = r < a.heads.n;
  HeadLane<T> head(a.x + (valid ? a.heads.at(r) : 0), lane, a.heads.half, valid);
  if (valid) head.load_angles(table_row(a.table, a.positions[r / a.heads.h]));
  if constexpr (norm) {
    const float root = inverse_root(lanes_sum(head.squares(), a.lanes), a.heads.d, a.eps);
    if (a.rstd && lane == 0 && valid) a.rstd[r] = root;
    head.scale(root, a.w);
  }
  if (valid) head.turn_into(a.y + a.y_heads.at(r), a.sign, a.accumulate);
}

// Heads that do not fit packs: a warp a head, one pair at a time.
template <class T, bool norm>
__global__ void __launch_bounds__(row_threads) turn_heads_any(Turn<T> a) {
  const int64_t r = static_cast<int64_t>(blockIdx.x) * (row_threads / 32) + warp_id();
  if (r >= a.heads.n) return;
  const float root = turn_by_warp<norm>(a.x + a.heads.at(r), a.w, a.eps, table_row(a.table, a.positions[r / a.heads.h]), a.sign, a.heads.d,
                                        a.y + a.y_heads.at(r), a.accumulate);
  if (norm && a.rstd && lane_id() == 0) a.rstd[r] = root;
}

template <class T, bool norm>
void turn(const char* op, const View& x, const View& w, double eps, float sign, const View& positions, const RopeRows& table, const Out& y,
          const Out& rstd) {
  const Heads heads(x), y_heads(y);
  const int lanes = aligned16(x.data) && aligned16(y.data) && lanes_of<T>(y_heads) ? lanes_of<T>(heads) : 0;
  const Turn<T> a{heads, y_heads, lanes,        x.as<T>(),        Weights(w), static_cast<float>(eps), sign, positions.as<int32_t>(),
                  table, y.as<T>(), y.accumulate, rstd.as<float>()};
  if (lanes) launch(op, turn_heads<T, norm>, blocks_for(heads.n * lanes, row_threads, INT32_MAX), row_threads, 0, a);
  else launch(op, turn_heads_any<T, norm>, blocks_for(heads.n, row_threads / 32, INT32_MAX), row_threads, 0, a);
}

// ---- backward with a norm (without one it is the opposite turn)

template <class T>
struct Back {
  Heads heads, dy_heads, dx_heads;
  RowBlocks blocks;
  int lanes;
  const T *dy, *x;
  Weights w;
  const float* rstd;
  const int32_t* positions;
  RopeRows table;
  T* dx;           // null: skipped
  bool accumulate;
  float* partial;  // [blocks][Dh]; null: no dw
  FACET_INLINE int64_t begin(int64_t b) const { return b * blocks.chunk; }
  FACET_INLINE int64_t end(int64_t b) const { return (b + 1) * blocks.chunk < heads.n ? (b + 1) * blocks.chunk : heads.n; }
};

template <class T>
__global__ void __launch_bounds__(row_threads) turn_heads_back(Back<T> a) {
  constexpr int N = pack_of<T>;
  FACET_SHARED(float, total, [512]);  // Dh: two halves of 32 packs of 8 at most
  const int lane = static_cast<int>(threadIdx.x) & (a.lanes - 1), group = static_cast<int>(threadIdx.x) / a.lanes, groups = row_threads / a.lanes;
  const int64_t i = static_cast<int64_t>(lane) * N, j = i + a.heads.half, d = a.heads.d, end = a.end(blockIdx.x);
  float scale_u[N], scale_v[N], sum_u[N] = {}, sum_v[N] = {};
  a.w.load(i, scale_u);
  a.w.load(j, scale_v);
  for (int64_t tile = a.begin(blockIdx.x); tile < end; tile += groups) {
    const int64_t r = tile + group;
    const bool valid = r < end;
    float u[N] = {}, v[N] = {}, dot = 0, root = 0;  // dn, then g
    Pack<T, N> xu = zero_pack<T, N>(), xv = zero_pack<T, N>();
    if (valid) {
      const T* const x = a.x + a.heads.at(r);
      const T* const dy = a.dy + a.dy_heads.at(r);
      xu = load_pack<T, N>(x + i), xv = load_pack<T, N>(x + j);
      const Pack<T, N> du = load_pack<T, N>(dy + i), dv = load_pack<T, N>(dy + j);
      const float* const row = table_row(a.table, a.positions[r / a.heads.h]);
      root = a.rstd[r];
      float cosine[N], sine[N];
      load_angles(row, i, cosine);
      load_angles(row, j, sine);
#pragma unroll
      for (int k = 0; k < N; ++k) {
        u[k] = widen(du[k]) * cosine[k] + widen(dv[k]) * sine[k];
        v[k] = widen(dv[k]) * cosine[k] - widen(du[k]) * sine[k];
        sum_u[k] += u[k] * (widen(xu[k]) * root);
        sum_v[k] += v[k] * (widen(xv[k]) * root);
        u[k] *= 1 + scale_u[k], v[k] *= 1 + scale_v[k];
        dot += u[k] * widen(xu[k]) + v[k] * widen(xv[k]);
      }
    }
    if (!a.dx) continue;
    const float mean = lanes_sum(dot, a.lanes) / static_cast<float>(d) * root * root;
    if (!valid) continue;
#pragma unroll
    for (int k = 0; k < N; ++k) u[k] = (u[k] - widen(xu[k]) * mean) * root, v[k] = (v[k] - widen(xv[k]) * mean) * root;
    T* const dx = a.dx + a.dx_heads.at(r);
    put_pack(dx + i, u, a.accumulate);
    put_pack(dx + j, v, a.accumulate);
  }
  if (!a.partial) return;
  // Over the groups of a warp by shuffles, then over the warps in order.
#pragma unroll
  for (int k = 0; k < N; ++k)
    for (int m = a.lanes; m < 32; m *= 2) sum_u[k] += shfl_xor(sum_u[k], m), sum_v[k] += shfl_xor(sum_v[k], m);
  for (int warp = 0; warp < row_threads / 32; ++warp) {
    if (warp == warp_id() && lane_id() < a.lanes) {
#pragma unroll
      for (int k = 0; k < N; ++k) {
        total[i + k] = warp == 0 ? sum_u[k] : total[i + k] + sum_u[k];
        total[j + k] = warp == 0 ? sum_v[k] : total[j + k] + sum_v[k];
      }
    }
    sync_block();
  }
  for (int64_t c = threadIdx.x; c < d; c += row_threads) a.partial[int64_t{blockIdx.x} * d + c] = total[c];
}

// A warp a block; its threads add up their own columns.
template <class T>
__global__ void __launch_bounds__(32) turn_heads_back_any(Back<T> a) {
  const int64_t half = a.heads.half, begin = a.begin(blockIdx.x), end = a.end(blockIdx.x);
  float* const sums = a.partial ? a.partial + int64_t{blockIdx.x} * a.heads.d : nullptr;
  for (int64_t r = begin; r < end; ++r) {
    const T* const x = a.x + a.heads.at(r);
    const T* const dy = a.dy + a.dy_heads.at(r);
    const float* const row = table_row(a.table, a.positions[r / a.heads.h]);
    const float root = a.rstd[r];
    const auto dn = [&](int64_t i, float& u, float& v) {
      const float c = row ? row[i] : __builtin_nanf(""), s = row ? row[half + i] : __builtin_nanf("");
      u = widen(dy[i]) * c + widen(dy[half + i]) * s;
      v = widen(dy[half + i]) * c - widen(dy[i]) * s;
    };
    float dot = 0;
    for (int64_t i = threadIdx.x; i < half; i += 32) {
      float u, v;
      dn(i, u, v);
      const float xu = widen(x[i]), xv = widen(x[half + i]);
      if (sums) {
        sums[i] = (r == begin ? 0 : sums[i]) + u * (xu * root);
        sums[half + i] = (r == begin ? 0 : sums[half + i]) + v * (xv * root);
      }
      dot += u * (1 + a.w.at(i)) * xu + v * (1 + a.w.at(half + i)) * xv;
    }
    if (!a.dx) continue;
    const float mean = warp_sum(dot) / static_cast<float>(a.heads.d) * root * root;
    T* const dx = a.dx + a.dx_heads.at(r);
    for (int64_t i = threadIdx.x; i < half; i += 32) {
      float u, v;
      dn(i, u, v);
      put(dx + i, (u * (1 + a.w.at(i)) - widen(x[i]) * mean) * root, a.accumulate);
      put(dx + half + i, (v * (1 + a.w.at(half + i)) - widen(x[half + i]) * mean) * root, a.accumulate);
    }
  }
}

template <class T>
void backward(const View& dy, const View& x, const View& w, const View& rstd, const View& positions, const RopeRows& table, const Out& dx,
              const Out& dw) {
  const Heads heads(x), dy_heads(dy), dx_heads = dx ? Heads(dx) : heads;
  const bool packs = aligned16(x.data) && aligned16(dy.data) && aligned16(dx.data) && lanes_of<T>(dy_heads) && lanes_of<T>(dx_heads);
  const int lanes = packs ? lanes_of<T>(heads) : 0;
  const int threads = lanes ? row_threads : 32, groups = lanes ? row_threads / lanes : 1;
  const RowBlocks blocks(heads.n, groups, threads);
  const Scratch scratch(dw ? static_cast<size_t>(blocks.count * heads.d) * sizeof(float) : 0);
  const Back<T> a{heads,      dy_heads,         dx_heads,                blocks, lanes,      dy.as<T>(),    x.as<T>(),
                  Weights(w), rstd.as<float>(), positions.as<int32_t>(), table,  dx.as<T>(), dx.accumulate, dw ? scratch.as<float>() : nullptr};
  launch("norm_rope_backward", lanes ? turn_heads_back<T> : turn_heads_back_any<T>, static_cast<unsigned>(blocks.count), threads, 0, a);
  if (dw) add_partials("norm_rope_backward", a.partial, blocks.count, heads.d, heads.d, dw);
}

template <class T>
void forward(const View& x, const View& w, double eps, const View& positions, const RopeRows& table, const Out& y, const Out& rstd) {
  if (w) turn<T, true>("norm_rope", x, w, eps, 1, positions, table, y, rstd);
  else turn<T, false>("norm_rope", x, w, eps, 1, positions, table, y, {});
}

}  // namespace

void norm_rope(View x, View w, double eps, View positions, RopeRows table, Out y, Out rstd) {
  if (x.dtype == DType::bf16) forward<bf16>(x, w, eps, positions, table, y, rstd);
  else forward<float>(x, w, eps, positions, table, y, rstd);
}
void norm_rope_backward(View dy, View x, View w, View rstd, View positions, RopeRows table, Out dx, Out dw) {
  const bool narrow = dy.dtype == DType::bf16;
  if (w && narrow) backward<bf16>(dy, x, w, rstd, positions, table, dx, dw);
  else if (w) backward<float>(dy, x, w, rstd, positions, table, dx, dw);
  else if (narrow) turn<bf16, false>("norm_rope_backward", dy, {}, 0, -1, positions, table, dx, {});
  else turn<float, false>("norm_rope_backward", dy, {}, 0, -1, positions, table, dx, {});
}

}  // namespace facet::gpu

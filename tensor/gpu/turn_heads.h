// What kernels that turn heads share: where heads lie, how a head lies across lanes, and the norm and the turn themselves, so that every
// kernel gives a head the same bits.
//
// A head lies across Dh / 2 / pack lanes: each holds a pack of the first half and its partner of the second, so a turn needs no exchange.
#pragma once
#include "tensor/gpu/rows.h"
#include "tensor/rope_rows.h"

namespace facet::gpu {

/// Heads of all tokens, one after the other, of a window [B, T, H, Dh].
struct Heads {
  int64_t n, t, h, d, half;
  int64_t step_b, step_t, step_h;
  bool one_run;  ///< tokens of all sequences lie at equal distances: a division less
  /// The stride of a dimension of 1 says nothing, and must not decide whether packs fit: how many rows there are would decide their bits.
  explicit Heads(const View& x) : n(x.shape.rows()), t(x.shape[1]), h(x.shape[2]), d(x.shape[3]), half(d / 2) {
    step_t = t > 1 ? x.stride[1] : x.shape[0] > 1 ? x.stride[0] : 0;
    step_b = x.shape[0] > 1 ? x.stride[0] : t * step_t;
    step_h = h > 1 ? x.stride[2] : 0;
    one_run = step_b == t * step_t;
  }
  __device__ inline int64_t at(int64_t r) const {
    const int64_t token = r / h, head = r % h * step_h;
    return one_run ? token * step_t + head : token / t * step_b + token % t * step_t + head;
  }
};

/// How many lanes a head takes, 0 where packs do not fit.
template <class T>
int lanes_of(const Heads& h) {
  constexpr int64_t n = pack_of<T>;
  const int64_t lanes = h.half / n;
  const bool fits = h.half % n == 0 && lanes >= 1 && lanes <= 32 && (lanes & (lanes - 1)) == 0;
  return fits && h.step_b % n == 0 && h.step_t % n == 0 && h.step_h % n == 0 ? static_cast<int>(lanes) : 0;
}

/// The row of the table for a position, 0 for padding; null beyond the table, whose numbers are then NaN.
__device__ inline const float* table_row(const RopeRows& table, int32_t position) { return table.at(position > 0 ? position : 0); }

template <int N>
__device__ inline void load_angles(const float* row, int64_t i, float (&f)[N]) {
#pragma unroll
  for (int h = 0; h < N; h += 4) {
    if (!row) {
#pragma unroll
      for (int j = 0; j < 4; ++j) f[h + j] = __builtin_nanf("");
    } else {
      const Pack<float, 4> p = load_pack<float, 4>(row + i + h);
#pragma unroll
      for (int j = 0; j < 4; ++j) f[h + j] = p[j];
    }
  }
}

/// The sum over groups of `lanes` lanes, a power of two.
__device__ inline float lanes_sum(float v, int lanes) {
  for (int m = lanes / 2; m > 0; m >>= 1) v += shfl_xor(v, m);
  return v;
}

/// A lane's part of a head: u at column i, v at column j = i + Dh/2.
template <class T>
struct HeadLane {
  static constexpr int N = pack_of<T>;
  int64_t i, j;
  Pack<T, N> first, second;  ///< as they were loaded
  float u[N], v[N], cosine[N], sine[N];

  __device__ inline HeadLane(const T* x, int lane, int64_t half, bool valid)
      : i(static_cast<int64_t>(lane) * N),
        j(i + half),
        first(valid ? load_pack<T, N>(x + i) : zero_pack<T, N>()),
        second(valid ? load_pack<T, N>(x + j) : zero_pack<T, N>()) {
#pragma unroll
    for (int k = 0; k < N; ++k) u[k] = widen(first[k]), v[k] = widen(second[k]);
  }
  __device__ inline void load_angles(const float* row) {
    gpu::load_angles(row, i, cosine);
    gpu::load_angles(row, j, sine);
  }
  __device__ inline float squares() const {
    float sum = 0;
#pragma unroll
    for (int k = 0; k < N; ++k) sum += u[k] * u[k] + v[k] * v[k];
    return sum;
  }
  __device__ inline void scale(float root, const Weights& w) {
    float f[N];
    w.load(i, f);
#pragma unroll
    for (int k = 0; k < N; ++k) u[k] *= root * (1 + f[k]);
    w.load(j, f);
#pragma unroll
    for (int k = 0; k < N; ++k) v[k] *= root * (1 + f[k]);
  }
  __device__ inline void turn_into(T* y, float sign, bool accumulate) const {
    float f[N];
#pragma unroll
    for (int k = 0; k < N; ++k) f[k] = u[k] * cosine[k] - v[k] * (sign * sine[k]);
    put_pack(y + i, f, accumulate);
#pragma unroll
    for (int k = 0; k < N; ++k) f[k] = v[k] * cosine[k] + u[k] * (sign * sine[k]);
    put_pack(y + j, f, accumulate);
  }
};

/// A head that does not fit packs, by one warp, one pair at a time. Returns its 1 / rms.
template <bool norm, class T>
__device__ inline float turn_by_warp(const T* x, const Weights& w, float eps, const float* row, float sign, int64_t d, T* y, bool accumulate) {
  const int64_t half = d / 2;
  float root = 1;
  if constexpr (norm) {
    float sum = 0;
    for (int64_t i = lane_id(); i < d; i += 32) sum += widen(x[i]) * widen(x[i]);
    root = inverse_root(warp_sum(sum), d, eps);
  }
  for (int64_t i = lane_id(); i < half; i += 32) {
    const float c = row ? row[i] : __builtin_nanf(""), s = row ? sign * row[half + i] : __builtin_nanf("");
    float u = widen(x[i]), v = widen(x[half + i]);
    if constexpr (norm) u *= root * (1 + w.at(i)), v *= root * (1 + w.at(half + i));
    put(y + i, u * c - v * s, accumulate);
    put(y + half + i, v * c + u * s, accumulate);
  }
  return root;
}

}  // namespace facet::gpu

// What products of one input with several weights share: rows, weights that are one matrix, and their gradients.
#pragma once
#include <span>
#include <type_traits>

#include "autograd/ops/rows.h"
#include "autograd/tape.h"
#include "tensor/gpu/side_by_side.h"
#include "tensor/kernels/gemm.h"

namespace facet {

/// x as rows, from a dense copy where its leading dimensions do not follow each other.
struct RowsOf {
  Tensor dense;
  View view;
  explicit RowsOf(Tensor x) : dense(std::move(x)), view(as_rows(dense.view())) {
    if (!view) view = as_rows((dense = dense.dense()).view());
  }
};

/// Matrices [O_i, I], windows to read or to write, as the one they are when each begins where the one before it ends, at one distance of rows; else
/// absent.
template <class V>
V stacked(std::span<const V> parts) {
  if (parts.empty()) return {};
  V all = parts[0];
  for (const V& p : parts) {
    if (!p || p.dtype != all.dtype || p.device != all.device || p.shape[1] != all.shape[1]) return {};
    if (p.stride[1] != 1 || p.stride[0] != all.stride[0] || p.stride[0] < p.shape[1]) return {};
    if constexpr (std::is_same_v<V, Out>)
      if (p.accumulate != all.accumulate) return {};
    if (&p == parts.data()) continue;
    if (p.data != all.template as<char>() + all.shape[0] * all.stride[0] * size_of(all.dtype)) return {};
    all.shape[0] += p.shape[0];
  }
  return all;
}

/// The columns of y that belong to each weight.
template <class V>
pool_vector<V> parts_of(const V& y, std::span<const View> w) {
  pool_vector<V> parts;
  int64_t begin = 0;
  for (const View& v : w) {
    parts.push_back(columns(y, begin, begin + v.shape[0]));
    begin += v.shape[0];
  }
  return parts;
}

/// dx (+)= dy [w_0; w_1; ...].
inline void joined_dx(const View& dy, std::span<const View> w, const Out& dx) {
  if (const View all = stacked<View>(w)) linear_dx({&dy, 1}, {&all, 1}, dx);
  else linear_dx(parts_of(dy, w), w, dx);
}

/// dw = dy^T x for each of several weights with a sink of its own: one product where they come to lie side by side, as gradients that do not exist
/// yet do, and stay so.
inline void joined_dw(const View& dy, const View& x, std::span<const View> w, std::span<Sink* const> sinks) {
  size_t bytes = 0;
  for (const View& v : w) bytes += static_cast<size_t>(v.numel() * size_of(acc_dtype(v.dtype)));
  const gpu::SideBySide row(bytes);
  pool_vector<Out> dws;
  for (Sink* s : sinks) dws.push_back(s->dst());
  if (const Out all = stacked<Out>(dws)) return linear_dw(dy, x, all);
  const pool_vector<View> dys = parts_of(dy, w);
  for (size_t i = 0; i < dws.size(); ++i)
    if (dws[i]) linear_dw(dys[i], x, dws[i]);
}

}  // namespace facet

// Extremes and running sums along rows. Bytes per element: max, argmax one size read; max_grad x twice (the second time from the caches) and
// dx once; cumsum 2 sizes; top_k reads a row a few times, from the caches while it fits there.
#include "tensor/kernels/select.h"

#include "tensor/gpu/order.h"
#include "tensor/gpu/pool.h"
#include "tensor/gpu/row_walk.h"

namespace facet::gpu {
namespace {

// ---- max, argmax: y or ids is null.

template <class T, int group>
__global__ void __launch_bounds__(group_threads) largest_kernel(RowWalk<2> w, const T* x, T* y, int32_t* ids) {
  FACET_SHARED(uint64_t, slots, [group_threads / 32]);
  const int64_t row = my_row<group>();
  const bool mine = row < w.rows;
  int64_t at[2];
  w.walk.at(mine ? row : 0, at);
  uint64_t best = 0;
  for (int64_t i = my_thread<group>(); mine && i < w.n; i += group) {
    const uint64_t k = order_key(widen(x[at[0] + i * w.step[0]]), i);
    best = k > best ? k : best;
  }
  best = group_max<group>(best, slots);
  if (!mine || my_thread<group>() != 0) return;
  const uint32_t index = index_of_key(best);
  if (y) y[at[1]] = x[at[0] + index * w.step[0]];
  else ids[at[1]] = static_cast<int32_t>(index);
}

template <class T>
void largest(const char* op, const View& x, const Out& to, bool value) {
  const RowWalk<2> w({&x, &to});
  if (w.rows == 0 || w.n == 0) return;
  launch_rows(op, largest_kernel<T, 32>, largest_kernel<T, group_threads>, w.rows, w.n, w, x.as<T>(), value ? to.as<T>() : nullptr,
              value ? nullptr : to.as<int32_t>());
}

template <class T, int group>
__global__ void __launch_bounds__(group_threads) max_grad_kernel(RowWalk<4> w, const T* x, const T* dy, const T* y, T* dx, bool accumulate) {
  FACET_SHARED(int32_t, slots, [group_threads / 32]);
  const int64_t row = my_row<group>();
  const bool mine = row < w.rows;
  int64_t at[4];
  w.walk.at(mine ? row : 0, at);
  const int64_t n = mine ? w.n : 0;
  const float top = widen(y[at[2]]);
  int32_t count = 0;
  for (int64_t i = my_thread<group>(); i < n; i += group) count += widen(x[at[0] + i * w.step[0]]) == top;
  count = group_sum<group>(count, slots);
  const float share = widen(dy[at[1]]) / static_cast<float>(count > 1 ? count : 1);
  for (int64_t i = my_thread<group>(); i < n; i += group)
    put(dx + at[3] + i * w.step[3], widen(x[at[0] + i * w.step[0]]) == top ? share : 0.0f, accumulate);
}

// ---- cumsum: tiles of `per` neighbours a thread; within a tile threads add in a fixed tree, tiles one after the other.

constexpr int per = 4;

template <class T, int group>
__global__ void __launch_bounds__(group_threads) cumsum_kernel(RowWalk<2> w, bool reverse, const T* x, T* y, bool accumulate) {
  FACET_SHARED(float, totals, [group_threads / 32]);
  const int64_t row = my_row<group>();
  const bool mine = row < w.rows;
  int64_t at[2];
  w.walk.at(mine ? row : 0, at);
  float carry = 0;
  for (int64_t begin = 0; begin < w.n; begin += group * per) {
    float v[per];
    const int64_t first = begin + my_thread<group>() * per;
    float sum = 0;
    for (int j = 0; j < per; ++j) {
      const int64_t i = first + j;
      if (mine && i < w.n) sum += widen(x[at[0] + (reverse ? w.n - 1 - i : i) * w.step[0]]);
      v[j] = sum;
    }
    float before = sum;  // sum of this warp's threads up to here
    for (int d = 1; d < 32; d *= 2) {
      const float o = shfl_up(before, static_cast<unsigned>(d));
      if (lane_id() >= d) before += o;
    }
    const float warp_total = shfl(before, 31);
    before = shfl_up(before, 1);
    if (lane_id() == 0) before = 0;
    float all = warp_total;
    if constexpr (group != 32) {
      if (lane_id() == 0) totals[warp_id()] = warp_total;
      sync_block();
      float warps = 0;
      all = 0;
      for (int k = 0; k < group / 32; ++k) {
        if (k == warp_id()) warps = all;
        all += totals[k];
      }
      before += warps;
      sync_block();
    }
    for (int j = 0; j < per; ++j) {
      const int64_t i = first + j;
      if (mine && i < w.n) put(y + at[1] + (reverse ? w.n - 1 - i : i) * w.step[1], carry + before + v[j], accumulate);
    }
    carry += all;
  }
}

// ---- top_k: the k-th largest key digit by digit (a radix selection), then everything from there on, sorted.

constexpr int64_t in_shared = 2048;

template <class T>
__global__ void __launch_bounds__(group_threads) top_k_kernel(RowWalk<3> w, int64_t k, int64_t padded, uint64_t* scratch, const T* x, T* values, int32_t* ids) {
  FACET_SHARED(int32_t, counts, [256]);
  FACET_SHARED(uint64_t, own, [in_shared]);
  FACET_SHARED(int64_t, found, [3]);  // digit, keys above it, keys in it
  int64_t at[3];
  w.walk.at(blockIdx.x, at);
  const T* px = x + at[0];
  const auto key = [&](int64_t i) { return order_key(widen(px[i * w.step[0]]), i); };
  const int thread = static_cast<int>(threadIdx.x);

  uint64_t prefix = 0;
  int64_t wanted = k;  // of the keys that begin with the prefix
  int shift = 56;
  for (; shift >= 0; shift -= 8) {
    counts[thread] = 0;
    sync_block();
    for (int64_t i = thread; i < w.n; i += group_threads) {
      const uint64_t e = key(i);
      if (shift == 56 || e >> (shift + 8) == prefix) atomic_add(&counts[e >> shift & 255], 1);
    }
    sync_block();
    if (thread == 0) {
      int64_t above = 0;
      int d = 255;
      while (above + counts[d] < wanted) above += counts[d--];
      found[0] = d, found[1] = above, found[2] = counts[d];
    }
    sync_block();
    prefix = prefix << 8 | static_cast<uint64_t>(found[0]);
    wanted -= found[1];
    const bool all_taken = found[2] == wanted;
    sync_block();
    if (all_taken) break;
  }
  shift = shift < 0 ? 0 : shift;

  uint64_t* const list = scratch ? scratch + static_cast<int64_t>(blockIdx.x) * padded : own;
  if (thread == 0) counts[0] = 0;
  for (int64_t i = thread; i < padded; i += group_threads) list[i] = 0;
  sync_block();
  for (int64_t i = thread; i < w.n; i += group_threads) {
    const uint64_t e = key(i);
    if (e >> shift >= prefix) list[atomic_add(&counts[0], 1)] = e;
  }
  sync_block();
  sort_keys<group_threads>(list, padded);
  for (int64_t i = thread; i < k; i += group_threads) {
    const uint32_t index = index_of_key(list[i]);
    values[at[1] + i * w.step[1]] = px[index * w.step[0]];
    ids[at[2] + i * w.step[2]] = static_cast<int32_t>(index);
  }
}

}  // namespace

void max(View x, Out y) {
  if (x.dtype == DType::bf16) largest<bf16>("max", x, y, true);
  else largest<float>("max", x, y, true);
}

void argmax(View x, Out y) {
  if (x.dtype == DType::bf16) largest<bf16>("argmax", x, y, false);
  else largest<float>("argmax", x, y, false);
}

void max_grad(View dy, View x, View y, Out dx) {
  if (!dx) return;
  const RowWalk<4> w({&x, &dy, &y, &dx});
  if (w.rows == 0 || w.n == 0) return;
  const auto run = [&](auto t) {
    using T = decltype(t);
    launch_rows("max_grad", max_grad_kernel<T, 32>, max_grad_kernel<T, group_threads>, w.rows, w.n, w, x.as<T>(), dy.as<T>(), y.as<T>(), dx.as<T>(),
                dx.accumulate);
  };
  if (x.dtype == DType::bf16) run(bf16{});
  else run(float{});
}

void cumsum(View x, bool reverse, Out y) {
  if (!y) return;
  const RowWalk<2> w({&x, &y});
  if (w.rows == 0 || w.n == 0) return;
  const auto run = [&](auto t) {
    using T = decltype(t);
    launch_rows("cumsum", cumsum_kernel<T, 32>, cumsum_kernel<T, group_threads>, w.rows, w.n, w, reverse, x.as<T>(), y.as<T>(), y.accumulate);
  };
  if (x.dtype == DType::bf16) run(bf16{});
  else run(float{});
}

void top_k(View x, Out values, Out indices) {
  const RowWalk<3> w({&x, &values, &indices});
  const int64_t k = values.shape.rank ? values.shape[-1] : 1, padded = power_of_two_above(k);
  if (w.rows == 0 || k == 0) return;
  const Scratch scratch(padded > in_shared ? static_cast<size_t>(w.rows * padded) * sizeof(uint64_t) : 1);
  uint64_t* const list = padded > in_shared ? scratch.as<uint64_t>() : nullptr;
  const auto run = [&](auto t) {
    using T = decltype(t);
    launch("top_k", top_k_kernel<T>, blocks_for(w.rows, 1, INT32_MAX), group_threads, 0, w, k, padded, list, x.as<T>(), values.as<T>(), indices.as<int32_t>());
  };
  if (x.dtype == DType::bf16) run(bf16{});
  else run(float{});
}

}  // namespace facet::gpu

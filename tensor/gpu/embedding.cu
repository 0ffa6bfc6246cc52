// embedding. Forward: bound by memory, one row read and one written (bf16: 4 bytes an element), a pack a thread; predicted 85% of copy
// rate, since rows come from anywhere.
//
// Backward: ids are sorted with their places (tensor/gpu/sort_ids.h), so that a row's gradients lie in one run, in order. Runs are cut
// at every 32nd place: a block adds up its 32, four loads of 16 bytes under way for each thread, and writes what belongs to one block alone
// into the table; a run that goes on leaves partial sums, which the block where it begins adds in order. So one id that fills a batch
// costs what many ids do: dy is read once (2 bytes an element in bf16), rows of the table that occur are read and written once (8).
#include "tensor/kernels/embedding.h"

#include "tensor/gpu/rows.h"
#include "tensor/gpu/sort_ids.h"

namespace facet::gpu {
namespace {

constexpr int threads = 256;

template <class W, class T, int N>
__global__ void __launch_bounds__(threads)
copy_rows(const int32_t* ids, int64_t n, const W* table, int64_t rows, int64_t step, int64_t d, float scale, T* y, bool accumulate) {
  begin_overlapped();
  const int64_t packs = d / N;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; i < n * packs; i += static_cast<int64_t>(gridDim.x) * threads) {
    const int32_t id = ids[i / packs];
    const bool known = id >= 0 && id < rows;
    const Pack<W, N> w = known ? load_pack<W, N>(table + id * step + i % packs * N) : zero_pack<W, N>();
    float f[N];
#pragma unroll
    for (int j = 0; j < N; ++j) f[j] = known ? widen(w[j]) * scale : __builtin_nanf("");
    put_pack(y + i * N, f, accumulate);
  }
}

template <class W, class T>
void forward(const View& ids, const View& table, double scale, const Out& y) {
  constexpr int N = sizeof(W) > sizeof(T) ? pack_of<W> : pack_of<T>;
  const int64_t n = ids.numel(), d = table.shape[1];
  const auto run = [&](auto kernel, int64_t each) {
    launch_for_rows(n, "embedding", kernel, blocks_for(n * d / each, threads), threads, 0, ids.as<int32_t>(), n, table.as<W>(), table.shape[0], table.stride[0], d,
           static_cast<float>(scale), y.as<T>(), y.accumulate);
  };
  if (packable<W, N>(Rows(table), table.data) && packable<T, N>(y, d)) run(copy_rows<W, T, N>, N);
  else run(copy_rows<W, T, 1>, 1);
}

// ---- backward

constexpr int places = 32;  // of a block

template <class T, class G>
struct Back {
  const int32_t *id, *place;  // sorted
  int64_t n, limit;
  Rows dy_rows;
  const T* dy;
  float scale;
  G* dtable;
  float* partial;  // [blocks][2][d]: the run that began earlier, and the one that goes on
};

template <class T, class G, int N>
__global__ void __launch_bounds__(threads) add_runs(Back<T, G> a) {
  FACET_SHARED(int32_t, id, [places + 2]);  // with both neighbours
  FACET_SHARED(int32_t, place, [places]);
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * places, d = a.dy_rows.d;
  const int count = static_cast<int>(begin + places < a.n ? places : a.n - begin);
  for (int i = static_cast<int>(threadIdx.x); i < count + 2; i += static_cast<int>(blockDim.x)) {
    const int64_t k = begin - 1 + i;
    id[i] = k >= 0 && k < a.n ? a.id[k] : -1;
    if (i < count) place[i] = a.place[begin + i];
  }
  sync_block();
  const int64_t c = (static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x) * N;
  if (c >= d) return;
  float sum[N] = {};
  bool began_earlier = id[0] == id[1];
  for (int first = 0; first < count; first += 4) {
    Pack<T, N> v[4];
#pragma unroll
    for (int k = 0; k < 4; ++k)
      v[k] = first + k < count ? load_pack<T, N>(a.dy + a.dy_rows.at(place[first + k]) + c) : zero_pack<T, N>();
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const int i = first + k;
      if (i >= count) break;
#pragma unroll
      for (int j = 0; j < N; ++j) sum[j] += widen(v[k][j]) * a.scale;
      const int32_t own = id[i + 1];
      const bool ends = id[i + 2] != own;
      if (!ends && i + 1 < count) continue;
      if (own < a.limit) {
        if (began_earlier || !ends) put_pack(a.partial + (2 * static_cast<int64_t>(blockIdx.x) + (began_earlier ? 0 : 1)) * d + c, sum, false);
        else put_pack(a.dtable + own * d + c, sum, true);
      }
      began_earlier = false;
#pragma unroll
      for (int j = 0; j < N; ++j) sum[j] = 0;
    }
  }
}

// The block of places where a long run begins adds its partial sums: 8 interleaved sums, each in order, added in order.
template <class G, int N>
__global__ void __launch_bounds__(threads)
add_long_runs(const int32_t* id, int64_t n, int64_t limit, const float* partial, int64_t d, G* dtable) {
  constexpr int groups = threads / 32;
  FACET_SHARED(float, part, [groups][32 * N]);
  const int64_t block = blockIdx.x, last = block * places + places - 1;
  if (last + 1 >= n) return;
  const int32_t own = id[last];
  if (own >= limit || id[last + 1] != own) return;             // the last run ends here
  if (block > 0 && id[block * places - 1] == own) return;       // it began earlier
  int64_t low = last + 1, high = n;                             // where the run ends
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (id[middle] == own) low = middle + 1;
    else high = middle;
  }
  const int64_t blocks = (low - 1) / places - block;  // that go on with it
  const int lane = lane_id(), group = warp_id();
  const int64_t c = (static_cast<int64_t>(blockIdx.y) * 32 + lane) * N;
  float sum[N] = {};
  if (c < d) {
#pragma unroll 4
    for (int64_t b = group; b <= blocks; b += groups) {
      const Pack<float, N> v = load_pack<float, N>(partial + (2 * (block + b) + (b == 0 ? 1 : 0)) * d + c);
#pragma unroll
      for (int j = 0; j < N; ++j) sum[j] += v[j];
    }
  }
#pragma unroll
  for (int j = 0; j < N; ++j) part[group][lane * N + j] = sum[j];
  sync_block();
  if (group != 0 || c >= d) return;
  for (int g = 1; g < groups; ++g)
#pragma unroll
    for (int j = 0; j < N; ++j) sum[j] += part[g][lane * N + j];
  put_pack(dtable + own * d + c, sum, true);
}

template <class T, class G>
void backward(const View& ids, const View& dy, double scale, const Out& dtable) {
  const Rows rows(dy);
  const int64_t n = ids.numel(), d = rows.d, limit = dtable.shape[0], blocks = (n + places - 1) / places;
  if (n == 0 || d == 0) return;
  const SortedIds sorted("embedding_backward", ids.as<int32_t>(), n, limit);
  const Scratch partial(static_cast<size_t>(2 * blocks * d) * sizeof(float));
  const Back<T, G> a{sorted.id(), sorted.place(), n, limit, rows, dy.as<T>(), static_cast<float>(scale), dtable.as<G>(), partial.as<float>()};
  const auto run = [&](auto add, auto add_long, int each, int each_long) {
    const int64_t across = (d + each - 1) / each, block = across < threads ? (across + 31) / 32 * 32 : threads;
    launch("embedding_backward", add, dim3(static_cast<unsigned>(blocks), blocks_for(across, block)), static_cast<unsigned>(block), 0, a);
    launch("embedding_backward", add_long, dim3(static_cast<unsigned>(blocks), blocks_for(d, 32 * each_long)), threads, 0, sorted.id(), n, limit,
           partial.as<float>(), d, dtable.as<G>());
  };
  constexpr int N = sizeof(G) > sizeof(T) ? pack_of<T> : pack_of<G>;
  if (packable<T, N>(rows, dy.data) && packable<G, N>(dtable, d)) run(add_runs<T, G, N>, add_long_runs<G, 4>, N, 4);
  else run(add_runs<T, G, 1>, add_long_runs<G, 1>, 1, 1);
}

}  // namespace

void embedding(View ids, View table, double scale, Out y) {
  const bool w = table.dtype == DType::bf16, t = y.dtype == DType::bf16;
  if (w && t) forward<bf16, bf16>(ids, table, scale, y);
  else if (w) forward<bf16, float>(ids, table, scale, y);
  else if (t) forward<float, bf16>(ids, table, scale, y);
  else forward<float, float>(ids, table, scale, y);
}
void embedding_backward(View ids, View dy, double scale, Out dtable) {
  const bool t = dy.dtype == DType::bf16, g = dtable.dtype == DType::bf16;
  if (t && g) backward<bf16, bf16>(ids, dy, scale, dtable);
  else if (t) backward<bf16, float>(ids, dy, scale, dtable);
  else if (g) backward<float, bf16>(ids, dy, scale, dtable);
  else backward<float, float>(ids, dy, scale, dtable);
}

}  // namespace facet::gpu

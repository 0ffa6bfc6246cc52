// dropout. Bound by arithmetic: the mask is jax.random.bernoulli's bit for bit, a Threefry block (some 75 integer operations) an element, where
// bf16 moves 4 bytes. Predicted 20% of copy rate in bf16, 40% in f32. A key that lies in memory is folded with its salt once a block: one warp's
// Threefry block where each of its eight warps draws 8 (f32: 4), under 2% (3%).
#include "tensor/kernels/dropout.h"

#include "tensor/gpu/rows.h"
#include "tensor/threefry.h"

namespace facet::gpu {
namespace {

constexpr int threads = 256;

template <class T, int N>
__global__ void __launch_bounds__(threads)
mask(Rows rows, bool dense, const T* x, MaskKey key, uint32_t limit, float scale, T* y, bool accumulate) {
  FACET_SHARED(uint32_t, words, [2]);
  if (threadIdx.x == 0) {
    const MaskKey k = settled(key);
    words[0] = k.hi, words[1] = k.lo;
  }
  sync_block();
  const uint32_t hi = words[0], lo = words[1];
  const int64_t packs = rows.d / N, all = rows.n * packs;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; i < all; i += static_cast<int64_t>(gridDim.x) * threads) {
    const Pack<T, N> v = load_pack<T, N>(x + (dense ? i * N : rows.at(i / packs) + i % packs * N));
    float f[N];
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const auto n = static_cast<uint64_t>(i * N + j);
      uint32_t a = static_cast<uint32_t>(n >> 32), b = static_cast<uint32_t>(n);
      threefry_rounds<1>(hi, lo, &a, &b);
      f[j] = (a ^ b) >> 9 < limit ? widen(v[j]) * scale : 0;
    }
    put_pack(y + i * N, f, accumulate);
  }
}

template <class T>
void run(const View& x, const MaskKey& key, double q, const Out& y) {
  const Rows rows(x);
  // The uniform numbers are m / 2^23 in f32 and are compared with q in f32, as JAX does.
  const double edge = static_cast<double>(static_cast<float>(q)) * (1 << 23);
  const auto whole = static_cast<uint32_t>(edge), limit = whole + (static_cast<double>(whole) < edge);
  const auto go = [&](auto kernel, int64_t each) {
    launch("dropout", kernel, blocks_for(rows.n * rows.d, threads * each), threads, 0, rows, rows.dense(), x.as<T>(), key, limit,
           static_cast<float>(1 / q), y.as<T>(), y.accumulate);
  };
  if (packable<T>(rows, x.data) && packable<T>(y, rows.d)) go(mask<T, pack_of<T>>, pack_of<T>);
  else go(mask<T, 1>, 1);
}

}  // namespace

void dropout(View x, MaskKey key, double q, Out y) {
  if (y.dtype == DType::bf16) run<bf16>(x, key, q, y);
  else run<float>(x, key, q, y);
}

}  // namespace facet::gpu

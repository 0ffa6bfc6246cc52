// ring_write. Bound by memory: a row is read once and written once; a pack a thread, predicted 85% of copy rate. In decode it is a launch.
#include "tensor/kernels/ring_write.h"

#include "tensor/gpu/rows.h"

namespace facet::gpu {
namespace {

constexpr int threads = 256;

struct Ring {
  int64_t batch, steps, length, n;         // n: elements of a row
  int64_t row_b, row_t, at_b, at_t;        // strides of rows, positions
  int64_t ring_b, ring_r, slot_b, slot_r;  // of the ring, of slots
};

template <class X, class Y, int N>
__global__ void __launch_bounds__(threads) write_rows(Ring r, const X* rows, const int32_t* positions, Y* ring, int32_t* slots) {
  const int64_t packs = r.n / N, i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (i >= r.batch * r.steps * packs) return;
  const int64_t row = i / packs, b = row / r.steps, t = row % r.steps, c = i % packs * N;
  const int32_t p = positions[b * r.at_b + t * r.at_t];
  if (p < 0) return;
  const int64_t slot = p % r.length;
  const Pack<X, N> x = load_pack<X, N>(rows + b * r.row_b + t * r.row_t + c);
  Pack<Y, N> y;
#pragma unroll
  for (int j = 0; j < N; ++j) {
    if constexpr (std::is_same_v<X, Y>) y[j] = x[j];
    else y[j] = narrow<Y>(widen(x[j]));
  }
  store_pack(ring + b * r.ring_b + slot * r.ring_r + c, y);
  if (slots && c == 0) slots[b * r.slot_b + slot * r.slot_r] = p;
}

template <class X, class Y>
void write(const View& rows, const View& positions, const Out& ring, const Out& slots) {
  Ring r{rows.shape[0],    rows.shape[1],  ring.shape[1],  1,
         rows.stride[0],   rows.stride[1], positions.stride[0], positions.stride[1],
         ring.stride[0],   ring.stride[1], slots ? slots.stride[0] : 0, slots ? slots.stride[1] : 0};
  for (int i = 2; i < rows.shape.rank; ++i) r.n *= rows.shape[i];
  const auto run = [&](auto kernel, int64_t each) {
    launch("ring_write", kernel, blocks_for(r.batch * r.steps * (r.n / each), threads, INT32_MAX), threads, 0, r, rows.as<X>(), positions.as<int32_t>(),
           ring.as<Y>(), slots.as<int32_t>());
  };
  constexpr int N = sizeof(X) > sizeof(Y) ? pack_of<X> : pack_of<Y>;
  const auto even = [](int64_t a, int64_t b) { return a % N == 0 && b % N == 0; };
  if (packable<X, N>(rows, r.n) && packable<Y, N>(ring, r.n) && even(r.row_b, r.row_t) && even(r.ring_b, r.ring_r)) run(write_rows<X, Y, N>, N);
  else run(write_rows<X, Y, 1>, 1);
}

}  // namespace

void ring_write(View rows, View positions, Out ring, Out slots) {
  const bool x = rows.dtype == DType::bf16, y = ring.dtype == DType::bf16;
  if (x && y) write<bf16, bf16>(rows, positions, ring, slots);
  else if (x) write<bf16, float>(rows, positions, ring, slots);
  else if (y) write<float, bf16>(rows, positions, ring, slots);
  else write<float, float>(rows, positions, ring, slots);
}

}  // namespace facet::gpu

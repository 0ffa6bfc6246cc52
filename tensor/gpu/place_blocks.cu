// place_blocks. Some tens of thousands of elements: what it costs is being started, so all blocks are one launch.
#include "tensor/kernels/place_blocks.h"

#include "tensor/gpu/launch.h"
#include "tensor/kernels/copy.h"

namespace facet::gpu {
namespace {

constexpr int threads = 256;
constexpr int most_blocks = 8;  // of one launch

/// Elements as bits.
template <class T>
struct Placed {
  const T* values[most_blocks];
  int64_t row[most_blocks], column[most_blocks], rows[most_blocks], columns[most_blocks], down[most_blocks], across[most_blocks];
  int count;
  T* to;
  int64_t n, width, to_down, to_across;
};

template <class T>
__global__ void __launch_bounds__(threads) place(Placed<T> a) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; i < a.n; i += static_cast<int64_t>(gridDim.x) * threads) {
    const int64_t r = i >> 32 ? i / a.width : static_cast<uint32_t>(i) / static_cast<uint32_t>(a.width), c = i - r * a.width;
    T value{};
#pragma unroll
    for (int b = 0; b < most_blocks; ++b) {  // all of them, so that a block's fields are read from where arguments are
      if (b >= a.count) break;
      const int64_t y = r - a.row[b], x = c - a.column[b];
      if (y >= 0 && y < a.rows[b] && x >= 0 && x < a.columns[b]) value = a.values[b][y * a.down[b] + x * a.across[b]];
    }
    a.to[r * a.to_down + c * a.to_across] = value;
  }
}

template <class T>
void run(std::span<const Block> blocks, const Out& to) {
  Placed<T> a{};
  for (const Block& b : blocks) {
    const int i = a.count++;
    a.values[i] = b.values.as<T>();
    a.row[i] = b.row, a.column[i] = b.column;
    a.rows[i] = b.values.shape[0], a.columns[i] = b.values.shape[1];
    a.down[i] = b.values.stride[0], a.across[i] = b.values.stride[1];
  }
  a.to = to.as<T>(), a.n = to.numel(), a.width = to.shape[1], a.to_down = to.stride[0], a.to_across = to.stride[1];
  launch("place_blocks", place<T>, blocks_for(a.n, threads), threads, 0, a);
}

}  // namespace

void place_blocks(std::span<const Block> blocks, Out to) {
  const size_t first = blocks.size() < most_blocks ? blocks.size() : most_blocks;
  if (to.dtype == DType::bf16) run<uint16_t>(blocks.first(first), to);
  else run<uint32_t>(blocks.first(first), to);
  for (const Block& b : blocks.subspan(first)) {
    Out part = to;
    part.data = to.as<char>() + (b.row * to.stride[0] + b.column * to.stride[1]) * size_of(to.dtype);
    part.shape = b.values.shape;
    part.accumulate = false;
    gpu::copy(b.values, part);
  }
}

}  // namespace facet::gpu

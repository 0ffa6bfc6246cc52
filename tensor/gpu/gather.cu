// gather and scatter_add. gather moves bits: whole slices in units of 16 bytes where layout allows; bytes per element: its size read and
// written, and the index once per element or slice. An index out of range reads as all bits set (NaN, or -1).
//
// scatter_add adds in index order without atomics. Where an index moves a slice, a block owns a range of destinations and some columns: it
// looks at all indices of its line, 128 at a time, and adds those that are its own, one after the other. The indices are read once per block,
// from the second-level cache; y and the source once each. Where every element has its own index, a thread owns a line along `dim`.
#include "tensor/kernels/gather.h"

#include "tensor/gpu/any.h"
#include "tensor/gpu/launch.h"
#include "tensor/gpu/walk.h"

namespace facet::gpu {
namespace {

constexpr int threads = 256;

struct alignas(16) Bits16 {
  uint64_t v[2];
};

template <class U>
__global__ void __launch_bounds__(threads) gather_kernel(Walk<3> walk, int64_t units, int64_t jump, int64_t limit, const U* x, const int32_t* index, U* y) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * threads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; i < units; i += stride) {
    int64_t at[3];
    walk.at(i, at);
    const int64_t id = index[at[1]];
    U v;
    if (id >= 0 && id < limit) v = x[at[0] + id * jump];
    else
      for (size_t b = 0; b < sizeof(U); ++b) reinterpret_cast<unsigned char*>(&v)[b] = 0xff;
    y[at[2]] = v;
  }
}

template <class U>
void gather_units(const Geometry<3>& g, int64_t n, int64_t jump, int64_t limit, const View& x, const View& index, const Out& y) {
  const int64_t units = g.count / n;
  Walk<3> walk = g.walk(n);
  for (int i = 0; i < walk.rank; ++i) walk.stride[0][i] /= n, walk.stride[2][i] /= n;
  launch("gather", gather_kernel<U>, blocks_for(units, threads), threads, 0, walk, units, jump / n, limit, x.as<U>(), index.as<int32_t>(), y.as<U>());
}

// ---- scatter_add

constexpr int scatter_threads = 128, scatter_warps = scatter_threads / 32;
constexpr int64_t enough_blocks = 2048;

// Steps along `dim` of index and source, and what y's window looks like there.
struct Along {
  int64_t count, index, source;  ///< indices, and their steps
  int64_t jump, limit;           ///< y's
};
struct Slice {
  int64_t columns, source, y;  ///< elements that share an index, and their steps
  int64_t tiles, ranges, range;
};

template <class A>
__device__ inline void add_any(void* y, DType to, int64_t at, const void* x, DType from, int64_t i) {
  store_any(y, to, at, load_any<A>(y, to, at) + load_any<A>(x, from, i));
}

__global__ void __launch_bounds__(scatter_threads) scatter_slices_kernel(Walk<3> lines, Along a, Slice s, const void* source, DType from, const int32_t* index,
                                                                          void* y, DType to) {
  FACET_SHARED(uint32_t, masks, [scatter_warps]);
  FACET_SHARED(int32_t, ids, [scatter_threads]);
  const int64_t column = blockIdx.x % s.tiles * scatter_threads + threadIdx.x, range = blockIdx.x / s.tiles % s.ranges;
  const int64_t low = range * s.range, high = low + s.range < a.limit ? low + s.range : a.limit;
  int64_t at[3];  // source, index, y
  lines.at(blockIdx.x / s.tiles / s.ranges, at);
  for (int64_t begin = 0; begin < a.count; begin += scatter_threads) {
    const int64_t j = begin + threadIdx.x;
    const int32_t id = j < a.count ? index[at[1] + j * a.index] : -1;
    const uint32_t mask = ballot(id >= low && id < high);
    ids[threadIdx.x] = id;
    if (lane_id() == 0) masks[warp_id()] = mask;
    sync_block();
    for (int w = 0; w < scatter_warps; ++w)
      for (uint32_t left = masks[w]; left != 0; left &= left - 1) {
        const int k = w * 32 + first_lane(left);
        if (column < s.columns)
          add_any<float>(y, to, at[2] + ids[k] * a.jump + column * s.y, source, from, at[0] + (begin + k) * a.source + column * s.source);
      }
    sync_block();
  }
}

__global__ void __launch_bounds__(threads) scatter_lines_kernel(Walk<3> lines, int64_t count, Along a, const void* source, DType from, const int32_t* index,
                                                                 void* y, DType to) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * threads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; i < count; i += stride) {
    int64_t at[3];
    lines.at(i, at);
    for (int64_t j = 0; j < a.count; ++j) {
      const int64_t id = index[at[1] + j * a.index];
      if (id >= 0 && id < a.limit) add_any<float>(y, to, at[2] + id * a.jump, source, from, at[0] + j * a.source);
    }
  }
}

}  // namespace

void gather(View x, int dim, View index, Out y) {
  if (!y || y.numel() == 0) return;
  const int64_t size = size_of(x.dtype), jump = x.stride.dim[dim], limit = x.shape.dim[dim];
  View window = x;  // as the index sees it: `dim` is walked through the index alone
  window.shape = index.shape;
  window.stride.dim[dim] = 0;
  const Geometry<3> g({&window, &index, &y});
  const auto fits = [&](int64_t bytes) {
    const int64_t n = bytes / size;
    return n > 1 && g.stride[1][-1] == 0 && g.stride[0][-1] == 1 && g.inner() % n == 0 && jump % n == 0 && g.packs(0, n, x.data, size) &&
           g.packs(2, n, y.data, size);
  };
  if (fits(16)) return gather_units<Bits16>(g, 16 / size, jump, limit, x, index, y);
  if (size == 4) gather_units<uint32_t>(g, 1, jump, limit, x, index, y);
  else gather_units<uint16_t>(g, 1, jump, limit, x, index, y);
}

void scatter_add(View source, int dim, View index, Out y) {
  if (!y || y.numel() == 0 || source.numel() == 0) return;
  const int last = index.shape.rank - 1;
  const Along a{index.shape.dim[dim], index.stride.dim[dim], source.stride.dim[dim], y.stride.dim[dim], y.shape.dim[dim]};
  Shape lines = index.shape, stride[3] = {source.stride, index.stride, y.stride};
  lines.dim[dim] = 1;
  const bool slices = dim != last && index.stride.dim[last] == 0;
  Slice s{1, 0, 0, 1, 1, a.limit};
  if (slices) {
    s.columns = index.shape.dim[last], s.source = source.stride.dim[last], s.y = y.stride.dim[last];
    lines.dim[last] = 1;
  }
  const int64_t count = lines.numel();
  cpu::coalesce(lines, stride);
  const Walk<3> walk = make_walk(lines, stride);
  if (!slices && (a.count <= 64 || count >= enough_blocks))
    return launch("scatter_add", scatter_lines_kernel, blocks_for(count, threads), threads, 0, walk, count, a, source.data, source.dtype, index.as<int32_t>(),
                  y.as<char>(), y.dtype);
  s.tiles = (s.columns + scatter_threads - 1) / scatter_threads;
  const int64_t wanted = (enough_blocks + count * s.tiles - 1) / (count * s.tiles);
  s.range = (a.limit + wanted - 1) / wanted;
  s.ranges = (a.limit + s.range - 1) / s.range;
  launch("scatter_add", scatter_slices_kernel, blocks_for(count * s.tiles * s.ranges, 1, INT32_MAX), scatter_threads, 0, walk, a, s, source.data, source.dtype,
         index.as<int32_t>(), y.as<char>(), y.dtype);
}

}  // namespace facet::gpu

// copy and fill. Windows of one dtype are moved as bits, in units of up to 16 bytes; where the innermost dimensions of source and
// destination differ, through tiles in shared memory, so that both sides see whole lines. Conversions between f32 and bf16 go in packs;
// the other pairs of dtypes, rare, share one kernel that looks at the dtypes. Bytes per element: its size read, its size written.
#include "tensor/kernels/copy.h"

#include "tensor/cpu/bf16.h"
#include "tensor/gpu/any.h"
#include "tensor/gpu/map.h"

namespace facet::gpu {
namespace {

constexpr int threads = map_threads;

struct alignas(16) Bits16 {
  uint64_t v[2];
};

// ---- moving

template <class U>
__global__ void __launch_bounds__(threads) move_kernel(Walk<2> walk, int64_t units, const U* x, U* y) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * threads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; i < units; i += stride) {
    int64_t at[2];
    walk.at(i, at);
    y[at[1]] = x[at[0]];
  }
}

// Tiles of 32 x 32 elements: y's columns are x's rows. Shared rows have one element more, so that columns lie in different banks.
constexpr int tile = 32, tile_rows = threads / tile;

struct Plane {
  int64_t rows, columns;            ///< of y: its innermost dimension are the columns
  int64_t x_column, y_row;          ///< steps; x's rows are neighbours, y's columns are
  int64_t across, down;             ///< tiles
};

template <class U>
__global__ void __launch_bounds__(threads) transpose_kernel(Walk<2> outer, Plane p, int64_t tiles, const U* x, U* y) {
  FACET_SHARED(U, staged, [tile][tile + 1]);
  const int lane = static_cast<int>(threadIdx.x) % tile, row = static_cast<int>(threadIdx.x) / tile;
  for (int64_t t = blockIdx.x; t < tiles; t += gridDim.x) {
    int64_t at[2];
    outer.at(t / (p.across * p.down), at);
    const int64_t c0 = t % p.across * tile, r0 = t / p.across % p.down * tile;
    for (int c = row; c < tile; c += tile_rows)
      if (r0 + lane < p.rows && c0 + c < p.columns) staged[c][lane] = x[at[0] + (c0 + c) * p.x_column + r0 + lane];
    sync_block();
    for (int r = row; r < tile; r += tile_rows)
      if (r0 + r < p.rows && c0 + lane < p.columns) y[at[1] + (r0 + r) * p.y_row + c0 + lane] = staged[lane][r];
    sync_block();
  }
}

template <class U>
void move_units(const Geometry<2>& g, int64_t n, const View& x, const Out& y) {
  const int64_t units = g.count / n;
  Walk<2> walk = g.walk(n);
  for (int i = 0; i < walk.rank; ++i)
    for (auto& stride : walk.stride) stride[i] /= n;
  launch("copy", move_kernel<U>, blocks_for(units, threads), threads, 0, walk, units, x.as<U>(), y.as<U>());
}

// The dimension along which x's elements are neighbours while y's are not; -1: none long enough.
int other_inner(const Geometry<2>& g) {
  if (g.stride[1][-1] != 1 || g.stride[0][-1] == 1 || g.inner() < 8) return -1;
  for (int i = 0; i + 1 < g.shape.rank; ++i)
    if (g.stride[0].dim[i] == 1 && g.shape.dim[i] >= 8) return i;
  return -1;
}

template <class U>
void transpose(const Geometry<2>& g, int d, const View& x, const Out& y) {
  Geometry<2> outer = g;
  const Plane p{g.shape.dim[d], g.inner(), g.stride[0][-1], g.stride[1].dim[d], (g.inner() + tile - 1) / tile, (g.shape.dim[d] + tile - 1) / tile};
  outer.shape.dim[d] = outer.shape[-1] = 1;  // dimensions of size 1 move nothing
  const int64_t tiles = outer.shape.numel() * p.across * p.down;
  launch("copy", transpose_kernel<U>, blocks_for(tiles, 1), threads, 0, outer.walk(1), p, tiles, x.as<U>(), y.as<U>());
}

void move(const View& x, const Out& y) {
  const int64_t size = size_of(y.dtype);
  const Geometry<2> g({&x, &y});
  if (g.shape.rank == 1 && g.stride[0][0] == 1 && g.stride[1][0] == 1) return copy_on_device(y.as<char>(), x.data, static_cast<size_t>(g.count * size));
  if (const int d = other_inner(g); d >= 0)
    return size == 8 ? transpose<uint64_t>(g, d, x, y) : size == 4 ? transpose<uint32_t>(g, d, x, y) : transpose<uint16_t>(g, d, x, y);
  const auto fits = [&](int64_t bytes) {
    const int64_t n = bytes / size;
    return n > 1 && g.stride[0][-1] == 1 && g.inner() % n == 0 && g.packs(0, n, x.data, size) && g.packs(1, n, y.data, size);
  };
  if (fits(16)) return move_units<Bits16>(g, 16 / size, x, y);
  if (fits(8)) return move_units<uint64_t>(g, 8 / size, x, y);
  if (fits(4)) return move_units<uint32_t>(g, 4 / size, x, y);
  return size == 8 ? move_units<uint64_t>(g, 1, x, y) : size == 4 ? move_units<uint32_t>(g, 1, x, y) : move_units<uint16_t>(g, 1, x, y);
}

// ---- converting

template <class From, class To>
struct Convert {
  using X = From;
  using Y = To;
  static constexpr int inputs = 1;
  template <int W>
  FACET_INLINE void operator()(const float (&x)[1][W], float (&y)[W]) const {
    for (int j = 0; j < W; ++j) y[j] = x[0][j];
  }
};

// A: double where f64 takes part. x null: `value` everywhere.
template <class A>
__global__ void __launch_bounds__(threads) convert_kernel(Walk<2> walk, int64_t count, const void* x, DType from, A value, void* y, DType to, bool accumulate) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * threads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; i < count; i += stride) {
    int64_t at[2];
    walk.at(i, at);
    A v = x ? load_any<A>(x, from, at[0]) : value;
    if (accumulate) v += load_any<A>(y, to, at[1]);
    store_any(y, to, at[1], v);
  }
}

void convert(const View& x, const Out& y) {
  const Geometry<2> g({&x, &y});
  const auto run = [&](auto a) {
    using A = decltype(a);
    launch("copy", convert_kernel<A>, blocks_for(g.count, threads), threads, 0, g.walk(1), g.count, x.data, x.dtype, A{}, y.as<char>(), y.dtype, y.accumulate);
  };
  if (x.dtype == DType::f64 || y.dtype == DType::f64) run(double{});
  else run(float{});
}

// ---- filling

template <class U>
__global__ void __launch_bounds__(threads) fill_kernel(Walk<1> walk, int64_t units, U value, U* y) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * threads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; i < units; i += stride) {
    int64_t at[1];
    walk.at(i, at);
    y[at[0]] = value;
  }
}

template <class U>
void fill_units(const Geometry<1>& g, int64_t n, const unsigned char* pattern, const Out& y) {
  U value;
  for (size_t i = 0; i < sizeof(U); ++i) reinterpret_cast<unsigned char*>(&value)[i] = pattern[i % static_cast<size_t>(size_of(y.dtype))];
  const int64_t units = g.count / n;
  Walk<1> walk = g.walk(n);
  for (int i = 0; i < walk.rank; ++i) walk.stride[0][i] /= n;
  launch("fill", fill_kernel<U>, blocks_for(units, threads), threads, 0, walk, units, value, y.as<U>());
}

}  // namespace

void copy(View x, Out y) {
  if (!y || y.numel() == 0) return;
  if (x.dtype == y.dtype && !y.accumulate) return move(x, y);
  const auto narrow_float = [](DType t) { return t == DType::f32 || t == DType::bf16; };
  if (!narrow_float(x.dtype) || !narrow_float(y.dtype)) return convert(x, y);
  if (x.dtype == DType::f32) return y.dtype == DType::f32 ? map("copy", Convert<float, float>{}, {&x}, y) : map("copy", Convert<float, bf16>{}, {&x}, y);
  return y.dtype == DType::f32 ? map("copy", Convert<bf16, float>{}, {&x}, y) : map("copy", Convert<bf16, bf16>{}, {&x}, y);
}

void fill(Out y, double value) {
  if (!y || y.numel() == 0) return;
  const int64_t size = size_of(y.dtype);
  if (y.accumulate) {
    const Geometry<2> g({&y, &y});
    launch("fill", convert_kernel<double>, blocks_for(g.count, threads), threads, 0, g.walk(1), g.count, nullptr, y.dtype, value, y.as<char>(), y.dtype, true);
    return;
  }
  unsigned char pattern[8] = {};
  const auto put_bits = [&](auto v) {
    for (size_t i = 0; i < sizeof v; ++i) pattern[i] = reinterpret_cast<const unsigned char*>(&v)[i];
  };
  switch (y.dtype) {
    case DType::f32: put_bits(static_cast<float>(value)); break;
    case DType::bf16: put_bits(cpu::narrow(static_cast<float>(value)).bits); break;
    case DType::f64: put_bits(value); break;
    case DType::i32: put_bits(static_cast<int32_t>(value)); break;
  }
  const Geometry<1> g({&y});
  bool same = true;
  for (int64_t i = 1; i < size; ++i) same = same && pattern[i] == pattern[0];
  if (same && g.shape.rank == 1 && g.stride[0][0] == 1) return fill_bytes(y.as<char>(), pattern[0], static_cast<size_t>(g.count * size));
  const auto fits = [&](int64_t bytes) { return g.inner() % (bytes / size) == 0 && g.packs(0, bytes / size, y.data, size); };
  if (fits(16)) return fill_units<Bits16>(g, 16 / size, pattern, y);
  return size == 8 ? fill_units<uint64_t>(g, 1, pattern, y) : size == 4 ? fill_units<uint32_t>(g, 1, pattern, y) : fill_units<uint16_t>(g, 1, pattern, y);
}

}  // namespace facet::gpu

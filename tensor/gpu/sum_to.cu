// sum_to: every element of x is read once, in packs where the layout allows; sums are f32 (f64 for f64). Which thread adds what depends on
// the shape and on which neighbours belong together, not on alignment: the same bits wherever the tensors lie.
//
// Two cases (tensor/cpu/sum_plan.h). Each sum runs along memory: a warp takes a short one, a block a strip of a long one. Neighbours in
// memory belong to different sums: a block takes some columns over a strip of rows. Strips leave partial sums, which are summed in turn.
#include "tensor/kernels/sum_to.h"

#include "tensor/cpu/sum_plan.h"
#include "tensor/gpu/any.h"
#include "tensor/gpu/launch.h"
#include "tensor/gpu/pool.h"
#include "tensor/gpu/walk.h"
#include "tensor/kernels/copy.h"

namespace facet::gpu {
namespace {

constexpr int threads = 256;
constexpr int64_t short_sum = 256, strip = 2048;  // packs
constexpr int64_t enough_blocks = 1024;

struct Target {
  void* y;
  DType dtype;
  bool accumulate;
  template <class A>
  __device__ void put(int64_t at, A v) const {
    store_any(y, dtype, at, accumulate ? load_any<A>(y, dtype, at) + v : v);
  }
};

// ---- along memory: `group` threads share a sum; pack j of a sum goes to thread j modulo group, element k of it to accumulator k.

template <class T, int group>
__global__ void __launch_bounds__(threads) rows_kernel(Walk<2> kept, Walk<1> summed, int64_t sums, int64_t strips, int64_t packs, int64_t count,
                                                       int64_t width, int64_t step, bool together, const T* x, Target to) {
  constexpr int W = pack_of<T>;
  using A = Acc<T>;
  FACET_SHARED(A, slots, [threads / 32]);
  const int thread = static_cast<int>(threadIdx.x) % group;
  const int64_t number = static_cast<int64_t>(blockIdx.x) * (threads / group) + static_cast<int>(threadIdx.x) / group;
  const bool mine = number < sums * strips;
  const int64_t sum = mine ? number / strips : 0, begin = number % strips * strip, rest = packs - begin;
  int64_t at[2];
  kept.at(sum, at);
  A acc[W] = {};
  const int64_t n = !mine ? 0 : strips > 1 && rest > strip ? strip : rest;
  for (int64_t i = thread; i < n; i += group) {
    int64_t offset[1];
    summed.at(begin + i, offset);
    const T* p = x + at[0] + offset[0];
    const int64_t left = width == 1 ? 1 : count - (begin + i) * W;
    if (together && left >= W) {
      const Pack<T, W> v = load_pack<T, W>(p);
      for (int j = 0; j < W; ++j) acc[j] += widen(v[j]);
    } else {
      for (int j = 0; j < W; ++j)
        if (j < left) acc[j] += widen(p[j * step]);
    }
  }
  for (int h = W / 2; h > 0; h /= 2)
    for (int j = 0; j < h; ++j) acc[j] += acc[j + h];
  A total;
  if constexpr (group == 32) total = warp_sum(acc[0]);
  else total = block_sum<threads>(acc[0], slots);
  if (mine && thread == 0) to.put(at[1] + number % strips, total);
}

template <class T>
void sum_rows(const cpu::SumPlan& p, const T* x, const Target& to) {
  constexpr int64_t W = pack_of<T>;
  using A = Acc<T>;
  const int64_t sums = p.kept.numel(), count = p.summed.numel(), inner = p.summed[-1], step = p.summed_x[-1];
  // A pack never crosses the end of a row: where rows are no whole packs, it is a single element.
  const bool wide = p.summed.rank == 1 || inner % W == 0;
  bool together = wide && step == 1 && aligned16(x);
  for (int i = 0; i < p.kept.rank; ++i) together = together && p.kept_x.dim[i] % W == 0;
  for (int i = 0; i + 1 < p.summed.rank; ++i) together = together && p.summed_x.dim[i] % W == 0;
  const int64_t width = wide ? W : 1, packs = (count + width - 1) / width, strips = (packs + strip - 1) / strip;
  const Walk<1> summed = make_walk<1>(p.summed, {p.summed_x}, width);
  const auto start = [&](const Shape& kept_y, const Target& target) {
    const Walk<2> kept = make_walk<2>(p.kept, {p.kept_x, kept_y});
    if (packs <= short_sum)
      launch("sum_to", rows_kernel<T, 32>, blocks_for(sums, threads / 32, INT32_MAX), threads, 0, kept, summed, sums, int64_t{1}, packs, count, width, step,
             together, x, target);
    else
      launch("sum_to", rows_kernel<T, threads>, blocks_for(sums * strips, 1, INT32_MAX), threads, 0, kept, summed, sums, strips, packs, count, width, step,
             together, x, target);
  };
  if (packs <= short_sum || strips == 1) return start(p.kept_y, to);
  const Scratch scratch(static_cast<size_t>(sums * strips) * sizeof(A));
  Shape partial_y = dense_strides(p.kept);
  for (int i = 0; i < partial_y.rank; ++i) partial_y.dim[i] *= strips;
  start(partial_y, {scratch.as<A>(), sizeof(A) == 8 ? DType::f64 : DType::f32, false});
  cpu::SumPlan rest = p;
  rest.kept_x = partial_y;
  rest.summed = {strips};
  rest.summed_x = {1};
  sum_rows<A>(rest, scratch.as<A>(), to);
}

// ---- across memory: `lanes` threads stand side by side over the columns, threads / lanes of them below each other over the rows.

template <class T, int W>
__global__ void __launch_bounds__(threads) columns_kernel(Walk<2> outer, Walk<1> summed, int64_t n, int64_t rows, int64_t height, int64_t strips, int64_t tiles,
                                                          int lanes, int64_t x_step, int64_t y_step, int64_t strip_step, const T* x, Target to) {
  using A = Acc<T>;
  FACET_SHARED(A, part, [threads * W]);
  const int lane = static_cast<int>(threadIdx.x) % lanes, line = static_cast<int>(threadIdx.x) / lanes, lines = threads / lanes, width = lanes * W;
  const int64_t column = blockIdx.x % tiles * width, s = blockIdx.x / tiles % strips, o = blockIdx.x / tiles / strips;
  int64_t at[2];
  outer.at(o, at);
  const int64_t mine = column + lane * W, left = n - mine, end = rows < (s + 1) * height ? rows : (s + 1) * height;
  A acc[W] = {};
  for (int64_t r = s * height + line; r < end; r += lines) {
    int64_t offset[1];
    summed.at(r, offset);
    const T* p = x + at[0] + offset[0] + mine * x_step;
    if (W > 1 && left >= W) {
      const Pack<T, W> v = load_pack<T, W>(p);
      for (int j = 0; j < W; ++j) acc[j] += widen(v[j]);
    } else {
      for (int j = 0; j < W; ++j)
        if (j < left) acc[j] += widen(p[j * x_step]);
    }
  }
  for (int j = 0; j < W; ++j) part[line * width + lane * W + j] = acc[j];
  sync_block();
  for (int c = static_cast<int>(threadIdx.x); c < width && column + c < n; c += threads) {
    A total = part[c];
    for (int l = 1; l < lines; ++l) total += part[l * width + c];
    to.put(at[1] + s * strip_step + (column + c) * y_step, total);
  }
}

template <class T>
void sum_columns(const cpu::SumPlan& p, const T* x, const Target& to) {
  constexpr int64_t W = pack_of<T>;
  using A = Acc<T>;
  const int64_t n = p.kept[-1], x_step = p.kept_x[-1], y_step = p.kept_y[-1], outer = p.kept.rows(), rows = p.summed.numel();
  bool together = x_step == 1 && aligned16(x);
  for (int i = 0; i + 1 < p.kept.rank; ++i) together = together && p.kept_x.dim[i] % W == 0;
  for (int i = 0; i < p.summed.rank; ++i) together = together && p.summed_x.dim[i] % W == 0;
  int lanes = 1;
  while (lanes < 32 && lanes * W < n) lanes *= 2;
  const int64_t lines = threads / lanes, width = lanes * W;
  const int64_t most = (rows + 8 * lines - 1) / (8 * lines), wanted = (enough_blocks + outer * ((n + width - 1) / width) - 1) / (outer * ((n + width - 1) / width));
  const int64_t strips = most < wanted ? most : wanted, height = (rows + strips - 1) / strips;
  Shape kept = p.kept, kept_x = p.kept_x, kept_y = p.kept_y;
  kept[-1] = 1;
  const Walk<1> summed = make_walk<1>(p.summed, {p.summed_x});
  const auto start = [&](const Shape& y, int64_t step, int64_t strip_step, const Target& target) {
    const Walk<2> walk = make_walk<2>(kept, {kept_x, y});
    const auto run = [&](auto kernel, int64_t w) {
      const int64_t tiles = (n + lanes * w - 1) / (lanes * w);
      launch("sum_to", kernel, blocks_for(outer * strips * tiles, 1, INT32_MAX), threads, 0, walk, summed, n, rows, height, strips, tiles, lanes, x_step, step,
             strip_step, x, target);
    };
    if (together) run(columns_kernel<T, static_cast<int>(W)>, W);
    else run(columns_kernel<T, 1>, 1);
  };
  if (strips == 1) return start(kept_y, y_step, 0, to);
  const Scratch scratch(static_cast<size_t>(outer * strips * n) * sizeof(A));
  Shape partial = dense_strides(p.kept);
  for (int i = 0; i + 1 < partial.rank; ++i) partial.dim[i] *= strips;
  start(partial, 1, n, {scratch.as<A>(), sizeof(A) == 8 ? DType::f64 : DType::f32, false});
  cpu::SumPlan rest = p;
  rest.kept_x = partial;
  rest.summed = {strips};
  rest.summed_x = {n};
  sum_columns<A>(rest, scratch.as<A>(), to);
}

}  // namespace

void sum_to(View x, Out y) {
  if (!y || y.numel() == 0) return;
  if (x.numel() == 0) {
    if (!y.accumulate) gpu::fill(y, 0);
    return;
  }
  const cpu::SumPlan p = cpu::make_sum_plan(x, y);
  const Target to{y.as<char>(), y.dtype, y.accumulate};
  by_float(x.dtype, [&](auto e) {
    using T = decltype(e);
    if (p.inner_summed) sum_rows(p, x.as<T>(), to);
    else sum_columns(p, x.as<T>(), to);
  });
}

}  // namespace facet::gpu

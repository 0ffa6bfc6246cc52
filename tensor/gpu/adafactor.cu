// adafactor. Bound by memory: factored, g is read for the rows' means, for the columns' (coalesced down the rows), for rms(u) and for the
// update, p twice and written once: 28 bytes a parameter in f32; without factors 28 too. Partial sums are added in a fixed order, and what the
// host would have to know to scale the update stays in device memory: nothing waits.
#include "tensor/kernels/adafactor.h"

#include "tensor/gpu/pool.h"
#include "tensor/gpu/rows.h"
#include "tensor/gpu/step_constants.h"

namespace facet::gpu {
namespace {

using Constants = AdafactorConstants<float>;
constexpr int threads = 256;
constexpr int64_t most_strips = 64;      // of rows, for the columns' sums
constexpr int64_t most_blocks = 4096;    // of rows, for sums of squares
constexpr int64_t width_of_flat = 4096;  // without factors a parameter is cut into rows of so many elements, the last one shorter

template <class P>
struct Args {
  P* p;
  float* master;  // null: p is what is updated
  const float* g;
  float *rows, *cols, *v;  // rows and cols, or v
  int64_t n, height, width;
  StepConstants<Constants> step;
  float* column_sums;  // [strips, width]
  double* squares;     // [blocks, 2]: of u and of the value
  double* scalars;     // the mean of rows; the rate
  int64_t strip, block;  // rows of a strip, of a block of squares

  __device__ int64_t count(int64_t r) const { return n - r * width < width ? n - r * width : width; }

  __device__ float gradient(const Constants& s, int64_t i) const { return g[i] * s.grad_scale; }
  __device__ float value(int64_t i) const { return master ? master[i] : widen(p[i]); }
  __device__ void mix(const Constants& s, float* moment, float mean) const { *moment = s.kept * *moment + s.added * (mean + s.eps); }
  __device__ float row_factor(int64_t r) const { return rows ? 1 / __builtin_sqrtf(rows[r] / static_cast<float>(scalars[0])) : 1; }
  __device__ float u(const Constants& s, float row_factor, int64_t i, int64_t c) const {
    const float d = gradient(s, i);
    if (rows) return d * row_factor * (1 / __builtin_sqrtf(cols[c]));
    return v[i] > 0 ? d / __builtin_sqrtf(v[i]) : d;
  }
};

template <class P>
__global__ void __launch_bounds__(threads) row_means(Args<P> a) {
  FACET_SHARED(float, slots, [threads / 32]);
  const Constants s = a.step.get();
  if (s.skip) return;
  for (int64_t r = blockIdx.x; r < a.height; r += gridDim.x) {
    float sum = 0;
#pragma unroll 4
    for (int64_t c = threadIdx.x; c < a.width; c += threads) {
      const float d = a.gradient(s, r * a.width + c);
      sum += d * d;
    }
    sum = block_sum<threads>(sum, slots);
    if (threadIdx.x == 0) a.mix(s, a.rows + r, sum / static_cast<float>(a.width));
  }
}

template <class P>
__global__ void __launch_bounds__(threads) column_strips(Args<P> a) {
  const Constants s = a.step.get();
  if (s.skip) return;
  const int64_t c = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x, begin = static_cast<int64_t>(blockIdx.y) * a.strip;
  if (c >= a.width) return;
  const int64_t end = begin + a.strip < a.height ? begin + a.strip : a.height;
  float sum = 0;
#pragma unroll 8
  for (int64_t r = begin; r < end; ++r) {
    const float d = a.gradient(s, r * a.width + c);
    sum += d * d;
  }
  a.column_sums[static_cast<int64_t>(blockIdx.y) * a.width + c] = sum;
}

template <class P>
__global__ void __launch_bounds__(threads) column_means(Args<P> a, int64_t strips) {
  const Constants s = a.step.get();
  if (s.skip) return;
  const int64_t c = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (c >= a.width) return;
  double sum = 0;
  for (int64_t k = 0; k < strips; ++k) sum += static_cast<double>(a.column_sums[k * a.width + c]);
  a.mix(s, a.cols + c, static_cast<float>(sum / static_cast<double>(a.height)));
}

template <class P>
__global__ void __launch_bounds__(threads) mean_of_rows(Args<P> a) {
  FACET_SHARED(double, slots, [threads / 32]);
  double sum = 0;
#pragma unroll 8
  for (int64_t r = threadIdx.x; r < a.height; r += threads) sum += static_cast<double>(a.rows[r]);
  sum = block_sum<threads>(sum, slots);
  if (threadIdx.x == 0) a.scalars[0] = sum / static_cast<double>(a.height);
}

// Without factors the moments are brought up to date here.
template <class P>
__global__ void __launch_bounds__(threads) square_sums(Args<P> a) {
  FACET_SHARED(double, slots, [threads / 32]);
  const Constants s = a.step.get();
  if (s.skip) return;
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * a.block, end = begin + a.block < a.height ? begin + a.block : a.height;
  double uu = 0, ww = 0;
  for (int64_t r = begin; r < end; ++r) {
    const float factor = a.row_factor(r);
    const int64_t count = a.count(r);
#pragma unroll 2
    for (int64_t c = threadIdx.x; c < count; c += threads) {
      const int64_t i = r * a.width + c;
      if (!a.rows) {
        const float d = a.gradient(s, i);
        a.mix(s, a.v + i, d * d);
      }
      const float d = a.u(s, factor, i, c), w = a.value(i);
      uu += static_cast<double>(d) * d;
      ww += static_cast<double>(w) * w;
    }
  }
  uu = block_sum<threads>(uu, slots);
  ww = block_sum<threads>(ww, slots);
  double* const to = a.squares + int64_t{blockIdx.x} * 2;
  if (threadIdx.x == 0) to[0] = uu, to[1] = ww;
}

template <class P>
__global__ void __launch_bounds__(threads) find_rate(Args<P> a, int64_t blocks) {
  FACET_SHARED(double, slots, [threads / 32]);
  const Constants s = a.step.get();
  if (s.skip) return;
  double uu = 0, ww = 0;
  for (int64_t b = threadIdx.x; b < blocks; b += threads) uu += a.squares[2 * b], ww += a.squares[2 * b + 1];
  uu = block_sum<threads>(uu, slots);
  ww = block_sum<threads>(ww, slots);
  if (threadIdx.x == 0) a.scalars[1] = adafactor_rate(s, uu / static_cast<double>(a.n), ww / static_cast<double>(a.n));
}

template <class P>
__global__ void __launch_bounds__(threads) update(Args<P> a) {
  const Constants s = a.step.get();
  if (s.skip) return;
  const auto rate = static_cast<float>(a.scalars[1]);
  for (int64_t r = blockIdx.x; r < a.height; r += gridDim.x) {
    const float factor = a.row_factor(r);
    const int64_t count = a.count(r);
#pragma unroll 4
    for (int64_t c = threadIdx.x; c < count; c += threads) {
      const int64_t i = r * a.width + c;
      float w = a.value(i);
      w = w - (rate * a.u(s, factor, i, c) + s.weight_decay * w);
      if (a.master) a.master[i] = w;
      a.p[i] = narrow<P>(w);
    }
  }
}

template <class P>
void run(const Out& p, const Out& master, const View& g, const Out& rows, const Out& cols, const Out& v, const StepConstants<Constants>& step) {
  constexpr const char* op = "adafactor";
  const int64_t n = p.numel(), width = rows ? cols.numel() : width_of_flat, height = rows ? rows.numel() : (n + width - 1) / width;
  const int64_t strip = (height + most_strips - 1) / most_strips, strips = rows ? (height + strip - 1) / strip : 0;
  const int64_t block = (height + most_blocks - 1) / most_blocks, blocks = (height + block - 1) / block;
  const Scratch sums(static_cast<size_t>(strips * width) * sizeof(float), op);
  const Scratch doubles(static_cast<size_t>(2 * blocks + 2) * sizeof(double), op);
  const Args<P> a{p.as<P>(), sizeof(P) == 2 ? master.as<float>() : nullptr, g.as<float>(), rows.as<float>(), cols.as<float>(), v.as<float>(), n, height, width,
                  step, sums.as<float>(), doubles.as<double>() + 2, doubles.as<double>(), strip, block};
  if (rows) {
    const unsigned across = blocks_for(width, threads, INT32_MAX);
    launch(op, row_means<P>, blocks_for(height, 1), threads, 0, a);
    launch(op, column_strips<P>, dim3(across, static_cast<unsigned>(strips), 1), threads, 0, a);
    launch(op, column_means<P>, across, threads, 0, a, strips);
    launch(op, mean_of_rows<P>, 1, threads, 0, a);
  }
  launch(op, square_sums<P>, static_cast<unsigned>(blocks), threads, 0, a);
  launch(op, find_rate<P>, 1, threads, 0, a, blocks);
  launch(op, update<P>, blocks_for(height, 1), threads, 0, a);
}

}  // namespace

void adafactor(Out p, Out master, View g, Out rows, Out cols, Out v, const AdafactorStep& s, const Constants* uploaded) {
  if (p.numel() == 0) return;
  const StepConstants<Constants> step{constants_of<float>(s), uploaded};
  if (p.dtype == DType::bf16) run<bf16>(p, master, g, rows, cols, v, step);
  else run<float>(p, master, g, rows, cols, v, step);
}

}  // namespace facet::gpu

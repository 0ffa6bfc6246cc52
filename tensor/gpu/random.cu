// Random numbers. Bound by arithmetic: a Threefry block, some 75 integer operations, for each number of 4 bytes. Predicted 30% of what
// memory takes.
#include "tensor/kernels/random.h"

#include "tensor/gpu/rows.h"
#include "tensor/rng_math.h"
#include "tensor/threefry.h"

namespace facet::gpu {
namespace {

constexpr int threads = 256;

// Word i of an array of n. The original counters pair the halves of the array: block j has the counters (j, j + half), 0 for one beyond the
// end, and its first word is element j, its second element j + half.
__device__ inline uint32_t word_of(uint32_t hi, uint32_t lo, bool original, int64_t n, int64_t i) {
  if (!original) {
    uint32_t a = static_cast<uint32_t>(static_cast<uint64_t>(i) >> 32), b = static_cast<uint32_t>(i);
    threefry_rounds<1>(hi, lo, &a, &b);
    return a ^ b;
  }
  const int64_t half = (n + 1) / 2, block = i < half ? i : i - half;
  uint32_t a = static_cast<uint32_t>(block), b = block + half < n ? static_cast<uint32_t>(block + half) : 0;
  threefry_rounds<1>(hi, lo, &a, &b);
  return i < half ? a : b;
}

__device__ inline float round_bf16(float x) { return widen(narrow<bf16>(x)); }

struct Settings {
  DrawSettings s;
  rng::UniformRange range;
  float lo, width;  // of the range in bf16
  int64_t n;
};

__device__ inline float draw_one(const Settings& a, int64_t i, float) {
  const float u = rng::uniform(word_of(a.s.hi, a.s.lo, a.s.original, a.n, i), a.range);
  switch (a.s.what) {
    case Draw::normal: return rng::erfinv(u) * rng::sqrt2;
    case Draw::truncated_normal: {
      const float x = rng::erfinv(u) * rng::sqrt2, above = x < a.s.least ? a.s.least : x;
      return a.s.most < above ? a.s.most : above;
    }
    case Draw::gumbel: return -rng::log_of(-rng::log_of(u));
    case Draw::exponential: return -rng::log1m(u);
    default: return u;
  }
}
// 8 bits make a bf16 (7 are used), and every step rounds. With the original counters four elements share a word, low byte first.
__device__ inline bf16 draw_one(const Settings& a, int64_t i, bf16) {
  const uint32_t word = a.s.original ? word_of(a.s.hi, a.s.lo, true, (a.n + 3) / 4, i / 4) >> 8 * (i % 4) : word_of(a.s.hi, a.s.lo, false, a.n, i);
  const float unit = static_cast<float>((word & 0xff) >> 1) * 0x1p-7f;
  const float v = round_bf16(round_bf16(unit * a.width) + a.lo), u = v > a.lo ? v : a.lo;
  return narrow<bf16>(a.s.what == Draw::normal ? round_bf16(rng::erfinv(u)) * round_bf16(rng::sqrt2) : u);
}
__device__ inline int32_t draw_one(const Settings& a, int64_t i, int32_t) {
  const uint32_t word = word_of(a.s.hi, a.s.lo, a.s.original, a.n, i);
  if (a.s.what == Draw::bits) return static_cast<int32_t>(word);
  if (a.s.what == Draw::bernoulli) return rng::unit(word) < a.s.least;
  const uint32_t low = word_of(a.s.second_hi, a.s.second_lo, a.s.original, a.n, i), span = a.s.span;
  return static_cast<int32_t>(a.s.first + (span ? (word % span * a.s.multiplier + low % span) % span : low));
}

template <class T>
__global__ void __launch_bounds__(threads) draw_all(Settings a, T* y) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; i < a.n; i += static_cast<int64_t>(gridDim.x) * threads)
    y[i] = draw_one(a, i, T{});
}

}  // namespace

void draw(const DrawSettings& s, Out y) {
  const auto to_bf16 = [](double x) {  // to nearest even, of finite numbers
    const uint32_t u = __builtin_bit_cast(uint32_t, static_cast<float>(x));
    return __builtin_bit_cast(float, (u + 0x7fffu + (u >> 16 & 1u)) & 0xffff0000u);
  };
  const float lo = to_bf16(s.from);
  const Settings a{s, rng::UniformRange(s.from, s.to), lo, to_bf16(to_bf16(s.to) - lo), y.numel()};
  const unsigned blocks = blocks_for(a.n, threads);
  if (y.dtype == DType::i32) launch("draw", draw_all<int32_t>, blocks, threads, 0, a, y.as<int32_t>());
  else if (y.dtype == DType::bf16) launch("draw", draw_all<bf16>, blocks, threads, 0, a, y.as<bf16>());
  else launch("draw", draw_all<float>, blocks, threads, 0, a, y.as<float>());
}

}  // namespace facet::gpu

// This file is compiled without contraction, like all outside the tiers, and draws without libm: plain IEEE multiplies, adds, divisions and
// square roots give the same bits everywhere. Work goes in blocks of 16 lanes, which the compiler turns into vector code.
#include "tensor/rng.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "tensor/cpu/bf16.h"
#include "tensor/kernels/random.h"
#include "tensor/parallel.h"
#include "tensor/rng_math.h"
#include "tensor/threefry.h"

namespace facet {

using namespace rng;

namespace {

constexpr int lanes = 16;
constexpr int64_t chunk_size = 4096;  // elements a task; a multiple of the lanes

// ---- Threefry

using Lane4 = uint32_t __attribute__((vector_size(16)));

void threefry(Key key, const uint32_t* c0, const uint32_t* c1, uint32_t* y0, uint32_t* y1) {
  constexpr int regs = lanes / 4;
  Lane4 a[regs], b[regs];
  std::memcpy(a, c0, sizeof a);
  std::memcpy(b, c1, sizeof b);
  threefry_rounds<regs>(key.hi, key.lo, a, b);
  std::memcpy(y0, a, sizeof a);
  std::memcpy(y1, b, sizeof b);
}

// Words i ... i+15 of the array of n words that belongs to the key; words past the end are unspecified.
void words(Key key, int64_t n, int64_t i, uint32_t* w) {
  uint32_t c0[lanes], c1[lanes], y0[lanes], y1[lanes];
  if (key.counters == Counters::partitionable) {
    for (int j = 0; j < lanes; ++j) {
      c0[j] = static_cast<uint32_t>(static_cast<uint64_t>(i + j) >> 32);
      c1[j] = static_cast<uint32_t>(i + j);
    }
    threefry(key, c0, c1, y0, y1);
    for (int j = 0; j < lanes; ++j) w[j] = y0[j] ^ y1[j];
    return;
  }
  // Block j of the original scheme has the counters (j, j + half), the last one padded with 0 when n is odd; its first word is
  // element j, its second element j + half.
  const int64_t half = (n + 1) / 2;
  for (int j = 0; j < lanes; ++j) {
    const int64_t block = i + j < half ? i + j : i + j - half;
    c0[j] = static_cast<uint32_t>(block);
    c1[j] = block + half < n ? static_cast<uint32_t>(block + half) : 0;
  }
  threefry(key, c0, c1, y0, y1);
  for (int j = 0; j < lanes; ++j) w[j] = i + j < half ? y0[j] : y1[j];
}

// Calls f(i, w, count) for consecutive runs of up to 16 elements: w[0 ... count-1] are the words of elements i, i+1, ...
template <class F>
void for_words(Key key, int64_t n, const F& f) {
  if (key.counters == Counters::original && n > 0xffffffffll)
    fail(Kind::usage, "random: the original counters serve at most 4,294,967,295 elements, {} asked for", n);
  parallel_for(n, chunk_size, 32, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i += lanes) {
      uint32_t w[lanes];
      words(key, n, i, w);
      f(i, w, static_cast<int>(std::min<int64_t>(lanes, end - i)));
    }
  });
}

// ---- inverse error function of 16 lanes

void erfinv(float* x) {
  float w[lanes], y[lanes];
  for (int j = 0; j < lanes; ++j) w[j] = -log1m(x[j] * x[j]);
  for (int j = 0; j < lanes; ++j) y[j] = erfinv_centre(x[j], w[j]);
  for (int j = 0; j < lanes; ++j)
    if (w[j] >= 5) y[j] = erfinv_tail(x[j], w[j]);  // |x| > 0.9966: one in three hundred
  std::copy_n(y, lanes, x);
}

// erf by its Taylor series in double: terms reach e^(x^2), so up to |x| = 4 the error stays below 1e-8 of the f32 rounding step's 6e-8.
double erf_of(double x) {
  if (x > 4) return 1;
  if (x < -4) return -1;
  double term = x, sum = x;
  for (int n = 1; n < 120; ++n) {
    term *= -x * x / n;
    sum += term / (2 * n + 1);
  }
  return sum * 1.1283791670955126;  // 2 / sqrt(pi)
}

// ---- from words to floats

void to_uniform(const uint32_t* w, UniformRange r, float* u) {
  for (int j = 0; j < lanes; ++j) u[j] = unit(w[j]);
  if (r.exact)
    for (int j = 0; j < lanes; ++j) u[j] = u[j] * r.width + r.lo;
  else
    for (int j = 0; j < lanes; ++j) u[j] = fused(u[j], r.width, r.lo);
  for (int j = 0; j < lanes; ++j) u[j] = u[j] > r.lo ? u[j] : r.lo;
}

// An f32 tensor of g(u), u uniform in the range; g works on 16 lanes in place.
template <class G>
Tensor from_uniform(Key key, const Shape& shape, UniformRange range, const G& g) {
  const Tensor t = Tensor::empty(shape);
  float* out = t.out().as<float>();
  for_words(key, t.numel(), [=, &g](int64_t i, const uint32_t* w, int count) {
    float u[lanes];
    to_uniform(w, range, u);
    g(u);
    std::copy_n(u, count, out + i);
  });
  return t;
}

float round_bf16(float x) { return cpu::widen(cpu::narrow(x)); }

// JAX draws 8 bits for a bf16 (7 of them are used) and rounds every step to bf16. g maps a bf16 value held in a float.
template <class G>
Tensor bf16_from_uniform(Key key, const Shape& shape, double from, double to, const G& g) {
  const Tensor t = Tensor::empty(shape, DType::bf16);
  bf16* out = t.out().as<bf16>();
  const int64_t n = t.numel();
  const float lo = round_bf16(static_cast<float>(from)), width = round_bf16(round_bf16(static_cast<float>(to)) - lo);
  const auto value = [=, &g](uint32_t byte) {
    const float unit = static_cast<float>(byte >> 1) * 0x1p-7f;
    return cpu::narrow(g(std::max(lo, round_bf16(round_bf16(unit * width) + lo))));
  };
  if (key.counters == Counters::partitionable) {
    for_words(key, n, [=](int64_t i, const uint32_t* w, int count) {
      for (int j = 0; j < count; ++j) out[i + j] = value(w[j] & 0xff);
    });
  } else {  // four elements share a word, low byte first
    for_words(key, (n + 3) / 4, [=](int64_t i, const uint32_t* w, int count) {
      for (int j = 0; j < 4 * count && 4 * i + j < n; ++j) out[4 * i + j] = value(w[j / 4] >> 8 * (j % 4) & 0xff);
    });
  }
  return t;
}

// The same numbers, drawn where they are wanted.
Tensor drawn(DrawSettings s, Key key, const Shape& shape, DType dtype) {
  const Tensor t = Tensor::empty(shape, dtype, Device::gpu);
  s.hi = key.hi, s.lo = key.lo, s.original = key.counters == Counters::original;
  if (s.original && t.numel() > 0xffffffffll)
    fail(Kind::usage, "random: the original counters serve at most 4,294,967,295 elements, {} asked for", t.numel());
  gpu::draw(s, t.out());
  return t;
}

void check_float(const char* what, DType t) {
  if (t != DType::f32 && t != DType::bf16)
    fail(Kind::usage, "{}: dtype {}; f32 and bf16 are drawn, convert with to()", what, name_of(t));
}

}  // namespace

Words threefry2x32(Key key, Words counter) {
  uint32_t c0[lanes] = {counter.a}, c1[lanes] = {counter.b}, y0[lanes], y1[lanes];
  threefry(key, c0, c1, y0, y1);
  return {y0[0], y1[0]};
}

Key key(uint64_t seed, Counters counters) {
  return {static_cast<uint32_t>(seed >> 32), static_cast<uint32_t>(seed), counters};
}

Key fold_in(Key k, uint32_t data) {
  const Words w = threefry2x32(k, {0, data});
  return {w.a, w.b, k.counters};
}

std::vector<Key> split(Key k, int64_t n) {
  std::vector<Key> r(static_cast<size_t>(n));
  if (k.counters == Counters::partitionable) {
    for (int64_t i = 0; i < n; ++i) {
      const Words w = threefry2x32(k, {static_cast<uint32_t>(i >> 32), static_cast<uint32_t>(i)});
      r[static_cast<size_t>(i)] = {w.a, w.b, k.counters};
    }
  } else {
    const Tensor w = bits(k, {2 * n});
    for (int64_t i = 0; i < n; ++i) {
      const auto at = [&](int64_t j) { return static_cast<uint32_t>(w.data<int32_t>()[static_cast<size_t>(j)]); };
      r[static_cast<size_t>(i)] = {at(2 * i), at(2 * i + 1), k.counters};
    }
  }
  return r;
}

Tensor bits(Key k, const Shape& shape, Device device) {
  if (device == Device::gpu) return drawn({.what = Draw::bits}, k, shape, DType::i32);
  const Tensor t = Tensor::empty(shape, DType::i32);
  int32_t* out = t.out().as<int32_t>();
  for_words(k, t.numel(), [=](int64_t i, const uint32_t* w, int count) {
    for (int j = 0; j < count; ++j) out[i + j] = static_cast<int32_t>(w[j]);
  });
  return t;
}

Tensor uniform(Key k, const Shape& shape, double lo, double hi, DType dtype, Device device) {
  check_float("uniform", dtype);
  if (device == Device::gpu) return drawn({.what = Draw::uniform, .from = lo, .to = hi}, k, shape, dtype);
  if (dtype == DType::bf16) return bf16_from_uniform(k, shape, lo, hi, [](float u) { return u; });
  return from_uniform(k, shape, UniformRange(lo, hi), [](float*) {});
}

float uniform(Key k) {
  uint32_t w[lanes];
  float u[lanes];
  words(k, 1, 0, w);
  to_uniform(w, UniformRange(0, 1), u);
  return u[0];
}

Tensor randint(Key k, const Shape& shape, int64_t lo, int64_t hi, Device device) {
  if (lo < INT32_MIN || hi > int64_t{INT32_MAX} + 1)
    fail(Kind::usage, "randint: range {} to {} does not fit 32 bits", lo, hi);
  // Two words an element, so that the remainder is nearly unbiased. The multiplier 2^32 mod span is taken modulo 2^32 on
  // the way, as JAX does: spans above 65,536 then rest on the lower word alone.
  const uint32_t span = hi <= lo ? 1 : static_cast<uint32_t>(hi - lo);
  const uint32_t root = span ? 65536u % span : 65536u, multiplier = span ? root * root % span : 0;
  const std::vector<Key> keys = split(k);
  if (device == Device::gpu)
    return drawn({.what = Draw::integers, .second_hi = keys[1].hi, .second_lo = keys[1].lo, .span = span, .multiplier = multiplier, .first = static_cast<uint32_t>(lo)},
                 keys[0], shape, DType::i32);
  const Tensor high = bits(keys[0], shape), low = bits(keys[1], shape);
  const Tensor t = Tensor::empty(shape, DType::i32);
  int32_t* out = t.out().as<int32_t>();
  const uint32_t* a = high.view().as<uint32_t>();
  const uint32_t* b = low.view().as<uint32_t>();
  parallel_for(t.numel(), chunk_size, 8, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const uint32_t offset = span ? (a[i] % span * multiplier + b[i] % span) % span : b[i];
      out[i] = static_cast<int32_t>(static_cast<uint32_t>(lo) + offset);
    }
  });
  return t;
}

Tensor bernoulli(Key k, const Shape& shape, double p, Device device) {
  if (device == Device::gpu) return drawn({.what = Draw::bernoulli, .least = static_cast<float>(p)}, k, shape, DType::i32);
  const Tensor t = Tensor::empty(shape, DType::i32);
  int32_t* out = t.out().as<int32_t>();
  const float limit = static_cast<float>(p);
  for_words(k, t.numel(), [=](int64_t i, const uint32_t* w, int count) {
    float u[lanes];
    to_uniform(w, UniformRange(0, 1), u);
    for (int j = 0; j < count; ++j) out[i + j] = u[j] < limit;
  });
  return t;
}

Tensor permutation(Key k, int64_t n) {
  const Tensor t = Tensor::arange(n);
  if (n <= 1) return t;
  // Sorting by random words, stable; repeated until n^3 words' worth of ties are unlikely (as in JAX).
  const int rounds = static_cast<int>(std::ceil(3 * std::log(static_cast<double>(n)) / std::log(4294967295.0)));
  std::vector<std::pair<uint32_t, int32_t>> list(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) list[static_cast<size_t>(i)].second = static_cast<int32_t>(i);
  for (int r = 0; r < rounds; ++r) {
    const std::vector<Key> keys = split(k);
    k = keys[0];
    const Tensor w = bits(keys[1], {n});
    for (int64_t i = 0; i < n; ++i) list[static_cast<size_t>(i)].first = w.view().as<uint32_t>()[i];
    std::stable_sort(list.begin(), list.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  }
  int32_t* out = t.out().as<int32_t>();
  for (const auto& item : list) *out++ = item.second;
  return t;
}

Tensor normal(Key k, const Shape& shape, DType dtype, Device device) {
  check_float("normal", dtype);
  if (device == Device::gpu) return drawn({.what = Draw::normal, .from = dtype == DType::bf16 ? -0.99609375 : below_minus_one, .to = 1}, k, shape, dtype);
  if (dtype == DType::bf16)
    return bf16_from_uniform(k, shape, -0.99609375, 1, [](float u) {  // nextafter(-1, 0) in bf16
      return round_bf16(rng::erfinv(u)) * round_bf16(sqrt2);
    });
  return from_uniform(k, shape, UniformRange(below_minus_one, 1), [](float* u) {
    erfinv(u);
    for (int j = 0; j < lanes; ++j) u[j] *= sqrt2;
  });
}

Tensor truncated_normal(Key k, const Shape& shape, double lo, double hi, Device device) {
  if (!(lo < hi)) fail(Kind::usage, "truncated_normal: expected lo < hi, found {} and {}", lo, hi);
  const float from = static_cast<float>(lo), to = static_cast<float>(hi);
  const UniformRange range(static_cast<float>(erf_of(from / sqrt2)), static_cast<float>(erf_of(to / sqrt2)));
  const float least = std::nextafter(from, INFINITY), most = std::nextafter(to, -INFINITY);
  if (device == Device::gpu)
    return drawn({.what = Draw::truncated_normal, .from = erf_of(from / sqrt2), .to = erf_of(to / sqrt2), .least = least, .most = most}, k, shape, DType::f32);
  return from_uniform(k, shape, range, [=](float* u) {
    erfinv(u);
    for (int j = 0; j < lanes; ++j) u[j] = std::min(std::max(u[j] * sqrt2, least), most);
  });
}

namespace {
void to_gumbel(float* u) {
  for (int j = 0; j < lanes; ++j) u[j] = -log_of(-log_of(u[j]));
}
}  // namespace

Tensor gumbel(Key k, const Shape& shape, Device device) {
  if (device == Device::gpu) return drawn({.what = Draw::gumbel, .from = tiny, .to = 1}, k, shape, DType::f32);
  return from_uniform(k, shape, UniformRange(tiny, 1), to_gumbel);
}

Tensor exponential(Key k, const Shape& shape, Device device) {
  if (device == Device::gpu) return drawn({.what = Draw::exponential, .from = 0, .to = 1}, k, shape, DType::f32);
  return from_uniform(k, shape, UniformRange(0, 1), [](float* u) {
    for (int j = 0; j < lanes; ++j) u[j] = -log1m(u[j]);
  });
}

Tensor categorical(Key k, const Tensor& logits) {
  if (logits.dtype() != DType::f32 || logits.rank() < 1 || logits.dim(-1) < 1)
    fail(Kind::usage, "categorical: logits must be f32 [.., V], found {} {}", name_of(logits.dtype()), to_string(logits.shape()));
  const Tensor x = logits.dense(), noise = gumbel(k, x.shape());
  const int64_t v = x.dim(-1), rows = x.numel() / v;
  Shape shape = x.shape();
  --shape.rank;
  const Tensor t = Tensor::empty(shape, DType::i32);
  const float* a = x.view().as<float>();
  const float* g = noise.view().as<float>();
  int32_t* out = t.out().as<int32_t>();
  parallel_for(rows, 1, v, [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      int64_t best = 0;
      for (int64_t i = 1; i < v; ++i)
        if (a[r * v + i] + g[r * v + i] > a[r * v + best] + g[r * v + best]) best = i;
      out[r] = static_cast<int32_t>(best);
    }
  });
  return t;
}

}  // namespace facet

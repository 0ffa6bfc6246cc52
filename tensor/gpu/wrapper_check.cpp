#include "tensor/gpu/wrapper_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "tensor/gpu/pool.h"
#include "tensor/gpu/runtime.h"

namespace facet::gpu {
namespace {

using namespace wrapper;

/// splitmix64: the numbers of a case must not come from what is checked.
struct Random {
  uint64_t state;
  uint64_t bits() {
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  int32_t below(int32_t n) { return static_cast<int32_t>(bits() % static_cast<uint64_t>(n)); }
  float uniform(float low, float high) { return low + (high - low) * static_cast<float>(bits() >> 40) * 0x1p-24f; }
  template <class T, class F>
  std::vector<T> list(size_t n, F&& f) {
    std::vector<T> v(n);
    for (T& x : v) x = static_cast<T>(f());
    return v;
  }
};

float widened(uint16_t bf16) {
  const uint32_t bits = static_cast<uint32_t>(bf16) << 16;
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
/// To nearest, ties to even.
uint16_t narrowed(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof x);
  const uint32_t low = bits & 0xffffu, odd = bits >> 16 & 1;
  return static_cast<uint16_t>((bits >> 16) + (low > 0x8000u || (low == 0x8000u && odd)));
}

/// A copy of a list on the device.
template <class T>
class There {
 public:
  explicit There(const std::vector<T>& v) : n_(v.size()), memory_(v.size() * sizeof(T), "check of wrappers") {
    copy_to_device(get(), v.data(), n_ * sizeof(T));
  }
  T* get() const { return memory_.template as<T>(); }
  std::vector<T> back() const {
    std::vector<T> v(n_);
    copy_to_host(v.data(), get(), n_ * sizeof(T));
    return v;
  }

 private:
  size_t n_;
  Scratch memory_;
};
template <class T>
There<T> room(size_t n) { return There<T>(std::vector<T>(n)); }

struct Judge {
  WrapperResult result;
  explicit Judge(const char* name) { result.name = name; }
  template <class T, class... A>
  void near(T got, T want, double allowed, fmt::format_string<A...> where, A&&... a) {
    ++result.compared;
    const bool good = got == want || std::abs(static_cast<double>(got) - static_cast<double>(want)) <= allowed;
    if (good || result.wrong++ > 0) return;
    result.first = fmt::format("{}: {}, expected {}", fmt::format(where, std::forward<A>(a)...), got, want);
  }
  template <class T, class... A>
  void same(T got, T want, fmt::format_string<A...> where, A&&... a) {
    near(got, want, 0, where, std::forward<A>(a)...);
  }
};

// The lane a shuffle takes its value from.
int source(const ShuffleCase& c, int lane) {
  const int segment = lane / c.width * c.width;
  switch (c.kind) {
    case index: return segment + c.operand % c.width;  // "if srcLane is outside [0:width-1], the value of srcLane modulo width"
    case up: return lane - c.operand >= segment ? lane - c.operand : lane;
    case down: return lane + c.operand < segment + c.width ? lane + c.operand : lane;
    default: return (lane ^ c.operand) < segment + c.width ? lane ^ c.operand : lane;  // later segments are out of reach, earlier are not
  }
}
template <class T>
WrapperResult check_shuffles(const char* name, Random r, size_t n) {
  Judge judge(name);
  const auto how = r.list<ShuffleCase>(n, [&] { return ShuffleCase{r.below(4), r.below(32), 2 << r.below(5)}; });
  const auto x = r.list<T>(32 * n, [&] { return r.below(1 << 24); });
  const There<ShuffleCase> there_how(how);
  const There<T> there(x), to = room<T>(32 * n);
  shuffle(static_cast<int>(n), there_how.get(), there.get(), to.get());
  const auto y = to.back();
  for (size_t i = 0; i < 32 * n; ++i) {
    const ShuffleCase& c = how[i / 32];
    const size_t from = i / 32 * 32 + static_cast<size_t>(source(c, static_cast<int>(i % 32)));
    judge.same(y[i], x[from], "kind {}, operand {}, width {}, lane {}", int{c.kind}, int{c.operand}, int{c.width}, i % 32);
  }
  return judge.result;
}

WrapperResult check_votes(Random r, size_t n) {
  Judge judge("ballot, any, all");
  auto lanes = r.list<uint32_t>(n, [&] { return r.bits(); });
  for (size_t i = 0; i < n; i += 3) lanes[i] = i % 2 ? 0 : ~0u;  // all alike
  for (size_t i = 1; i < n; i += 3) lanes[i] = i % 2 ? 1u << i % 32 : ~(1u << i % 32);
  const There<uint32_t> there(lanes), to = room<uint32_t>(96 * n);
  votes(static_cast<int>(n), there.get(), to.get());
  const auto y = to.back();
  for (size_t i = 0; i < 32 * n; ++i) {
    const uint32_t all = lanes[i / 32];
    judge.same(y[3 * i], all, "ballot");
    judge.same(y[3 * i + 1], uint32_t{all != 0}, "any of {:x}", uint32_t{all});
    judge.same(y[3 * i + 2], uint32_t{all == ~0u}, "all of {:x}", uint32_t{all});
  }
  return judge.result;
}

WrapperResult check_ldmatrix(Random r, size_t n) {
  Judge judge("ldmatrix");
  const auto tiles = r.list<uint16_t>(256 * n, [&] { return r.bits(); });
  const There<uint16_t> there(tiles);
  const There<uint32_t> to = room<uint32_t>(256 * n);
  ldmatrix(static_cast<int>(n), there.get(), to.get());
  const auto y = to.back();
  for (size_t c = 0; c < n; ++c)
    for (size_t lane = 0; lane < 32; ++lane)
      for (size_t j = 0; j < 4; ++j) {
        // PTX 9.7.14.5.15: thread T holds row T / 4, elements 2 (T % 4) and the next
        const uint16_t* const tile = &tiles[256 * c + 64 * j];
        const size_t row = lane / 4, column = lane % 4 * 2, at = 256 * c + 8 * lane + j;
        judge.same(y[at], tile[8 * row + column] | uint32_t{tile[8 * row + column + 1]} << 16, "matrix {}, lane {}", j, lane);
        judge.same(y[at + 4], tile[8 * column + row] | uint32_t{tile[8 * (column + 1) + row]} << 16, "matrix {} transposed, lane {}", j, lane);
      }
  return judge.result;
}

// Every other case of small integers, whose sums are exact. The hardware cuts products off where they are added up: by an ulp or two of the largest.
WrapperResult check_mma(Random r, size_t n) {
  Judge judge("mma m16n8k16");
  const auto number = [&](size_t c) { return c % 2 ? r.uniform(-2, 2) : static_cast<float>(r.below(23) - 11); };
  std::vector<uint16_t> a(256 * n), b(128 * n);
  std::vector<float> c(128 * n);
  for (size_t i = 0; i < a.size(); ++i) a[i] = narrowed(number(i / 256));
  for (size_t i = 0; i < b.size(); ++i) b[i] = narrowed(number(i / 128));
  for (size_t i = 0; i < c.size(); ++i) c[i] = number(i / 128);
  const There<uint16_t> there_a(a), there_b(b);
  const There<float> to(c);
  mma(static_cast<int>(n), there_a.get(), there_b.get(), to.get());
  const auto y = to.back();
  for (size_t at = 0; at < c.size(); ++at) {
    const size_t k_case = at / 128, i = at / 8 % 16, j = at % 8;
    double sum = c[at], size = std::abs(c[at]);
    for (size_t k = 0; k < 16; ++k) {
      const double term = static_cast<double>(widened(a[256 * k_case + 16 * i + k])) * widened(b[128 * k_case + 8 * k + j]);
      sum += term, size += std::abs(term);
    }
    judge.near(y[at], static_cast<float>(sum), k_case % 2 ? 4e-6 * size : 0, "case {}, row {}, column {}", k_case, i, j);
  }
  return judge.result;
}

WrapperResult check_copies(Random r, size_t n) {
  Judge judge("cp.async");
  const auto x = r.list<int32_t>(256 * n, [&] { return r.bits(); });
  const auto valid = r.list<uint32_t>(2 * n, [&] { return r.bits(); });
  const There<int32_t> there(x), to = room<int32_t>(256 * n);
  const There<uint32_t> there_valid(valid);
  copies(static_cast<int>(n), there.get(), there_valid.get(), to.get());
  const auto y = to.back();
  for (size_t i = 0; i < x.size(); ++i) {
    const size_t group = i / 128 % 2, lane = i / 4 % 32;
    judge.same(y[i], valid[i / 256 * 2 + group] >> lane & 1 ? x[i] : 0, "group {}, lane {}", group, lane);
  }
  return judge.result;
}

WrapperResult check_atomics(Random r, size_t n) {
  Judge judge("atomics, the last block");
  const auto values = r.list<int32_t>(64 * n, [&] { return r.below(20001) - 10000; });
  const There<int32_t> there(values), places = room<int32_t>(64 * n);
  const There<int32_t> totals({0, std::numeric_limits<int32_t>::min(), std::numeric_limits<int32_t>::max(), 0, 0, 0, 0});
  atomics(static_cast<int>(n), there.get(), totals.get(), places.get());
  const auto y = totals.back();
  auto sorted = values, found = places.back();
  std::sort(sorted.begin(), sorted.end());
  std::sort(found.begin(), found.end());
  int32_t sum = 0;
  for (int32_t v : values) sum += v;
  judge.same(y[0], sum, "sum");
  judge.same(y[1], sorted.back(), "maximum");
  judge.same(y[2], sorted.front(), "minimum");
  judge.same(std::binary_search(sorted.begin(), sorted.end(), y[3] - 1), true, "whether the first is one of them");
  judge.same(y[4], sum, "the sum of what the last block reads");
  for (size_t i = 0; i < sorted.size(); ++i) judge.same(found[i], sorted[i], "value {} by size", i);
  return judge.result;
}

WrapperResult check_sums(Random r, size_t n) {
  Judge judge("block_sum, block_max");
  const auto x = r.list<float>(64 * n, [&] { return r.below(20001) - 10000; });
  const There<float> there(x), to = room<float>(128 * n);
  sums(static_cast<int>(n), there.get(), to.get());
  const auto y = to.back();
  for (size_t c = 0; c < n; ++c) {
    float sum = 0, most = x[64 * c];
    for (size_t i = 64 * c; i < 64 * c + 64; ++i) sum += x[i], most = std::max(most, x[i]);
    for (size_t i = 64 * c; i < 64 * c + 64; ++i) judge.same(y[2 * i], sum, "sum, case {}", c), judge.same(y[2 * i + 1], most, "maximum, case {}", c);
  }
  return judge.result;
}

WrapperResult check_numbers(Random r, size_t n) {
  Judge judge("narrow, exp2, reciprocal, rsqrt");
  auto x = r.list<float>(32 * n, [&] { return r.uniform(-126, 126); });
  for (size_t i = 0; i < x.size(); i += 5) x[i] = widened(narrowed(x[i])) + 0x1p-9f * std::exp2(std::floor(std::log2(std::abs(x[i]) + 1e-3f)));  // near and at ties
  const There<float> there(x), to = room<float>(96 * n);
  const There<uint16_t> bits = room<uint16_t>(32 * n);
  numbers(static_cast<int>(n), there.get(), bits.get(), to.get());
  const auto y = to.back();
  const auto narrow = bits.back();
  constexpr double near = 5e-7;  // 4 units in the last place
  for (size_t i = 0; i < x.size(); ++i) {
    const double v = x[i], size = std::abs(v), wants[] = {std::exp2(v), 1 / size, 1 / std::sqrt(size)};
    judge.same(narrow[i], narrowed(x[i]), "{} in bf16", x[i]);
    for (size_t k = 0; k < 3; ++k) judge.near(static_cast<double>(y[3 * i + k]), wants[k], near * wants[k], "function {} of {}", k, x[i]);
  }
  return judge.result;
}

WrapperResult check_chain(Random r, size_t n) {
  Judge judge("waiting for the kernel before");
  auto want = r.list<int32_t>(64 * n, [&] { return r.bits() >> 32; });
  const There<int32_t> x(want), y = room<int32_t>(64 * n);
  constexpr int steps = 20;
  chain(static_cast<int>(n), steps, x.get(), y.get());
  for (int s = 0; s < steps; ++s) {
    std::reverse(want.begin(), want.end());
    for (size_t i = 0; i < want.size(); ++i) want[i] = static_cast<int32_t>(3 * static_cast<uint32_t>(want[i]) + static_cast<uint32_t>(i));
  }
  const auto got = x.back();
  for (size_t i = 0; i < want.size(); ++i) judge.same(got[i], want[i], "element {}", i);
  return judge.result;
}

}  // namespace

std::vector<WrapperResult> check_wrappers(uint64_t seed, int cases) {
  const auto n = static_cast<size_t>(cases);
  Random r{seed};
  return {check_shuffles<float>("shuffles of 4 bytes", {r.bits()}, n), check_shuffles<int64_t>("shuffles of 8 bytes", {r.bits()}, n),
          check_votes({r.bits()}, n), check_ldmatrix({r.bits()}, n), check_mma({r.bits()}, n), check_copies({r.bits()}, n),
          check_atomics({r.bits()}, n), check_sums({r.bits()}, n), check_numbers({r.bits()}, n),
          check_chain({r.bits()}, n)};
}

}  // namespace facet::gpu

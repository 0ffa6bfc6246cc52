#include "tensor/kernels/adamw.h"

#include "tensor/cpu/simd.h"
#include "tensor/parallel.h"

namespace facet::cpu::FACET_TIER {
namespace {

constexpr int64_t grain = 1 << 15;  // elements per task

double power(double base, int64_t n) {
  double r = 1;
  for (; n > 0; n >>= 1, base *= base)
    if (n & 1) r *= base;
  return r;
}

// P: the stored parameter, A: everything that is computed.
template <class P, class A>
void adamw_as(const Out& p, const Out& master, const View& g, const Out& m, const Out& v, const AdamwStep& s) {
  constexpr bool has_master = !std::is_same_v<P, A>;
  P* pp = p.as<P>();
  A* pm = m.as<A>();
  A* pv = v.as<A>();
  A* pw = has_master ? master.as<A>() : nullptr;
  const A* pg = g.as<A>();
  const auto constant = [](double c) { return broadcast<A>(static_cast<A>(c)); };
  const Vec<A> b1 = constant(s.beta1), b2 = constant(s.beta2), a1 = constant(1 - s.beta1), a2 = constant(1 - s.beta2);
  const Vec<A> scale = constant(s.grad_scale), eps = constant(s.eps), root = constant(s.eps_root);
  const Vec<A> rate = constant(s.lr / (1 - power(s.beta1, s.t))), unbias = constant(1 / (1 - power(s.beta2, s.t)));
  const Vec<A> keep = constant(s.lr * s.weight_decay);
  parallel_for(p.numel(), grain, 8, [&](int64_t begin, int64_t end) {
    for_row<A>(end - begin, [&](int64_t k, auto part) {
      const int64_t i = begin + k;
      const Vec<A> d = load(pg + i, part) * scale;
      const Vec<A> first = load(pm + i, part) * b1 + d * a1;
      const Vec<A> second = load(pv + i, part) * b2 + d * d * a2;
      store(pm + i, first, part);
      store(pv + i, second, part);
      Vec<A> w;
      if constexpr (has_master) w = load(pw + i, part);
      else w = load(pp + i, part);
      w = w - (rate * first / (sqrt(second * unbias + root) + eps) + keep * w);
      if constexpr (has_master) store(pw + i, w, part);
      store(pp + i, w, part);
    });
  });
}

template <class T>
void squares_as(const View& x, double* sums) {
  const T* px = x.as<T>();
  const int64_t n = x.numel();
  parallel_for((n + squares_block - 1) / squares_block, 1, squares_block, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      double total = 0;
      const int64_t last = (b + 1) * squares_block < n ? (b + 1) * squares_block : n;
      for (int64_t i = b * squares_block; i < last; i += 1024) {
        Vec<T> sum{};
        for_row<T>(last - i < 1024 ? last - i : 1024, [&](int64_t k, auto part) {
          const Vec<T> v = load(px + i + k, part);
          sum += v * v;
        });
        total += static_cast<double>(reduce_add(sum));
      }
      sums[b] = total;
    }
  });
}

}  // namespace

void adamw(Out p, Out master, View g, Out m, Out v, const AdamwStep& step) {
  if (p.dtype == DType::bf16) adamw_as<bf16, float>(p, master, g, m, v, step);
  else if (p.dtype == DType::f64) adamw_as<double, double>(p, master, g, m, v, step);
  else adamw_as<float, float>(p, master, g, m, v, step);
}

void sum_of_squares(View x, Out sums) {
  if (x.dtype == DType::f64) squares_as<double>(x, sums.as<double>());
  else squares_as<float>(x, sums.as<double>());
}

}  // namespace facet::cpu::FACET_TIER

FACET_TIERED(adamw)
FACET_TIERED(sum_of_squares)

#include "tensor/kernels/adamw.h"

#include "tensor/cpu/simd.h"
#include "tensor/parallel.h"

namespace facet::cpu::FACET_TIER {
namespace {

constexpr int64_t grain = 1 << 15;  // elements per task

// Rounds the lanes of elements i, i + 1, ... by chance, with the draws at counters that begin with `draws`.
FACET_INLINE vf rounded(vf w, uint32_t hi, uint32_t lo, int64_t i, uint32_t draws) {
  vu a, b, part;
  for (int k = 0; k < lanes; ++k) {
    const uint64_t block = static_cast<uint64_t>(i + k) >> 2;
    a[k] = static_cast<uint32_t>(block >> 32) | draws;
    b[k] = static_cast<uint32_t>(block);
    part[k] = static_cast<uint32_t>(i + k) & 3;
  }
  threefry_rounds<1>(hi, lo, &a, &b);
  const vu word = part < 2 ? a : b, r = (part & 1) == 0 ? word & 0xffffu : word >> 16;
  const vu u = __builtin_bit_cast(vu, w), up = (u + r) & 0xffff0000u;
  return __builtin_bit_cast(vf, (u & 0x7f800000u) == 0x7f800000u ? u : up);  // the store after it is then exact, and keeps NaN
}

// P: the stored parameter, M: the stored moments, A: everything that is computed.
template <class P, class M, class A>
void adamw_as(const Out& p, const Out& master, const View& g, const Out& m, const Out& v, const AdamwStep& s) {
  constexpr bool narrow = !std::is_same_v<P, A>, narrow_moments = !std::is_same_v<M, A>;
  P* pp = p.as<P>();
  M* pm = m.as<M>();
  M* pv = v.as<M>();
  A* pw = narrow ? master.as<A>() : nullptr;
  const A* pg = g.as<A>();
  const AdamwConstants<A> c = constants_of<A>(s);
  if (c.skip) return;
  const Vec<A> b1 = broadcast<A>(c.beta1), b2 = broadcast<A>(c.beta2), a1 = broadcast<A>(c.one_minus_beta1), a2 = broadcast<A>(c.one_minus_beta2);
  const Vec<A> scale = broadcast<A>(c.grad_scale), eps = broadcast<A>(c.eps), root = broadcast<A>(c.eps_root);
  const Vec<A> rate = broadcast<A>(c.rate), unbias = broadcast<A>(c.unbias), decay = broadcast<A>(c.decay);
  parallel_for(p.numel(), grain, 8, [&](int64_t begin, int64_t end) {
    for_row<A>(end - begin, [&](int64_t k, auto part) {
      const int64_t i = begin + k;
      const Vec<A> d = load(pg + i, part) * scale;
      const Vec<A> first = load(pm + i, part) * b1 + d * a1;
      const Vec<A> second = load(pv + i, part) * b2 + d * d * a2;
      if constexpr (narrow_moments) {
        store(pm + i, rounded(first, c.key_hi, c.key_lo, i, adamw_draws_of_m), part);
        store(pv + i, rounded(second, c.key_hi, c.key_lo, i, adamw_draws_of_v), part);
      } else {
        store(pm + i, first, part);
        store(pv + i, second, part);
      }
      Vec<A> w;
      if (narrow && pw) w = load(pw + i, part);
      else w = load(pp + i, part);
      w = w - (rate * first / (sqrt(second * unbias + root) + eps) + decay * w);
      if (narrow && pw) store(pw + i, w, part);
      if constexpr (narrow)
        if (c.stochastic) w = rounded(w, c.key_hi, c.key_lo, i, 0);
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
  const bool narrow = p.dtype == DType::bf16, narrow_moments = m.dtype == DType::bf16;
  if (p.dtype == DType::f64) adamw_as<double, double, double>(p, master, g, m, v, step);
  else if (narrow && narrow_moments) adamw_as<bf16, bf16, float>(p, master, g, m, v, step);
  else if (narrow) adamw_as<bf16, float, float>(p, master, g, m, v, step);
  else if (narrow_moments) adamw_as<float, bf16, float>(p, master, g, m, v, step);
  else adamw_as<float, float, float>(p, master, g, m, v, step);
}

void sum_of_squares(View x, Out sums) {
  if (x.dtype == DType::f64) squares_as<double>(x, sums.as<double>());
  else squares_as<float>(x, sums.as<double>());
}

}  // namespace facet::cpu::FACET_TIER

FACET_TIERED(adamw)
FACET_TIERED(sum_of_squares)

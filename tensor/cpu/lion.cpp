#include "tensor/kernels/lion.h"

#include "tensor/cpu/simd.h"
#include "tensor/parallel.h"

namespace facet::cpu::FACET_TIER {
namespace {

constexpr int64_t grain = 1 << 15;  // elements per task

// P: the stored parameter, A: everything that is computed.
template <class P, class A>
void lion_as(const Out& p, const Out& master, const View& g, const Out& m, const LionStep& s) {
  const LionConstants<A> c = constants_of<A>(s);
  if (c.skip) return;
  P* pp = p.as<P>();
  A* pm = m.as<A>();
  A* pw = std::is_same_v<P, A> ? nullptr : master.as<A>();
  const A* pg = g.as<A>();
  const Vec<A> b1 = broadcast<A>(c.beta1), b2 = broadcast<A>(c.beta2), a1 = broadcast<A>(c.one_minus_beta1), a2 = broadcast<A>(c.one_minus_beta2);
  const Vec<A> scale = broadcast<A>(c.grad_scale), lr = broadcast<A>(c.lr), decay = broadcast<A>(c.weight_decay), zero = broadcast<A>(0), one = broadcast<A>(1);
  parallel_for(p.numel(), grain, 6, [&](int64_t begin, int64_t end) {
    for_row<A>(end - begin, [&](int64_t k, auto part) {
      const int64_t i = begin + k;
      const Vec<A> d = load(pg + i, part) * scale, before = load(pm + i, part);
      const Vec<A> mix = before * b1 + d * a1;
      store(pm + i, before * b2 + d * a2, part);
      Vec<A> w;
      if (pw) w = load(pw + i, part);
      else w = load(pp + i, part);
      const Vec<A> sign = mix > zero ? one : mix < zero ? -one : mix;  // 0 and NaN stay what they are
      w = w - lr * (sign + decay * w);
      if (pw) store(pw + i, w, part);
      store(pp + i, w, part);
    });
  });
}

}  // namespace

void lion(Out p, Out master, View g, Out m, const LionStep& step) {
  if (p.dtype == DType::bf16) lion_as<bf16, float>(p, master, g, m, step);
  else if (p.dtype == DType::f64) lion_as<double, double>(p, master, g, m, step);
  else lion_as<float, float>(p, master, g, m, step);
}

}  // namespace facet::cpu::FACET_TIER

FACET_TIERED(lion)

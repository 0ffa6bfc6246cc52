#include "tensor/kernels/lion.h"

#include "tensor/cpu/simd.h"
#include "tensor/parallel.h"

namespace facet::cpu::FACET_TIER {
namespace {

constexpr int64_t grain = 1 << 15;  // elements per task

// P: the stored parameter, A: everything that is computed.
template <class P, class A>
void lion_as(const Out& p, const Out& master, const View& g, const Out& m, const LionStep& s) {
  if (!(s.grad_scale - s.grad_scale == 0)) return;
  P* pp = p.as<P>();
  A* pm = m.as<A>();
  A* pw = std::is_same_v<P, A> ? nullptr : master.as<A>();
  const A* pg = g.as<A>();
  const auto constant = [](double x) { return broadcast<A>(static_cast<A>(x)); };
  const Vec<A> b1 = constant(s.beta1), b2 = constant(s.beta2), a1 = constant(1 - s.beta1), a2 = constant(1 - s.beta2);
  const Vec<A> scale = constant(s.grad_scale), lr = constant(s.lr), decay = constant(s.weight_decay), zero = constant(0), one = constant(1);
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

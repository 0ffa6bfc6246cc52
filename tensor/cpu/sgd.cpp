#include "tensor/kernels/sgd.h"

#include "tensor/cpu/simd.h"
#include "tensor/parallel.h"

namespace facet::cpu::FACET_TIER {
namespace {

constexpr int64_t grain = 1 << 15;  // elements per task

template <class T>
void sgd_as(const Out& p, const View& g, const Out& trace, const SgdStep& s) {
  const SgdConstants<T> c = constants_of<T>(s);
  if (c.skip) return;
  T* pp = p.as<T>();
  T* pt = trace.as<T>();
  const T* pg = g.as<T>();
  const Vec<T> lr = broadcast<T>(c.lr), momentum = broadcast<T>(c.momentum), scale = broadcast<T>(c.grad_scale);
  parallel_for(p.numel(), grain, 4, [&](int64_t begin, int64_t end) {
    for_row<T>(end - begin, [&](int64_t k, auto part) {
      const int64_t i = begin + k;
      const Vec<T> d = load(pg + i, part) * scale;
      Vec<T> u = d;
      if (pt) {
        u = load(pt + i, part) * momentum + d;
        store(pt + i, u, part);
        if (c.nesterov) u = d + momentum * u;
      }
      store(pp + i, load(pp + i, part) - lr * u, part);
    });
  });
}

}  // namespace

void sgd(Out p, View g, Out trace, const SgdStep& step) {
  if (p.dtype == DType::f64) sgd_as<double>(p, g, trace, step);
  else sgd_as<float>(p, g, trace, step);
}

}  // namespace facet::cpu::FACET_TIER

FACET_TIERED(sgd)

#include "tensor/kernels/sum_to.h"

#include "tensor/cpu/bf16.h"
#include "tensor/parallel.h"

namespace facet::cpu {
namespace {

template <class T>
void run(const View& x, const Out& y) {
  // Split x's dimensions into kept (with y's stride) and summed ones.
  Shape kept, kept_x, kept_y, summed, summed_x;
  for (int i = 0; i < x.shape.rank; ++i) {
    const int j = i - (x.shape.rank - y.shape.rank);
    const bool sum = j < 0 || (y.shape.dim[j] == 1 && x.shape.dim[i] != 1);
    (sum ? summed : kept).push(x.shape.dim[i]);
    (sum ? summed_x : kept_x).push(x.stride.dim[i]);
    if (!sum) kept_y.push(y.stride.dim[j]);
  }
  const int64_t n = kept.numel(), m = summed.numel();
  const int64_t inner = summed.rank ? summed[-1] : 1, inner_stride = summed.rank ? summed_x[-1] : 0;
  const T* px = x.as<T>();
  parallel_for(n, m >= 4096 ? 1 : 4096 / (m + 1) + 1, m, [&](int64_t a, int64_t b) {
    for (int64_t o = a; o < b; ++o) {
      int64_t rest = o, ox = 0, oy = 0;
      for (int i = kept.rank - 1; i >= 0; --i) {
        const int64_t k = rest % kept.dim[i];
        rest /= kept.dim[i];
        ox += k * kept_x.dim[i];
        oy += k * kept_y.dim[i];
      }
      Acc<T> total = 0;
      for (int64_t r = 0; r < m; r += inner) {
        int64_t left = r / (inner ? inner : 1), off = ox;
        for (int i = summed.rank - 2; i >= 0; --i) {
          off += left % summed.dim[i] * summed_x.dim[i];
          left /= summed.dim[i];
        }
        Acc<T> part = 0;  // a sum per innermost run keeps the error of long sums small
        for (int64_t k = 0; k < inner; ++k) part += convert<Acc<T>>(px[off + k * inner_stride]);
        total += part;
      }
      by_float_dtype(y.dtype, [&](auto t) {
        auto* py = y.as<decltype(t)>() + oy;
        if (y.accumulate) total += convert<Acc<T>>(*py);
        *py = convert<decltype(t)>(total);
      });
    }
  });
}

}  // namespace

void sum_to(View x, Out y) {
  by_float_dtype(x.dtype, [&](auto t) { run<decltype(t)>(x, y); });
}

}  // namespace facet::cpu

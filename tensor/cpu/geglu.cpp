#include "tensor/kernels/geglu.h"

#include "tensor/cpu/rows.h"
#include "tensor/cpu/simd.h"
#include "tensor/parallel.h"

namespace facet::cpu::FACET_TIER {
namespace {

template <class T>
void forward(const View& gate, const View& up, const Out& y) {
  const Rows rows(gate), up_rows(up), y_rows(y);
  parallel_for(rows.n, rows.chunk(), 8 * rows.d, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T* const g = gate.as<T>() + rows.at(r);
      const T* const u = up.as<T>() + up_rows.at(r);
      T* const out = y.as<T>() + y_rows.at(r);
      for_row<T>(rows.d, [&](int64_t i, auto part) {
        put(out + i, math::gelu_tanh(load(g + i, part)) * load(u + i, part), part, y.accumulate);
      });
    }
  });
}

template <class T>
void backward(const View& dy, const View& gate, const View& up, const Out& dgate, const Out& dup) {
  const Rows rows(gate), up_rows(up), dy_rows(dy), dgate_rows(dgate ? dgate : gate), dup_rows(dup ? dup : gate);
  parallel_for(rows.n, rows.chunk(), 16 * rows.d, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T* const g = gate.as<T>() + rows.at(r);
      const T* const u = up.as<T>() + up_rows.at(r);
      const T* const d = dy.as<T>() + dy_rows.at(r);
      T* const dg = dgate ? dgate.as<T>() + dgate_rows.at(r) : nullptr;
      T* const du = dup ? dup.as<T>() + dup_rows.at(r) : nullptr;
      for_row<T>(rows.d, [&](int64_t i, auto part) {
        const math::Pair<Vec<T>> gelu = math::gelu_tanh_pair(load(g + i, part));
        const Vec<T> dv = load(d + i, part);
        if (dgate) put(dg + i, dv * load(u + i, part) * gelu.slope, part, dgate.accumulate);
        if (dup) put(du + i, dv * gelu.value, part, dup.accumulate);
      });
    }
  });
}

}  // namespace

void geglu(View gate, View up, Out y) {
  by_float_dtype(y.dtype, [&](auto t) { forward<decltype(t)>(gate, up, y); });
}
void geglu_backward(View dy, View gate, View up, Out dgate, Out dup) {
  by_float_dtype(dy.dtype, [&](auto t) { backward<decltype(t)>(dy, gate, up, dgate, dup); });
}

}  // namespace facet::cpu::FACET_TIER

FACET_TIERED(geglu)
FACET_TIERED(geglu_backward)

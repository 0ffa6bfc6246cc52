// Softmax and its relatives. One pass finds maximum and sum together (Milakov and Gimelshein 2018), a second one writes: x comes from memory
// once and, while a row fits in the caches, the second time from there. Bytes per element: 2 sizes, gradients 3.
#include "tensor/kernels/softmax.h"

#include "tensor/gpu/row_walk.h"

namespace facet::gpu {
namespace {

constexpr float infinity = __builtin_inff();

/// sum exp(x - max), for what has been seen.
struct Running {
  float max = -infinity, sum = 0;
  FACET_INLINE void take(float v) {
    if (v > max) {
      sum = sum * math::exp(max - v) + 1;
      max = v;
    } else if (v == max) {
      sum += v > -infinity ? 1.0f : 0.0f;
    } else {
      sum += math::exp(v - max);  // NaN stays
    }
  }
};

enum class Form : uint8_t { softmax, log_softmax, logsumexp };

template <class T, int group>
__global__ void __launch_bounds__(group_threads) normalise_kernel(Form form, RowWalk<3> w, const T* x, T* y, bool accumulate, float* lse) {
  FACET_SHARED(float, slots, [group_threads / 32]);
  const int64_t row = my_row<group>();
  const bool mine = row < w.rows;
  int64_t at[3];
  w.walk.at(mine ? row : 0, at);
  const T* px = x + at[0];
  const int64_t n = mine ? w.n : 0;
  Running r;
  for (int64_t i = my_thread<group>(); i < n; i += group) r.take(widen(px[i * w.step[0]]));
  const float top = group_max<group>(r.max, slots);
  const float sum = group_sum<group>(r.max == top ? r.sum : r.sum * math::exp(r.max - top), slots);
  // y = exp(x - top) * scale or x - total; what is not finite in a row makes all of it NaN.
  const float total = (top > -infinity ? top : 0.0f) + math::log(sum);
  const float shift = form == Form::softmax ? top : total - total == 0 ? total : __builtin_nanf(""), scale = top < infinity ? 1 / sum : __builtin_nanf("");
  for (int64_t i = my_thread<group>(); y && i < n; i += group) {
    const float d = widen(px[i * w.step[0]]) - shift;
    put(y + at[1] + i * w.step[1], form == Form::softmax ? math::exp(d) * scale : d, accumulate);
  }
  if (form != Form::softmax && mine && my_thread<group>() == 0) lse[at[2]] = form == Form::log_softmax ? shift : total;
}

template <class T, int group>
__global__ void __launch_bounds__(group_threads) slope_kernel(Form form, RowWalk<4> w, const T* dy, const T* v, const float* lse, T* dx, bool accumulate) {
  FACET_SHARED(float, slots, [group_threads / 32]);
  const int64_t row = my_row<group>();
  const bool mine = row < w.rows;
  int64_t at[4];
  w.walk.at(mine ? row : 0, at);
  const T *pdy = dy + at[1], *pv = v + at[0];
  const int64_t n = mine ? w.n : 0;
  float sum = 0;
  if (form == Form::softmax) {
    for (int64_t i = my_thread<group>(); i < n; i += group) sum += widen(pdy[i * w.step[1]]) * widen(pv[i * w.step[0]]);
  } else if (form == Form::log_softmax) {
    for (int64_t i = my_thread<group>(); i < n; i += group) sum += widen(pdy[i * w.step[1]]);
  }
  sum = form == Form::logsumexp ? widen(*pdy) : group_sum<group>(sum, slots);
  const float total = lse ? lse[at[2]] : 0.0f;
  for (int64_t i = my_thread<group>(); i < n; i += group) {
    const float e = widen(pv[i * w.step[0]]);
    float d;
    if (form == Form::softmax) d = e * (widen(pdy[i * w.step[1]]) - sum);
    else if (form == Form::log_softmax) d = widen(pdy[i * w.step[1]]) - math::exp(e - total) * sum;
    else d = sum * math::exp(e - total);
    put(dx + at[3] + i * w.step[3], d, accumulate);
  }
}

void normalise(const char* op, Form form, const View& x, const Out& y, const Out& lse) {
  const RowWalk<3> w({&x, &y, &lse});
  if (w.rows == 0 || w.n == 0) return;
  const auto run = [&](auto t) {
    using T = decltype(t);
    launch_rows(op, normalise_kernel<T, 32>, normalise_kernel<T, group_threads>, w.rows, w.n, form, w, x.as<T>(), y.as<T>(), y.accumulate, lse.as<float>());
  };
  if (x.dtype == DType::bf16) run(bf16{});
  else run(float{});
}

void slopes(const char* op, Form form, const View& dy, const View& v, const View& lse, const Out& dx) {
  if (!dx) return;
  const RowWalk<4> w({&v, &dy, &lse, &dx});
  if (w.rows == 0 || w.n == 0) return;
  const auto run = [&](auto t) {
    using T = decltype(t);
    launch_rows(op, slope_kernel<T, 32>, slope_kernel<T, group_threads>, w.rows, w.n, form, w, dy.as<T>(), v.as<T>(), lse.as<float>(), dx.as<T>(),
                dx.accumulate);
  };
  if (v.dtype == DType::bf16) run(bf16{});
  else run(float{});
}

}  // namespace

void softmax(View x, Out y) { normalise("softmax", Form::softmax, x, y, {}); }
void softmax_grad(View dy, View y, Out dx) { slopes("softmax_grad", Form::softmax, dy, y, {}, dx); }
void log_softmax(View x, Out y, Out lse) { normalise("log_softmax", Form::log_softmax, x, y, lse); }
void log_softmax_grad(View dy, View x, View lse, Out dx) { slopes("log_softmax_grad", Form::log_softmax, dy, x, lse, dx); }
void logsumexp(View x, Out lse) { normalise("logsumexp", Form::logsumexp, x, {}, lse); }
void logsumexp_grad(View dy, View x, View lse, Out dx) { slopes("logsumexp_grad", Form::logsumexp, dy, x, lse, dx); }

}  // namespace facet::gpu

#include "tensor/cpu/map.h"

#include <algorithm>
#include <cstring>

#include "tensor/cpu/strides.h"
#include "tensor/parallel.h"
#include "tensor/profile.h"

namespace facet::cpu {
namespace {

constexpr int64_t block = 512;       // elements gathered at a time: all buffers stay in the first-level cache
constexpr int64_t long_row = 256;    // from here a block stops at the end of a row, so that unit strides need no copy
constexpr int64_t chunk = 16384;

template <class T>
void copy_strided(const char* from, int64_t from_stride, char* to, int64_t to_stride, int64_t n) {
  const T* a = reinterpret_cast<const T*>(from);
  T* b = reinterpret_cast<T*>(to);
  for (int64_t i = 0; i < n; ++i) b[i * to_stride] = a[i * from_stride];
}
void copy_run(int64_t size, const char* from, int64_t from_stride, char* to, int64_t to_stride, int64_t n) {
  if (from_stride == 1 && to_stride == 1) std::memcpy(to, from, static_cast<size_t>(n * size));
  else if (size == 8) copy_strided<uint64_t>(from, from_stride, to, to_stride, n);
  else if (size == 4) copy_strided<uint32_t>(from, from_stride, to, to_stride, n);
  else copy_strided<uint16_t>(from, from_stride, to, to_stride, n);
}

// One operand or the destination, over the common coalesced shape.
struct Window {
  char* base;
  int64_t size;  ///< bytes of an element
  Shape shape, stride;
  bool dense;

  // Calls f(pointer, stride, count) for the runs of elements [start, start + count).
  template <class F>
  void runs(int64_t start, int64_t count, F f) const {
    const int64_t n = shape[-1], step = stride[-1];
    while (count > 0) {
      const int64_t column = start % n, run = std::min(count, n - column);
      f(base + offset_of(start, shape, stride) * size, step, run);
      start += run;
      count -= run;
    }
  }
  // The elements where they are, if they are neighbours there; else null.
  char* direct(int64_t start, int64_t count) const {
    if (dense) return base + start * size;
    if (stride[-1] == 1 && start % shape[-1] + count <= shape[-1]) return base + offset_of(start, shape, stride) * size;
    return nullptr;
  }
  // The elements as neighbours: where they are, or copied to the buffer.
  char* fetch(int64_t start, int64_t count, char* buffer) const {
    if (char* p = direct(start, count)) return p;
    char* to = buffer;
    runs(start, count, [&](const char* p, int64_t step, int64_t run) {
      copy_run(size, p, step, to, 1, run);
      to += run * size;
    });
    return buffer;
  }
  void put_back(int64_t start, int64_t count, const char* buffer) const {
    runs(start, count, [&](char* p, int64_t step, int64_t run) {
      copy_run(size, buffer, 1, p, step, run);
      buffer += run * size;
    });
  }
};

}  // namespace

void map(RowFn f, std::initializer_list<View> x, double s, Out y, int64_t cost) {
  const KernelScope scope("elementwise");
  const int64_t n = y.numel();
  if (n == 0 || !y) return;
  const int inputs = static_cast<int>(x.size());
  Shape shape = y.shape, stride[4] = {y.stride, y.stride, y.stride, y.stride};
  for (int k = 0; k < inputs; ++k) stride[k] = broadcast_strides(x.begin()[k], shape);
  coalesce(shape, stride);
  Window w[4];
  bool all_dense = true;
  for (int k = 0; k <= inputs; ++k) {
    const View& v = k < inputs ? x.begin()[k] : static_cast<const View&>(y);
    const Shape& st = stride[k < inputs ? k : 3];
    w[k] = {static_cast<char*>(const_cast<void*>(v.data)), size_of(v.dtype), shape, st, is_dense(shape, st)};
    all_dense &= w[k].dense;
  }
  const Window& to = w[inputs];
  parallel_for(n, chunk, cost, [&](int64_t a, int64_t b) {
    alignas(64) char buffer[4][block * 8];
    for (int64_t i = a; i < b;) {
      int64_t count = all_dense ? b - i : std::min(block, b - i);
      if (!all_dense && shape[-1] >= long_row) count = std::min(count, shape[-1] - i % shape[-1]);
      const void* operand[3] = {};
      for (int k = 0; k < inputs; ++k) operand[k] = w[k].fetch(i, count, buffer[k]);
      char* direct = to.direct(i, count);
      if (!direct && y.accumulate) to.fetch(i, count, buffer[3]);
      f(count, operand, s, direct ? direct : buffer[3], y.accumulate);
      if (!direct) to.put_back(i, count, buffer[3]);
      i += count;
    }
  });
}

void unary(Unary op, View x, double s, Out y) { map(unary_row(op, x.dtype), {x}, s, y, op <= Unary::mul ? 1 : 4); }
void unary_grad(Unary op, View dy, View saved, double s, Out dx) { map(unary_grad_row(op, dy.dtype), {dy, saved}, s, dx, 4); }
void binary(Binary op, View a, View b, Out y) { map(binary_row(op, a.dtype), {a, b}, 0, y); }
void binary_grad(Binary op, int which, View dy, View a, View b, Out dx) {
  map(binary_grad_row(op, which, dy.dtype), {dy, a ? a : dy, b ? b : dy}, 0, dx);
}
void compare(Compare op, View a, View b, Out y) { map(compare_row(op, a.dtype), {a, b}, 0, y); }
void where(View condition, View a, View b, Out y) { map(where_row(a.dtype), {condition, a, b}, 0, y); }

}  // namespace facet::cpu

// How kernels find their way in strided windows: the host merges dimensions, orders them by the destination's memory and prepares the
// divisions; a thread then turns the number of its element into one offset per window.
#pragma once
#include "tensor/cpu/strides.h"
#include "tensor/gpu/device.h"

namespace facet::gpu {

/// n / d for a fixed d as one multiplication and a shift (Granlund and Montgomery 1994), for n below 2^31.
struct Divider {
  int64_t d = 1;
  uint32_t multiplier = 0, shift = 0;  ///< shift 32: d is too large for this, or the numbers are

  Divider() = default;
  explicit Divider(int64_t divisor) : d(divisor) {
    while (shift < 32 && (int64_t{1} << shift) < d) ++shift;
    if (shift < 32) multiplier = static_cast<uint32_t>(((uint64_t{1} << 32) * ((uint64_t{1} << shift) - static_cast<uint64_t>(d))) / static_cast<uint64_t>(d) + 1);
  }
  FACET_INLINE int64_t operator()(int64_t n) const {
    if (n >> 31 || shift == 32) return n / d;
    const auto x = static_cast<uint32_t>(n);
    return (static_cast<uint32_t>(static_cast<uint64_t>(x) * multiplier >> 32) + x) >> shift;
  }
};

/// Offsets of `windows` windows over a common shape. The destination is the last of them.
template <int windows>
struct Walk {
  int rank = 0;
  Divider size[max_rank];
  int64_t stride[windows][max_rank];

  FACET_INLINE void at(int64_t number, int64_t (&offset)[windows]) const {
    for (int w = 0; w < windows; ++w) offset[w] = 0;
    for (int i = rank - 1; i > 0; --i) {
      const int64_t rest = size[i](number), index = number - rest * size[i].d;
      for (int w = 0; w < windows; ++w) offset[w] += index * stride[w][i];
      number = rest;
    }
    for (int w = 0; w < windows; ++w) offset[w] += number * stride[w][0];
  }
};

/// The walk over packs of n elements of the inner dimension of a shape, whose windows have these strides; the last pack may be short.
template <int windows>
Walk<windows> make_walk(const Shape& shape, const Shape (&stride)[windows], int64_t n = 1) {
  Walk<windows> r;
  r.rank = shape.rank;
  for (int i = 0; i < shape.rank; ++i) {
    const bool last = i + 1 == shape.rank;
    r.size[i] = Divider(last ? (shape.dim[i] + n - 1) / n : shape.dim[i]);
    for (int w = 0; w < windows; ++w) r.stride[w][i] = stride[w].dim[i] * (last ? n : 1);
  }
  return r;
}

/// Shape and strides of the windows of one launch, merged as far as all of them allow.
template <int windows>
struct Geometry {
  Shape shape, stride[windows];
  int64_t count;  ///< elements

  Geometry(const View* const (&v)[windows]) : shape(v[windows - 1]->shape), count(shape.numel()) {
    for (int w = 0; w < windows; ++w) stride[w] = cpu::broadcast_strides(*v[w], shape);
    if (count == 0) return;
    cpu::coalesce(shape, stride);
    sort();
    cpu::coalesce(shape, stride);
  }

  int64_t inner() const { return shape[-1]; }
  /// Windows whose inner step is 1, or 0 for an operand, may be read in packs of n elements when everything begins at a multiple of n.
  bool packs(int w, int64_t n, const void* data, int64_t element) const {
    const Shape& s = stride[w];
    if (s[-1] == 0) return w != windows - 1;
    if (s[-1] != 1 || reinterpret_cast<uintptr_t>(data) % static_cast<size_t>(n * element) != 0) return false;
    if (shape.rank > 1 && inner() % n != 0) return false;
    for (int i = 0; i + 1 < s.rank; ++i)
      if (s.dim[i] % n != 0) return false;
    return true;
  }
  /// Packs may go across rows of one run only: there the last one may be short.
  Walk<windows> walk(int64_t n) const { return make_walk(shape, stride, n); }

 private:
  // The destination's smallest steps innermost: neighbouring threads then write neighbouring elements.
  void sort() {
    for (int i = 1; i < shape.rank; ++i)
      for (int j = i; j > 0 && stride[windows - 1].dim[j] > stride[windows - 1].dim[j - 1]; --j) {
        swap(shape, j);
        for (Shape& s : stride) swap(s, j);
      }
  }
  static void swap(Shape& s, int j) {
    const int64_t t = s.dim[j];
    s.dim[j] = s.dim[j - 1], s.dim[j - 1] = t;
  }
};

}  // namespace facet::gpu

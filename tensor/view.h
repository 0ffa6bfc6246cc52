// What a kernel sees: plain data, no ownership. This header is also compiled for instruction sets the running machine may
// not have and by nvcc, so it holds no function that could be emitted out of line (the linker would keep one copy for all).
#pragma once
#include <cstddef>
#include <cstdint>
#include <initializer_list>

#ifdef __CUDACC__
#define FACET_INLINE __host__ __device__ __forceinline__
#else
#define FACET_INLINE __attribute__((always_inline)) inline
#endif

namespace facet {

/// bf16 is the upper half of an f32, rounded to nearest even.
struct bf16 {
  uint16_t bits;
};

enum class DType : uint8_t { f32, bf16, f64, i32 };
enum class Device : uint8_t { cpu, gpu };

FACET_INLINE constexpr int64_t size_of(DType t) { return t == DType::f64 ? 8 : t == DType::bf16 ? 2 : 4; }
/// What kernels compute in and what gradients of parameters are kept in.
FACET_INLINE constexpr DType acc_dtype(DType t) { return t == DType::f64 ? DType::f64 : DType::f32; }

inline constexpr int max_rank = 8;

/// Up to eight sizes or strides (in elements). Negative indices count from the end.
struct Shape {
  int64_t dim[max_rank] = {};
  int rank = 0;

  FACET_INLINE constexpr Shape() {}
  FACET_INLINE constexpr Shape(std::initializer_list<int64_t> list) {
    for (int64_t d : list) dim[rank++] = d;
  }
  FACET_INLINE constexpr int64_t operator[](int i) const { return dim[i < 0 ? rank + i : i]; }
  FACET_INLINE constexpr int64_t& operator[](int i) { return dim[i < 0 ? rank + i : i]; }
  FACET_INLINE constexpr void push(int64_t d) { dim[rank++] = d; }
  FACET_INLINE constexpr int64_t numel() const {
    int64_t n = 1;
    for (int i = 0; i < rank; ++i) n *= dim[i];
    return n;
  }
  /// Product of all sizes but the last: the rows of a [.., D] tensor.
  FACET_INLINE constexpr int64_t rows() const {
    int64_t n = 1;
    for (int i = 0; i + 1 < rank; ++i) n *= dim[i];
    return n;
  }
  FACET_INLINE constexpr bool operator==(const Shape& o) const {
    if (rank != o.rank) return false;
    for (int i = 0; i < rank; ++i)
      if (dim[i] != o.dim[i]) return false;
    return true;
  }
  FACET_INLINE constexpr const int64_t* begin() const { return dim; }
  FACET_INLINE constexpr const int64_t* end() const { return dim + rank; }
};

/// Row-major strides of a dense tensor of this shape.
FACET_INLINE constexpr Shape dense_strides(const Shape& s) {
  Shape r;
  r.rank = s.rank;
  int64_t step = 1;
  for (int i = s.rank - 1; i >= 0; --i) {
    r.dim[i] = step;
    step *= s.dim[i];
  }
  return r;
}

FACET_INLINE constexpr bool is_dense(const Shape& s, const Shape& stride) {
  int64_t step = 1;
  for (int i = s.rank - 1; i >= 0; --i) {
    if (s.dim[i] != 1 && stride.dim[i] != step) return false;
    step *= s.dim[i];
  }
  return true;
}

/// Read-only window on memory; strides count elements. Null data means "absent".
struct View {
  const void* data = nullptr;
  DType dtype = DType::f32;
  Device device = Device::cpu;
  Shape shape, stride;

  FACET_INLINE explicit operator bool() const { return data != nullptr; }
  template <class T>
  FACET_INLINE const T* as() const {
    return static_cast<const T*>(data);
  }
  FACET_INLINE bool contiguous() const { return is_dense(shape, stride); }
  FACET_INLINE int64_t numel() const { return shape.numel(); }
};

/// A destination: "=" or, with accumulate, "+=". Only Tensor::out() and gradient sinks make one.
/// A destination never aliases an input unless the kernel's header says `may_alias`.
struct Out : View {
  bool accumulate = false;

  template <class T>
  FACET_INLINE T* as() const {
    return static_cast<T*>(const_cast<void*>(data));
  }
};

}  // namespace facet

// A matrix product as plain numbers: what the doors of tensor/kernels/gemm.h become before one of the bodies takes it.
//
//   c[z] (+)= alpha * sum over s of a[z, s] b[z, s]        z runs over `kept`, s over `summed`; one rounding, after everything
//
// The matrices are given by two strides each, the loops over leading dimensions by sizes and strides, all in elements. Loops that are
// really longer rows, columns or sums were merged into them.
#pragma once
#include "tensor/view.h"

namespace facet::gpu {

struct Loops {
  Shape count, a, b, c;

  /// Adds a loop inside the others; merges it with its neighbour when all three walk them as one.
  void push(int64_t n, int64_t step_a, int64_t step_b, int64_t step_c);

  struct Offsets {
    int64_t a = 0, b = 0, c = 0;
  };
  FACET_INLINE Offsets at(int64_t index) const {
    Offsets o;
    for (int i = count.rank - 1; i >= 0; --i) {
      const int64_t j = index % count.dim[i];
      index /= count.dim[i];
      o.a += j * a.dim[i], o.b += j * b.dim[i], o.c += j * c.dim[i];
    }
    return o;
  }
};

struct Factor {
  const void* data = nullptr;
  DType dtype = DType::f32;
  int64_t row = 0, column = 0;  ///< strides

  FACET_INLINE const void* at(int64_t element) const { return static_cast<const char*>(data) + element * size_of(dtype); }
};

struct Product {
  int64_t m = 0, n = 0, p = 0;
  Factor a, b, c;  ///< a [m, p], b [p, n], c [m, n]
  float alpha = 1;
  bool accumulate = false;
  Loops kept, summed;

  bool empty() const { return m == 0 || n == 0 || kept.count.numel() == 0; }
  bool zero() const { return p == 0 || summed.count.numel() == 0; }  ///< a sum of nothing
};

/// [.., M, P] x [.., P, N] -> [.., M, N] with leading dimensions that broadcast. Throws Error(Kind::usage) naming `op`.
Product product_of(const char* op, const View& a, const View& b, const Out& c, double alpha);
/// c^T = b^T a^T: the same product.
Product transposed(const Product&);

}  // namespace facet::gpu

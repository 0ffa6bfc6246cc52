// What cublasLtMatmul computes, slowly: d = alpha op(a) op(b) + beta c, from what was read out of its descriptors.
#pragma once
#include <cstddef>
#include <cstdint>

#include "tensor/view.h"

namespace facet::gpu::emulator {

struct LtWindow {
  const void* data = nullptr;
  DType dtype = DType::f32;
  int64_t rows = 0, columns = 0, ld = 0;
  bool row_major = false;
  int64_t batch = 1, batch_step = 0;

  int64_t at(int64_t row, int64_t column, int64_t z) const { return z * batch_step + (row_major ? row * ld + column : row + column * ld); }
  int64_t extent() const {
    return rows && columns ? (batch - 1) * batch_step + at(rows - 1, columns - 1, 0) + 1 : 0;
  }
};
struct LtProduct {
  LtWindow a, b, c, d;
  bool transposed_a = false, transposed_b = false;
  float alpha = 1, beta = 0;
  int parts = 1;  ///< P is cut into so many, summed in f32
  void* workspace = nullptr;
  size_t workspace_bytes = 0;
};
/// The algorithms of the stand-in: one sum, two sums put together in f32, three added up in c, four in the dtype of c; and twenty that are the
/// first under other numbers, since the library has dozens.
enum LtAlgorithm { lt_whole, lt_apart, lt_in_place, lt_rounded, lt_alike, lt_algorithms = lt_alike + 20 };
/// Those that ran, as bits; tests set it to zero.
unsigned& lt_used();

/// In its turn on the emulated device.
void enqueue_product(const LtProduct&);

}  // namespace facet::gpu::emulator

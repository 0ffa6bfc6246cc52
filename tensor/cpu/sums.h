// The inner loops of sum_to, compiled in tiers. `total` and `acc` are of x's accumulation type.
#pragma once
#include "tensor/cpu/tier.h"

namespace facet::cpu {

/// *total += x[0] + x[stride] + ... (n of them).
extern const Kernel<void(DType, const void* x, int64_t stride, int64_t n, void* total)> sum_run;
/// acc[c] += x[r * row_stride + c * stride] summed over r < rows, for c < n.
extern const Kernel<void(DType, const void* x, int64_t row_stride, int64_t rows, int64_t stride, int64_t n, void* acc)> sum_columns;

}  // namespace facet::cpu

#include "tensor/kernels/ring_write.h"

#include <cstring>

#include "tensor/cpu/bf16.h"
#include "tensor/profile.h"

namespace facet::cpu {

void ring_write(View rows, View positions, Out ring, Out slots) {
  const KernelScope scope("ring_write");
  const int64_t batch = rows.shape.dim[0], steps = rows.shape.dim[1], length = ring.shape.dim[1];
  int64_t n = 1;
  for (int i = 2; i < rows.shape.rank; ++i) n *= rows.shape.dim[i];
  by_float_dtype(rows.dtype, [&](auto from) {
    by_float_dtype(ring.dtype, [&](auto to) {
      using X = decltype(from);
      using Y = decltype(to);
      for (int64_t b = 0; b < batch; ++b) {
        for (int64_t t = 0; t < steps; ++t) {
          const int32_t p = positions.as<int32_t>()[b * positions.stride.dim[0] + t * positions.stride.dim[1]];
          if (p < 0) continue;
          const int64_t slot = p % length;
          const X* x = rows.as<X>() + b * rows.stride.dim[0] + t * rows.stride.dim[1];
          Y* y = ring.as<Y>() + b * ring.stride.dim[0] + slot * ring.stride.dim[1];
          if constexpr (std::is_same_v<X, Y>) std::memcpy(y, x, static_cast<size_t>(n) * sizeof(X));
          else
            for (int64_t i = 0; i < n; ++i) y[i] = convert<Y>(x[i]);
          if (slots) slots.as<int32_t>()[b * slots.stride.dim[0] + slot * slots.stride.dim[1]] = p;
        }
      }
    });
  });
}

}  // namespace facet::cpu

#include "tensor/kernels/adapter_gradients.h"

#include "tensor/kernels/gemm.h"

namespace facet::gpu {

void adapter_gradients(View dy, View b, View t, double scale, Out dt, Out db) {
  if (dt) gpu::gemm(dy, b, dt, scale);
  if (db) gpu::gemm(facet::transposed(dy), t, db, 1);
}

}  // namespace facet::gpu

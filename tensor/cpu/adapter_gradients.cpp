// On the CPU a product is bound by arithmetic, not by reading dy: two of them.
#include "tensor/kernels/adapter_gradients.h"

#include "tensor/kernels/gemm.h"

namespace facet::cpu {

void adapter_gradients(View dy, View b, View t, double scale, Out dt, Out db) {
  if (dt) cpu::gemm(dy, b, dt, scale);
  if (db) cpu::gemm(transposed(dy), t, db);
}

}  // namespace facet::cpu

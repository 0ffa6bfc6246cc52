#include "tensor/gpu/emulator/lt_product.h"

#include <algorithm>
#include <cstring>

#include "tensor/gpu/device.h"

namespace facet::gpu::emulator {
namespace {

float load(const LtWindow& w, int64_t i) {
  return w.dtype == DType::bf16 ? widen(static_cast<const bf16*>(w.data)[i]) : static_cast<const float*>(w.data)[i];
}
void store(const LtWindow& w, int64_t i, float x) {
  void* data = const_cast<void*>(w.data);
  if (w.dtype == DType::bf16) static_cast<bf16*>(data)[i] = narrow<bf16>(x);
  else static_cast<float*>(data)[i] = x;
}

void compute(const LtProduct& g) {
  // Something a library may do with its workspace, so that one that is not the caller's is noticed.
  if (g.workspace_bytes) std::memset(g.workspace, 0xff, g.workspace_bytes);
  const int64_t p = g.transposed_a ? g.a.rows : g.a.columns, part = (p + g.parts - 1) / g.parts;
  for (int64_t z = 0; z < g.d.batch; ++z)
    for (int64_t j = 0; j < g.d.columns; ++j)
      for (int64_t i = 0; i < g.d.rows; ++i) {
        float total = 0;
        for (int64_t from = 0; from < p; from += part) {
          float sum = 0;
          for (int64_t k = from; k < std::min(p, from + part); ++k)
            sum += load(g.a, g.transposed_a ? g.a.at(k, i, z) : g.a.at(i, k, z)) * load(g.b, g.transposed_b ? g.b.at(j, k, z) : g.b.at(k, j, z));
          total += sum;
        }
        total *= g.alpha;
        if (g.beta != 0) total += g.beta * load(g.c, g.c.at(i, j, z));
        store(g.d, g.d.at(i, j, z), total);
      }
}

}  // namespace

void enqueue_product(const LtProduct& g) {
  enqueue("cublasLtMatmul", false, dim3(1), dim3(1), 0, [g] { compute(g); });
}

}  // namespace facet::gpu::emulator

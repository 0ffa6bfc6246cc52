// On the CPU starting a kernel costs nothing: the products wait in scratch.
#include "tensor/kernels/linear_geglu.h"

#include "tensor/kernels/geglu.h"
#include "tensor/kernels/gemm.h"
#include "tensor/scratch.h"

namespace facet::cpu {

void linear_geglu(View x, View w_gate, View w_up, Out y) {
  const size_t bytes = static_cast<size_t>(y.numel() * size_of(y.dtype));
  const Scratch gate_space(bytes), up_space(bytes);
  Out gate = y, up = y;
  gate.data = gate_space.as<void>(), up.data = up_space.as<void>();
  const View weights[] = {w_gate, w_up};
  const Out products[] = {gate, up};
  cpu::linear(x, weights, products);
  cpu::geglu(gate, up, y);
}

}  // namespace facet::cpu

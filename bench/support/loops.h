// What a machine can do at most, as loops written for every instruction set the kernels are (tensor/cpu/tier.h), so that a share
// of them means the same on any machine.
#pragma once
#include "tensor/cpu/tier.h"

namespace facet::cpu {

/// Runs independent fused multiply-adds in registers; returns the FLOPs, some hundred a round.
extern const Kernel<double(int64_t rounds)> fma_loop;
/// Sums n floats; returns the bytes read.
extern const Kernel<double(const float* x, int64_t n)> read_loop;

}  // namespace facet::cpu

// The driver of the f32 products: how a product is cut into tasks, and who packs what. See gemm_tiles.h for the terms.
#pragma once
#include <span>

#include "tensor/cpu/gemm_tiles.h"

namespace facet::cpu {

/// One b that multiplies the common a.
struct GemmGroup {
  GemmOperand b;
  float* c;
  int64_t c_step;
  bool accumulate;
};

/// c (+)= alpha * a b for every group. Widths of the operands are set here.
void gemm_packed(GemmOperand a, int64_t k, std::span<const GemmGroup> groups, float alpha);

}  // namespace facet::cpu

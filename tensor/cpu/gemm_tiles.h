// Between the driver of the products (gemm_packed.cpp) and their inner loops (gemm_tiles.cpp, one body per instruction set).
// Both operands are seen alike: "lines" (rows of a, columns of b) along the common dimension k.
//
// A panel is a few lines stored side by side: element (line l, step k) at [k * width + l], zeros where lines are missing. The
// micro-kernel multiplies one panel of a with one of b and holds their whole product in registers.
#pragma once
#include "tensor/cpu/tier.h"

namespace facet::cpu {

/// A matrix as lines along k, f32 or bf16.
struct GemmOperand {
  const void* data = nullptr;
  DType dtype = DType::f32;
  int64_t lines = 0, line_step = 0, k_step = 0;  ///< steps in elements
  int64_t width = 0;                             ///< lines in a panel

  FACET_INLINE int64_t panels() const { return (lines + width - 1) / width; }
};

/// How a task reads an operand.
enum class GemmRead : uint8_t {
  panels,  ///< packed beforehand, shared by all tasks
  pack,    ///< the task packs its own lines, block by block
  direct,  ///< where it lies: f32, and for b unit line_step
};

/// Columns [n0, n1) of one b and its c.
struct GemmPart {
  GemmOperand b;
  GemmRead read;
  const float* panels;  ///< of GemmRead::panels: for each block of k in [k0, k1) all panels of b
  int64_t n0, n1;
  float* c;  ///< f32, unit column stride
  int64_t c_step;
  bool accumulate;  ///< for the block at k0; later ones always add
};

/// Rows [m0, m1) of a times some columns, over a range of k. Begins are multiples of the panel widths, k0 of kc. Either a or the
/// only part's b may be GemmRead::pack.
struct GemmTask {
  GemmOperand a;
  GemmRead read;
  const float* panels;  ///< as in GemmPart
  int64_t m0, m1, k0, k1, kc;
  float alpha;
  const GemmPart* parts;
  int part_count;
};

struct GemmTile {
  int rows, columns;            ///< of the micro-kernel's product: the widths of panels
  int few_rows, wide_columns;   ///< the same when a has no more than few_rows
};
inline constexpr int64_t gemm_kc_limit = 256;      ///< steps of k between two visits of c: a panel of b stays in the first cache
inline constexpr int64_t gemm_task_floats = 32768; ///< a task's own packing buffer, on its stack

extern const Kernel<GemmTile()> gemm_tile;
extern const Kernel<void(const GemmTask&)> gemm_task;
/// Packs panels [p0, p1) for k in [k0, k1) to `to`, panel after panel.
extern const Kernel<void(const GemmOperand&, int64_t p0, int64_t p1, int64_t k0, int64_t k1, float* to)> gemm_pack;

}  // namespace facet::cpu

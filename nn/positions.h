// Positions as vectors that are added to what tokens say: waves of fixed lengths, or rows that are learned. Gemma does neither, it turns
// queries and keys (tensor/rope_table.h); lesson 03 compares the three.
#pragma once
#include "nn/module.h"

namespace facet {

/// Vaswani et al. 2017, section 3.5: entry 2i of row p is sin(p / base^(2i/D)), entry 2i + 1 the cosine of the same angle. [positions, D],
/// D even; angles in f64, rounded once.
Tensor sinusoidal_positions(int64_t positions, int64_t width, double base = 10'000, DType dtype = DType::f32);

/// A learned row for each position (GPT-2's wpe). x [B, T, D] and positions i32 [B, T] on the CPU -> x + row of its position, [B, T, D].
/// A position without a row throws Error(Kind::usage); a negative one is padding and reads the first row, which nobody looks at.
struct LearnedPositions final : Module {
  Parameter weight;  ///< [positions, D]
  LearnedPositions(int64_t positions, int64_t width, DType dtype = DType::f32);
  Tensor operator()(const Tensor& x, const Tensor& positions) const;
  void visit(Visitor& v) override { v("weight", weight); }
  std::string describe() const override;
};

}  // namespace facet

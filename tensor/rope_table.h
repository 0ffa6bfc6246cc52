// Rotary positions (Su et al. 2021): cos and sin of position / base^(2i/Dh) / factor for i < Dh/2, computed in f64 and rounded once
// to f32 (f64 is kept for f64 models). Products of f32 frequencies, as some libraries form them, are off by 1e-4 at position 1000.
#pragma once
#include <cstdint>
#include <memory>
#include <span>

#include "tensor/rope_rows.h"

namespace facet {

/// A handle; copies share one table. Pages of 512 positions are computed when a position in them is first asked for, and stay
/// where they are, so rows() of one thread remain valid while another thread extends the table.
class RopeTable {
 public:
  /// head_dim even; factor divides positions (8 on the global layers of Gemma 3 4B and larger). Throws Error(Kind::usage).
  RopeTable(int64_t head_dim, double base, double factor = 1);
  int64_t head_dim() const;
  double base() const;
  double factor() const;
  static constexpr int64_t max_positions = int64_t{1} << 22;

  /// Rows that hold every given position; negative ones count as 0. `dtype`: f32 or f64. Throws for positions beyond
  /// max_positions, naming the first.
  RopeRows rows(std::span<const int32_t> positions, DType dtype) const;

  /// Makes rows for positions 0 ... positions - 1 on the GPU, in f32; twice as many as there were when they do not suffice. Whoever
  /// uploads positions says how far they reach: nobody reads them back. A table that was outgrown stays where it is, for captured graphs.
  void reserve(int64_t positions) const;
  /// Those rows; positions beyond them come out as NaN.
  RopeRows gpu_rows() const;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace facet

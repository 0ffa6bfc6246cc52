// Gradient clipping by the global norm (Pascanu et al., arXiv 1211.5063).
#pragma once
#include <cmath>
#include <span>

#include "autograd/parameter.h"

namespace facet {

struct Clip {
  double norm = 0;   ///< before clipping; NaN or infinite when some gradient is
  double scale = 1;  ///< min(1, max_norm / norm), for Optimizer::step; 1 when the norm is not finite
  bool finite() const { return std::isfinite(norm); }
  bool clipped() const { return scale < 1; }
};

/// The norm over all gradients of the list taken as one vector; parameters without a gradient count as 0. Sums run in the
/// list's order over fixed blocks, added in f64: the same bits on any number of threads. max_norm <= 0: no clipping. The
/// gradients themselves are not touched: the factor is applied as the optimizer reads them. A norm that is not finite is for
/// the caller to act on (skip the step).
Clip clip_global_norm(std::span<Parameter* const> parameters, double max_norm);

// Its three parts: an optimizer replays the second.
/// f64 [blocks]: room for sums over blocks of the gradients there are, on their device.
Tensor room_for_squares(std::span<Parameter* const> parameters);
void sum_squares(std::span<Parameter* const> parameters, const Tensor& sums);
/// Waits for the sums.
Clip clip_of_squares(const Tensor& sums, double max_norm);

}  // namespace facet

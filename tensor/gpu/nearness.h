// How near two results of one problem are, computed by a library and by own kernels.
#pragma once
#include "tensor/view.h"

namespace facet {
class Tensor;
}

namespace facet::gpu {

/// How far a result is from another of the same shape: sum (a - b)^2 / sum b^2, and the largest |a - b| over the root mean square of its row, or of
/// all rows where that is more. What is not finite is infinitely far, unless both have it.
struct Nearness {
  double nmse = 0, of_row = 0;
  bool within(const Nearness& limit) const { return nmse <= limit.nmse && of_row <= limit.of_row; }
};
/// Of tensors of the host, f32.
Nearness nearness(const Tensor& a, const Tensor& b);

/// The values of a device window on the host, in f32. Waits.
Tensor fetch_f32(const View&);

}  // namespace facet::gpu

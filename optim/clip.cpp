#include "optim/clip.h"

#include "tensor/kernels/adamw.h"

namespace facet {

Clip clip_global_norm(std::span<Parameter* const> parameters, double max_norm) {
  double total = 0;
  for (Parameter* p : parameters) {
    const Tensor g = p->grad();
    if (!g || g.numel() == 0) continue;
    const Tensor sums = Tensor::empty({(g.numel() + squares_block - 1) / squares_block}, DType::f64, g.device());
    sum_of_squares(g.dense().view(), sums.out());
    for (double s : sums.to(Device::cpu).data<double>()) total += s;
  }
  Clip clip;
  clip.norm = std::sqrt(total);
  if (clip.finite() && max_norm > 0 && clip.norm > max_norm) clip.scale = max_norm / clip.norm;
  return clip;
}

}  // namespace facet

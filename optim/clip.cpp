#include "optim/clip.h"

#include "tensor/gpu/waits.h"
#include "tensor/kernels/adamw.h"

namespace facet {

namespace {
int64_t blocks_of(const Tensor& g) { return (g.numel() + squares_block - 1) / squares_block; }
}  // namespace

Tensor room_for_squares(std::span<Parameter* const> parameters) {
  int64_t blocks = 0;
  Device device = Device::cpu;
  for (Parameter* p : parameters)
    if (const Tensor g = p->grad()) blocks += blocks_of(g), device = g.device();
  return Tensor::empty({blocks}, DType::f64, device);
}

void sum_squares(std::span<Parameter* const> parameters, const Tensor& sums) {
  int64_t begin = 0;
  for (Parameter* p : parameters) {
    const Tensor g = p->grad();
    if (!g || g.numel() == 0) continue;
    sum_of_squares(g.dense().view(), sums.slice(0, begin, begin + blocks_of(g)).out());
    begin += blocks_of(g);
  }
}

Clip clip_of_squares(const Tensor& sums, double max_norm) {
  double total = 0;
  const gpu::MaySync wait;  // once for all parameters
  const Tensor here = sums.to(Device::cpu);
  for (double s : here.data<double>()) total += s;
  Clip clip;
  clip.norm = std::sqrt(total);
  if (clip.finite() && max_norm > 0 && clip.norm > max_norm) clip.scale = max_norm / clip.norm;
  return clip;
}

Clip clip_global_norm(std::span<Parameter* const> parameters, double max_norm) {
  const Tensor sums = room_for_squares(parameters);
  sum_squares(parameters, sums);
  return clip_of_squares(sums, max_norm);
}

}  // namespace facet

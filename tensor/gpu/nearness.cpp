#include "tensor/gpu/nearness.h"

#include <algorithm>
#include <cmath>

#include "tensor/kernels/copy.h"
#include "tensor/tensor.h"

namespace facet::gpu {

Nearness nearness(const Tensor& a, const Tensor& b) {
  const auto x = a.data<float>(), y = b.data<float>();
  const size_t width = b.rank() > 0 && b.numel() > 0 ? static_cast<size_t>(b.dim(-1)) : 1;
  double power = 0;
  for (float v : y) power += std::isfinite(v) ? double{v} * v : 0;
  const double least = std::sqrt(power / static_cast<double>(std::max<size_t>(y.size(), 1)));
  Nearness found;
  double error = 0;
  for (size_t row = 0; row < y.size(); row += width) {
    double most = 0, squares = 0;
    for (size_t i = row; i < row + width; ++i) {
      const bool same = x[i] == y[i] || (std::isnan(x[i]) && std::isnan(y[i]));
      const double far = same ? 0 : std::isfinite(x[i]) && std::isfinite(y[i]) ? std::abs(double{x[i]} - y[i]) : INFINITY;
      most = std::max(most, far);
      error += far * far;
      squares += std::isfinite(y[i]) ? double{y[i]} * y[i] : 0;
    }
    if (most > 0) found.of_row = std::max(found.of_row, most / std::max(least, std::sqrt(squares / static_cast<double>(width))));
  }
  if (error > 0) found.nmse = error / power;
  return found;
}

Tensor fetch_f32(const View& v) {
  const Tensor dense = Tensor::empty(v.shape, DType::f32, Device::gpu);
  gpu::copy(v, dense.out());
  return dense.to(Device::cpu);
}

}  // namespace facet::gpu

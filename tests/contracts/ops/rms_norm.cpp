#include <cmath>

#include "autograd/ops.h"
#include "tests/contracts/ops/list.h"

namespace facet::test {
namespace {

Tensor slow_rms_norm(const Tensor& x, const Tensor& w, double eps) {
  const std::vector<double> vx = x.to_vector(), vw = w.to_vector();
  std::vector<double> y(vx.size());
  const size_t d = vw.size();
  for (size_t r = 0; r < vx.size(); r += d) {
    double sum = 0;
    for (size_t i = 0; i < d; ++i) sum += vx[r + i] * vx[r + i];
    for (size_t i = 0; i < d; ++i) y[r + i] = vx[r + i] / std::sqrt(sum / double(d) + eps) * (1 + vw[i]);
  }
  return Tensor::from(y, x.shape());
}

constexpr double contract_eps = 0.05;  // a row of one element has a gradient only through eps

}  // namespace

Contracts rms_norm_contracts() {
  Contract c;
  c.name = "rms_norm";
  c.samples = 17;
  c.inputs = [](Random& r, int sample) -> Tensors {
    if (sample == 16) return {r.normal({70, 640}), r.normal({640}, DType::f64, 0.1)};
    const int64_t d = awkward_size(sample);
    const Tensor x = sample % 4 == 3 ? r.normal({2, 3, d}) : r.normal({1 + awkward_size(sample + 5) % 9, d});
    return {with_layout(x, all_layouts[sample % 5]), with_layout(r.normal({d}, DType::f64, 0.3), all_layouts[sample % 4])};
  };
  c.fused = [](const Tensors& x) { return rms_norm(x[0], x[1], contract_eps); };
  c.composite = [](const Tensors& x) { return slow_rms_norm(x[0], x[1], contract_eps); };
  return {c};
}

}  // namespace facet::test

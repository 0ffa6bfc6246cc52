#include "autograd/ops.h"
#include "tests/contracts/ops/list.h"

namespace facet::test {
namespace {

Tensor slow_layer_norm(const Tensor& x, const Tensor& w, const Tensor& b, double eps) {
  const Tensor centred = x - mean(x, {-1}, true);
  return centred * rsqrt(mean(square(centred), {-1}, true) + eps) * w + b;
}

constexpr double contract_eps = 0.05;  // a row of one element has no gradient but through w and b

}  // namespace

Contracts layer_norm_contracts() {
  Contract c;
  c.name = "layer_norm";
  c.samples = 17;
  c.inputs = [](Random& r, int sample) -> Tensors {
    if (sample == 16) return {r.normal({70, 640}), r.normal({640}), r.normal({640})};
    const int64_t d = awkward_size(sample);
    const Tensor x = sample % 4 == 3 ? r.normal({2, 3, d}) : r.normal({1 + awkward_size(sample + 5) % 9, d});
    return {with_layout(x, all_layouts[sample % 5]), with_layout(r.normal({d}), all_layouts[sample % 4]), r.normal({d})};
  };
  c.fused = [](const Tensors& x) { return layer_norm(x[0], x[1], x[2], contract_eps); };
  c.composite = [](const Tensors& x) { return slow_layer_norm(x[0], x[1], x[2], contract_eps); };
  return {c};
}

}  // namespace facet::test

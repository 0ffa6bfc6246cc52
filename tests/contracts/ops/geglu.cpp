#include <cmath>

#include "autograd/ops.h"
#include "tests/contracts/ops/list.h"

namespace facet::test {

Contracts geglu_contracts() {
  Contract c;
  c.name = "geglu";
  c.kind = Arithmetic::elementwise;
  c.samples = 17;
  c.inputs = [](Random& r, int sample) -> Tensors {
    const int64_t f = sample == 16 ? 4099 : awkward_size(sample), n = sample == 16 ? 2 : 1 + sample % 5;
    if (sample % 3 == 1) {  // halves of one fused projection
      const Tensor both = r.normal({n, 2 * f}, DType::f64, 2);
      return {both.slice(1, 0, f), both.slice(1, f, 2 * f)};
    }
    return {with_layout(r.normal({n, f}, DType::f64, 2), all_layouts[sample % 5]),
            with_layout(r.normal({n, f}), all_layouts[(sample + 2) % 5])};
  };
  c.fused = [](const Tensors& x) { return geglu(x[0], x[1]); };
  c.composite = [](const Tensors& x) {
    const std::vector<double> g = x[0].to_vector(), u = x[1].to_vector();
    std::vector<double> y(g.size());
    for (size_t i = 0; i < y.size(); ++i)
      y[i] = 0.5 * g[i] * (1 + std::tanh(std::sqrt(2 / M_PI) * (g[i] + 0.044715 * g[i] * g[i] * g[i]))) * u[i];
    return Tensor::from(y, x[0].shape());
  };
  return {c};
}

}  // namespace facet::test

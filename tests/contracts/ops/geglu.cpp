#include <cmath>

#include "autograd/inference_ops.h"
#include "autograd/joined_ops.h"
#include "autograd/ops.h"
#include "tests/contracts/ops/list.h"
#include "tests/support/composite_linear.h"

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

  Contract halves = c;
  halves.name = "geglu_halves";
  halves.inputs = [](Random& r, int sample) -> Tensors {
    const int64_t f = sample == 16 ? 4099 : awkward_size(sample), n = sample == 16 ? 2 : 1 + sample % 5;
    return {with_layout(r.normal({n, 2 * f}, DType::f64, 2), all_layouts[sample % 5])};
  };
  halves.fused = [](const Tensors& x) { return geglu_halves(x[0]); };
  halves.composite = [twin = c.composite](const Tensors& x) {
    const int64_t f = x[0].dim(-1) / 2;
    return twin({x[0].detach().slice(1, 0, f), x[0].detach().slice(1, f, 2 * f)});
  };

  Contract products;  // x, w_gate, w_up
  products.name = "linear_geglu";
  products.samples = 17;
  products.differentiable = false;
  products.bf16_nmse = 4e-5;  // the products are rounded, too
  products.inputs = [](Random& r, int s) -> Tensors {
    const int64_t in = s == 16 ? 640 : s % 2 ? 8 * awkward_size(s) : awkward_size(s), f = s == 16 ? 520 : awkward_size(s + 5);
    const Shape lead = s % 3 == 0 ? Shape{1, in} : s % 3 == 1 ? Shape{2, 3, in} : Shape{16 + s % 2, in};
    const double scale = 1 / std::sqrt(static_cast<double>(in));
    return {with_layout(r.normal(lead), all_layouts[s % 5]), with_layout(r.normal({f, in}, DType::f64, 2 * scale), all_layouts[s % 4]),
            with_layout(r.normal({f, in}, DType::f64, scale), all_layouts[s % 3])};
  };
  products.fused = [](const Tensors& x) { return linear_geglu(x[0], x[1], x[2]); };
  products.composite = [twin = c.composite](const Tensors& x) { return twin({slow_linear(x[0], x[1]), slow_linear(x[0], x[2])}); };
  return {c, halves, products};
}

}  // namespace facet::test

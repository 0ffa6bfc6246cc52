#include <algorithm>

#include "autograd/ops.h"
#include "tests/contracts/ops/list.h"

namespace facet::test {
namespace {

constexpr double contract_eps = 0.05;  // a row of one element has a gradient only through eps

Tensors twin(const Tensors& x) {
  const Tensor sum = add(x[0], x[1]);
  return {sum, rms_norm(sum, x[2], contract_eps)};
}

Tensors sum_inputs(Random& r, int sample, int64_t least_width) {
  if (sample == 16) return {r.normal({70, 640}), r.normal({70, 640}), r.normal({640}, DType::f64, 0.1)};
  const int64_t d = std::max(least_width, awkward_size(sample));
  const Shape shape = sample % 4 == 3 ? Shape{2, 3, d} : Shape{1 + awkward_size(sample + 5) % 9, d};
  return {with_layout(r.normal(shape), all_layouts[sample % 5]), with_layout(r.normal(shape), all_layouts[(sample + 2) % 4]),
          with_layout(r.normal({d}, DType::f64, 0.3), all_layouts[sample % 4])};
}

}  // namespace

Contracts add_rms_norm_contracts() {
  Contract c;
  c.name = "add_rms_norm";
  c.samples = 17;
  c.inputs = [](Random& r, int sample) { return sum_inputs(r, sample, 1); };
  c.fused = [](const Tensors& x) {
    const SumNorm s = add_rms_norm(x[0], x[1], x[2], contract_eps);
    return Tensors{s.sum, s.norm};
  };
  c.composite = twin;

  Contract normed = c;  // what is added is normed first: its weight comes last
  normed.name = "norm_add_norm";
  // Not narrower: in rows of one or two elements w_h's gradient cancels over the rows, and what bf16 rounds between the norms is left.
  normed.inputs = [](Random& r, int sample) {
    Tensors x = sum_inputs(r, sample, 3);
    x.push_back(with_layout(r.normal({x[2].dim(0)}, DType::f64, 0.3), all_layouts[(sample + 1) % 4]));
    return x;
  };
  normed.fused = [](const Tensors& x) {
    const SumNorm s = norm_add_norm(x[0], x[1], x[3], x[2], contract_eps);
    return Tensors{s.sum, s.norm};
  };
  normed.composite = [](const Tensors& x) { return twin({x[0], rms_norm(x[1], x[3], contract_eps), x[2]}); };
  return {c, normed};
}

}  // namespace facet::test

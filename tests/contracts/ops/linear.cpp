#include "autograd/ops.h"
#include "tests/contracts/ops/list.h"
#include "tests/support/composite_linear.h"

namespace facet::test {
Contracts linear_contracts() {
  Contract c;
  c.name = "linear";
  c.inputs = [](Random& r, int s) -> Tensors {
    const int64_t in = awkward_size(s), out = awkward_size(s + 5);
    const Shape lead = s % 3 == 0 ? Shape{1, in} : s % 3 == 1 ? Shape{2, 3, in} : Shape{7, in};
    return {with_layout(r.normal(lead), all_layouts[s % 5]), with_layout(r.normal({out, in}), all_layouts[s % 4])};
  };
  c.fused = [](const Tensors& x) { return linear(x[0], x[1]); };
  c.composite = [](const Tensors& x) { return slow_linear(x[0], x[1]); };
  return {c};
}

}  // namespace facet::test

#include "autograd/joined_ops.h"
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

  Contract joined = c;  // rows of one matrix as weights of their own: they are side by side
  joined.name = "linear_joined";
  joined.fused = [](const Tensors& x) {
    const int64_t rows = x[1].dim(0), cut = (rows + 1) / 2;
    const Tensor w[] = {slice(x[1], 0, 0, cut), slice(x[1], 0, cut, rows)};
    return linear_joined(x[0], std::span(w, cut < rows ? 2 : 1));
  };

  Contract apart;  // weights that are not
  apart.name = "linear_joined: weights apart";
  apart.inputs = [inputs = c.inputs](Random& r, int s) {
    Tensors x = inputs(r, s);
    x.push_back(with_layout(r.normal({1 + s % 7, x[0].dim(-1)}), all_layouts[(s + 1) % 4]));
    return x;
  };
  apart.fused = [](const Tensors& x) { return linear_joined(x[0], std::span(x).subspan(1)); };
  apart.composite = [](const Tensors& x) { return concat({slow_linear(x[0], x[1]), slow_linear(x[0], x[2])}, -1); };
  return {c, joined, apart};
}

}  // namespace facet::test

#include "autograd/joined_ops.h"
#include "autograd/ops.h"
#include "tests/contracts/ops/list.h"

namespace facet::test {
namespace {

constexpr double scale = 1.75;

Contract contract(const char* name) {
  Contract c;
  c.name = name;
  c.samples = 19;
  c.inputs = [](Random& r, int sample) -> Tensors {
    // Ranks as adapters have them, widths of awkward sizes; the last sample is a large one.
    const int64_t rank = sample == 18 ? 64 : 1 + sample % 9, n = 1 + sample % 5;
    const int64_t outputs = sample == 18 ? 257 : awkward_size(sample);
    const Layout layout = all_layouts[static_cast<size_t>(sample) % 5];
    if (sample % 4 == 1)  // three dimensions
      return {r.normal({2, n, outputs}), r.normal({2, n, rank}), with_layout(r.normal({outputs, rank}), layout)};
    return {with_layout(r.normal({n, outputs}), layout), with_layout(r.normal({n, rank}), all_layouts[static_cast<size_t>(sample + 2) % 5]),
            with_layout(r.normal({outputs, rank}), layout)};
  };
  c.composite = [](const Tensors& x) { return add(x[0], mul(linear(x[1], x[2]), scale)); };
  return c;
}

}  // namespace

Contracts add_linear_contracts() {
  Contract copy = contract("add_linear");
  copy.fused = [](const Tensors& x) { return add_linear(x[0], x[1], x[2], scale); };
  Contract fresh = contract("add_linear: into the memory of a fresh y");
  fresh.fused = [](const Tensors& x) { return add_linear(mul(x[0], 3), x[1], x[2], scale); };
  fresh.composite = [](const Tensors& x) { return add(mul(x[0], 3), mul(linear(x[1], x[2]), scale)); };
  // Terms for some columns, whose x are themselves parts of a row and so is what is added to.
  Contract columns;
  columns.name = "add_linear_columns";
  columns.samples = 12;
  columns.inputs = [](Random& r, int sample) -> Tensors {
    const int64_t rank = 1 + sample % 5, outputs = awkward_size(sample), more = awkward_size(sample + 3);
    const Shape rows = sample % 2 ? Shape{2, 3} : Shape{7};
    const auto of_width = [&](int64_t width) {
      Shape s = rows;
      s.push(width);
      return s;
    };
    return {r.normal(of_width(outputs + 3 + more)), r.normal(of_width(2 * rank + 1)), with_layout(r.normal({outputs, rank}), all_layouts[static_cast<size_t>(sample) % 4]),
            r.normal({more, rank + 1})};
  };
  columns.fused = [](const Tensors& x) {
    const auto part = split(x[1], {x[2].dim(1), x[3].dim(1)}, -1);
    const ColumnTerm terms[] = {{0, part[0], x[2], scale}, {x[2].dim(0) + 3, part[1], x[3], 0.5}};
    return add_linear_columns(mul(x[0], 3), terms);
  };
  columns.composite = [](const Tensors& x) {
    const int64_t r = x[2].dim(1), O = x[2].dim(0), more = x[3].dim(0);
    const Tensor y = mul(x[0], 3);
    return concat({add(slice(y, -1, 0, O), mul(linear(slice(x[1], -1, 0, r), x[2]), scale)), slice(y, -1, O, O + 3),
                   add(slice(y, -1, O + 3, O + 3 + more), mul(linear(slice(x[1], -1, r, x[1].dim(-1)), x[3]), 0.5))}, -1);
  };
  return {copy, fresh, columns};
}

}  // namespace facet::test

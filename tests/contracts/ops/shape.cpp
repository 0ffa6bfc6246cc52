#include "autograd/ops.h"
#include "tests/contracts/ops/list.h"

namespace facet::test {
namespace {

Contract contract(const char* name, Function f, std::function<Tensors(Random&, int)> inputs) {
  Contract c;
  c.name = name;
  c.inputs = std::move(inputs);
  c.fused = std::move(f);
  c.kind = Arithmetic::none;
  c.bf16_nmse = c.f32_nmse = 0;  // nothing is computed, only moved
  return c;
}

Tensors one(Random& r, int sample) { return {with_layout(r.normal({3, awkward_size(sample), 4}), all_layouts[sample % 5])}; }

}  // namespace

Contracts shape_contracts() {
  return {
      contract("reshape", [](const Tensors& x) { return reshape(x[0], {4, -1}); }, one),
      contract("reshape to rank 0", [](const Tensors& x) { return reshape(x[0], {}); }, [](Random& r, int) -> Tensors { return {r.normal({1, 1})}; }),
      contract("permute", [](const Tensors& x) { return permute(x[0], {2, 0, 1}); }, one),
      contract("transpose", [](const Tensors& x) { return transpose(x[0]); }, one),
      contract("slice", [](const Tensors& x) { return slice(x[0], 2, 1, 4); }, one),
      contract("slice with step", [](const Tensors& x) { return slice(x[0], -1, -4, -1, 2); }, one),
      contract("slice of nothing", [](const Tensors& x) { return slice(x[0], 0, 1, 1); }, one),
      contract("expand", [](const Tensors& x) { return expand(x[0], {2, 3, x[0].dim(1), 4}); }, one),
      contract("expand 1", [](const Tensors& x) { return expand(x[0], {5, 3}); }, [](Random& r, int s) -> Tensors { return {s % 2 ? r.normal({5, 1}) : r.normal({})}; }),
      contract("concat", [](const Tensors& x) { return concat({x[0], x[1], x[0]}, 1); }, [](Random& r, int s) -> Tensors {
        return {with_layout(r.normal({2, awkward_size(s), 3}), all_layouts[s % 5]), r.normal({2, s % 3, 3})};
      }),
      contract("split", [](const Tensors& x) -> Tensors { return split(x[0], {1, 0, 3}, 2); }, one),
  };
}

}  // namespace facet::test

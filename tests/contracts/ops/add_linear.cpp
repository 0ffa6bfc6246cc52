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
  return {copy, fresh};
}

}  // namespace facet::test

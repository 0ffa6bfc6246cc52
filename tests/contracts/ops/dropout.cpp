#include "autograd/ops.h"
#include "tests/contracts/ops/list.h"

namespace facet::test {
namespace {

constexpr double p = 0.3;
Key mask_key() { return fold_in(key(7), 3); }

}  // namespace

Contracts dropout_contracts() {
  Contract c;
  c.name = "dropout";
  c.kind = Arithmetic::elementwise;
  c.samples = 19;
  c.inputs = [](Random& r, int sample) -> Tensors {
    const int64_t d = sample == 18 ? 4099 : awkward_size(sample), n = sample == 18 ? 3 : 1 + sample % 5;
    return {with_layout(r.normal({n, d}), all_layouts[static_cast<size_t>(sample) % 5])};
  };
  c.fused = [](const Tensors& x) { return dropout(x[0], p, mask_key()); };
  c.composite = [](const Tensors& x) {
    return where(bernoulli(mask_key(), x[0].shape(), 1 - p), mul(x[0], 1 / (1 - p)), Tensor::zeros({1}, x[0].dtype()));
  };
  return {c};
}

}  // namespace facet::test

#include "autograd/ops.h"
#include "tests/contracts/ops/list.h"

namespace facet::test {
namespace {

int dim_of(const Tensor& x) { return x.rank() < 2 ? -1 : x.numel() % 2 ? 0 : -1; }

Tensors sample_logits(Random& r, int sample) {
  switch (sample) {
    case 0: return {r.normal({})};
    case 1: return {r.normal({1, 1})};
    case 10: return {r.normal({2, 700})};
    case 11: return {r.uniform({3, 8}, -6, 6)};
    default: return {with_layout(r.normal({3, awkward_size(sample)}, DType::f64, 2), all_layouts[sample % 5])};
  }
}
Tensor log_sum(const Tensor& x, int dim) { return x.rank() ? log(sum(exp(x), {dim}, true)) : x; }

Contract contract(const char* name, Tensor (*fused)(const Tensor&), Tensor (*composite)(const Tensor&)) {
  Contract c;
  c.name = name;
  c.inputs = sample_logits;
  c.fused = [=](const Tensors& x) { return fused(x[0]); };
  c.composite = [=](const Tensors& x) { return composite(x[0]); };
  return c;
}

}  // namespace

Contracts softmax_contracts() {
  return {
      contract("softmax", [](const Tensor& x) { return softmax(x, dim_of(x)); }, [](const Tensor& x) { return exp(x - log_sum(x, dim_of(x))); }),
      contract("log_softmax", [](const Tensor& x) { return log_softmax(x, dim_of(x)); }, [](const Tensor& x) { return x - log_sum(x, dim_of(x)); }),
      contract("logsumexp", [](const Tensor& x) { return logsumexp(x, dim_of(x), true); }, [](const Tensor& x) { return log_sum(x, dim_of(x)) * 1; }),
  };
}

}  // namespace facet::test

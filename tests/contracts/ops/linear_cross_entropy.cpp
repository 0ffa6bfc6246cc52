#include <iterator>

#include "autograd/ops.h"
#include "tests/contracts/ops/list.h"
#include "tests/support/composite_cross_entropy.h"

namespace facet::test {

Contracts linear_cross_entropy_contracts() {
  const char* variants[] = {"", ": cap", ": label smoothing", ": z-loss", ": cap, smoothing and z-loss"};
  static_assert(std::size(variants) == std::size(all_cross_entropy_options));
  Contracts all;
  for (size_t k = 0; k < std::size(all_cross_entropy_options); ++k) {
    const CrossEntropyOptions o = all_cross_entropy_options[k];
    Contract c;
    c.name = std::string("linear_cross_entropy") + variants[k];
    c.samples = k == 0 ? 18 : 6;
    c.host = {2, 3};  // labels and weights say on the host which rows there are
    c.kind = Arithmetic::head;
    c.inputs = [](Random& r, int sample) -> Tensors {
      const int64_t V = 1 + (sample * 7) % 40, D = awkward_size(sample) % 37 + 1, N = 1 + sample % 9;
      // Never words that are all alike: their gradient would be nothing but rounding.
      return {with_layout(r.normal({N, D}), all_layouts[sample % 5]), with_layout(r.normal({V, D}), all_layouts[(sample / 2) % 4]),
              labels_of(r, {N}, V), r.uniform({N}, 0.1, 2)};
    };
    c.fused = [o](const Tensors& x) { return linear_cross_entropy(x[0], x[1], x[2], x[3], o); };
    c.composite = [o](const Tensors& x) { return plain_cross_entropy(x[0], x[1], x[2], x[3], o); };
    c.keep_dtype = {3};
    c.gradcheck.fixed = {3};
    all.push_back(c);
  }
  return all;
}

}  // namespace facet::test

#include "autograd/ops.h"
#include "tests/contracts/ops/list.h"

namespace facet::test {

Contracts embedding_contracts() {
  Contract c;
  c.name = "embedding";
  c.kind = Arithmetic::elementwise;
  c.samples = 17;
  c.inputs = [](Random& r, int sample) -> Tensors {
    if (sample == 16) return {r.ids({3, 40}, 50), r.normal({50, 200})};
    const int64_t d = awkward_size(sample), v = 2 + sample % 7;
    const Tensor ids = r.ids(sample % 2 ? Shape{3, 4} : Shape{5}, v);
    return {with_layout(ids, sample % 4 == 1 ? Layout::transposed : Layout::dense), with_layout(r.normal({v, d}), all_layouts[sample % 4])};
  };
  c.fused = [](const Tensors& x) { return embedding(x[0], x[1], 5.25, x[1].dtype()); };
  c.composite = [](const Tensors& x) {
    const std::vector<double> id = x[0].to_vector(), table = x[1].to_vector();
    const int64_t d = x[1].dim(1);
    std::vector<double> y;
    for (double v : id)
      for (int64_t i = 0; i < d; ++i) y.push_back(5.25 * table[int64_t(v) * d + i]);
    Shape s = x[0].shape();
    s.push(d);
    return Tensor::from(y, s);
  };
  return {c};
}

}  // namespace facet::test

#include <cmath>

#include "autograd/ops.h"
#include "tests/contracts/ops/list.h"
#include "tests/support/composite_cross_entropy.h"

namespace facet::test {

Contracts linear_log_probs_contracts() {
  Contracts all;
  for (double cap : {0.0, 2.5}) {
    Contract c;
    c.name = cap == 0 ? "linear_log_probs" : "linear_log_probs: cap";
    c.inputs = [](Random& r, int sample) -> Tensors {
      const int64_t V = 1 + (sample * 7) % 40, D = awkward_size(sample) % 37 + 1, T = 1 + sample % 5;
      // Never words that are all alike: their gradient would be nothing but rounding.
      return {r.normal({2, T, D}), with_layout(r.normal({V, D}), all_layouts[sample % 4]), labels_of(r, {2, T}, V)};
    };
    c.fused = [cap](const Tensors& x) { return linear_log_probs(x[0], x[1], x[2], cap, 0.8); };
    c.composite = [cap](const Tensors& x) {
      // one row at a time through the definition; temperature 0.8 is a head 1.25 times as large when nothing is capped
      const Tensor w = Tensor::from([&] {
        auto v = x[1].to_vector();
        if (cap == 0)
          for (double& e : v) e /= 0.8;
        return v;
      }(), x[1].shape());
      const int64_t N = x[2].numel(), D = x[0].dim(-1);
      const Tensor h = x[0].detach().dense().reshape({N, D}), y = x[2].reshape({N});
      std::vector<double> out;
      for (int64_t n = 0; n < N; ++n) {
        if (cap == 0) {
          out.push_back(-plain_cross_entropy(h.slice(0, n, n + 1), w, y.slice(0, n, n + 1), {}, {}).item());
          continue;
        }
        const double label = y.to_vector()[n];
        double sum = 0, mine = 0;
        for (int64_t v = 0; v < w.dim(0); ++v) {
          double z = 0;
          for (int64_t d = 0; d < D; ++d) z += h.at({n, d}) * w.at({v, d});
          z = cap * std::tanh(z / cap) / 0.8;
          sum += std::exp(z);
          if (v == static_cast<int64_t>(label)) mine = z;
        }
        out.push_back(label < 0 ? 0 : mine - std::log(sum));
      }
      return Tensor::from(out, x[2].shape());
    };
    c.host = {2};  // labels
    c.kind = Arithmetic::head;
    all.push_back(c);
  }
  return all;
}

}  // namespace facet::test

#include "autograd/ops.h"
#include "tests/contracts/ops/list.h"

namespace facet::test {
namespace {

// By index, with numpy's broadcasting; matrices only.
Tensor naive(const Tensor& a, const Tensor& b) {
  Shape la = a.shape(), lb = b.shape();
  la.rank -= 2, lb.rank -= 2;
  Shape lead = broadcast_shape("naive", la, lb), sa = lead, sb = lead, sy = lead;
  const int64_t m = a.dim(-2), p = a.dim(-1), n = b.dim(-1), batch = lead.numel();
  sa.push(m), sa.push(p), sb.push(p), sb.push(n), sy.push(m), sy.push(n);
  const auto x = a.detach().expand(sa).to_vector(), z = b.detach().expand(sb).to_vector();
  std::vector<double> y(batch * m * n);
  for (int64_t t = 0; t < batch; ++t)
    for (int64_t i = 0; i < m; ++i)
      for (int64_t j = 0; j < n; ++j)
        for (int64_t k = 0; k < p; ++k) y[(t * m + i) * n + j] += x[(t * m + i) * p + k] * z[(t * p + k) * n + j];
  return Tensor::from(y, sy).to(a.dtype());
}

}  // namespace

Contracts matmul_contracts() {
  static const Shape lead[][2] = {{{}, {}}, {{2}, {}}, {{}, {3}}, {{2, 3}, {2, 3}}, {{2, 1}, {3}}, {{5}, {1}}, {{1, 2}, {3, 1}}};
  Contract c;
  c.name = "matmul";
  c.samples = 14;
  c.inputs = [](Random& r, int s) -> Tensors {
    const int64_t m = s % 4 + 1, p = awkward_size(s), n = awkward_size(s + 3) % 20 + 1;
    Shape a = lead[s % 7][0], b = lead[s % 7][1];
    a.push(m), a.push(p), b.push(p), b.push(n);
    return {with_layout(r.normal(a), all_layouts[s % 5]), with_layout(r.normal(b), all_layouts[(s + 2) % 4])};
  };
  c.fused = [](const Tensors& x) { return matmul(x[0], x[1]); };
  c.composite = [](const Tensors& x) { return naive(x[0], x[1]); };
  return {c};
}

}  // namespace facet::test

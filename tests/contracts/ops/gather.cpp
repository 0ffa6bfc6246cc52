#include "autograd/ops.h"
#include "tests/contracts/ops/list.h"

namespace facet::test {
namespace {

// Picks single elements: the slow way to say all three operations.
Tensor element(const Tensor& x, const std::vector<int64_t>& at) {
  Tensor y = x;
  for (size_t d = 0; d < at.size(); ++d) y = slice(y, static_cast<int>(d), at[d], at[d] + 1);
  return y;
}
int gather_dim(const Tensors& x) { return static_cast<int>(x[0].dim(0) % 2); }

Contract gather_contract() {
  Contract c;
  c.name = "gather";
  c.kind = Arithmetic::none;
  c.inputs = [](Random& r, int s) -> Tensors {
    const int64_t a = 2 + s % 3, b = awkward_size(s) % 9 + 1;
    const int dim = static_cast<int>(a % 2);
    Shape index{a, b};
    index[dim] = 1 + s % 5;
    return {with_layout(r.normal({a, b}), all_layouts[s % 5]), with_layout(r.ids(index, dim ? b : a), all_layouts[s % 4])};
  };
  c.fused = [](const Tensors& x) { return gather(x[0], gather_dim(x), x[1]); };
  c.composite = [](const Tensors& x) {
    const int dim = gather_dim(x);
    Tensors rows;
    for (int64_t i = 0; i < x[1].dim(0); ++i) {
      Tensors row;
      for (int64_t j = 0; j < x[1].dim(1); ++j) {
        const int64_t id = static_cast<int64_t>(x[1].at({i, j}));
        row.push_back(element(x[0], dim ? std::vector<int64_t>{i, id} : std::vector<int64_t>{id, j}));
      }
      rows.push_back(concat(row, 1));
    }
    return concat(rows, 0);
  };
  c.f32_nmse = c.bf16_nmse = 0;
  return c;
}

Contract take_contract() {
  Contract c;
  c.name = "take";
  c.kind = Arithmetic::none;
  c.inputs = [](Random& r, int s) -> Tensors {
    return {with_layout(r.normal({4, 3, awkward_size(s)}), all_layouts[s % 5]), r.ids(s % 3 == 0 ? Shape{2, 3} : s % 3 == 1 ? Shape{} : Shape{s % 7}, 3)};
  };
  c.fused = [](const Tensors& x) { return take(x[0], x[1], 1); };
  c.composite = [](const Tensors& x) -> Tensor {
    Shape shape{4};
    for (int64_t n : x[1].shape()) shape.push(n);
    shape.push(x[0].dim(2));
    Tensors parts = {slice(x[0], 1, 0, 0)};
    for (double id : x[1].to_vector()) parts.push_back(slice(x[0], 1, static_cast<int64_t>(id), static_cast<int64_t>(id) + 1));
    return reshape(concat(parts, 1), shape);
  };
  c.f32_nmse = c.bf16_nmse = 0;
  return c;
}

Contract scatter_add_contract() {
  Contract c;
  c.name = "scatter_add";
  c.inputs = [](Random& r, int s) -> Tensors {
    const int64_t a = 2 + s % 3, b = awkward_size(s) % 9 + 1;
    const int dim = static_cast<int>(a % 2);
    Shape index{a, b};
    index[dim] = 1 + s % 5;
    return {with_layout(r.normal({a, b}), all_layouts[s % 5]), with_layout(r.ids(index, dim ? b : a), all_layouts[s % 4]), r.normal(index)};
  };
  c.fused = [](const Tensors& x) { return scatter_add(x[0], gather_dim(x), x[1], x[2]); };
  c.composite = [](const Tensors& x) {  // a product with one-hot rows
    const int dim = gather_dim(x);
    const int64_t n = x[0].dim(dim);
    Tensors parts;
    for (int64_t k = 0; k < n; ++k) {
      const Tensor hit = cast(equal(x[1], Tensor::scalar(static_cast<double>(k), DType::i32)), DType::f64);
      parts.push_back(sum(hit * x[2], {dim}, true));
    }
    return x[0] + concat(parts, dim);
  };
  c.bf16_nmse = c.bf16_grad_nmse = 1e-4;  // one rounding per addition
  return c;
}

}  // namespace

Contracts gather_contracts() { return {gather_contract(), take_contract(), scatter_add_contract()}; }

}  // namespace facet::test

#include "tensor/kernels/gather.h"

#include <catch2/catch.hpp>

#include "autograd/ops.h"
#include "tests/support/contract.h"
#include "tests/support/goldens.h"

using namespace facet;
using namespace facet::test;

namespace {
// Picks single elements: the slow way to say all three operations.
Tensor element(const Tensor& x, const std::vector<int64_t>& at) {
  Tensor y = x;
  for (size_t d = 0; d < at.size(); ++d) y = slice(y, static_cast<int>(d), at[d], at[d] + 1);
  return y;
}
int gather_dim(const Tensors& x) { return static_cast<int>(x[0].dim(0) % 2); }
}  // namespace

TEST_CASE("gather: contract") {
  Contract c;
  c.name = "gather";
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
  check_contract(c);
}

TEST_CASE("take: contract") {
  Contract c;
  c.name = "take";
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
  check_contract(c);
}

TEST_CASE("scatter_add: contract") {
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
  check_contract(c);
}

TEST_CASE("gather: the gradient of a large take is the same on any number of threads") {
  MachineScope restore;
  Random r(9);
  const Tensor x = r.normal({50, 600}, DType::f32), ids = r.ids({3000}, 50);
  const Function f = [&](const Tensors& t) { return take(t[0], ids, 0); };
  const Tensors w = random_weights(f({x}), 1);
  const Tensor g = gradients(f, {x}, w)[0];
  const Tensor expected = gradients(f, {x.to(DType::f64)}, {w[0].to(DType::f64)})[0];
  CHECK(nmse_within(g, expected, 1e-12));
}

TEST_CASE("gather: integer values, errors") {
  using V = std::vector<double>;
  const Tensor ids = Tensor::from(std::vector<int32_t>{2, 0}, {2}), x = Tensor::zeros({3, 4});
  CHECK(take(Tensor::arange(3), ids, 0).to_vector() == V{2, 0});
  CHECK(take(x, Tensor::from(std::vector<int32_t>{}, {0}), 0).shape() == Shape{0, 4});
  CHECK_THROWS_WITH(take(x, Tensor::arange(4), 0), Catch::Contains("take: index 3 is out of range"));
  CHECK_THROWS_WITH(take(x, Tensor::full({1}, -1, DType::i32), 0), Catch::Contains("index -1"));
  CHECK_THROWS_WITH(take(x, x, 0), Catch::Contains("take: index is f32"));
  CHECK_THROWS_WITH(take(Tensor::zeros({1, 1, 1, 1, 1}), Tensor::zeros({1, 1, 1, 1, 1}, DType::i32), 0), Catch::Contains("dimensions"));
  CHECK_THROWS_WITH(gather(x, 0, ids), Catch::Contains("gather") && Catch::Contains("[3, 4]") && Catch::Contains("[2]"));
  CHECK_THROWS_WITH(scatter_add(x, 0, Tensor::zeros({2, 4}, DType::i32), x), Catch::Contains("scatter_add"));
  CHECK_THROWS_WITH(scatter_add(x, 0, Tensor::zeros({3, 4}, DType::i32), x.to(DType::f64)), Catch::Contains("dtypes must agree"));
}

TEST_CASE("gather: goldens") {
  check_op_goldens("take", {"x", "ids"}, [](const OpCase& c, const Tensors& x) -> Tensors {
    return {take(x[0], x[1], static_cast<int>(c.attribute("axis")))};
  });
  check_op_goldens("take_along_axis", {"x", "ids"}, [](const OpCase&, const Tensors& x) -> Tensors { return {gather(x[0], -1, x[1])}; });
  check_op_goldens("scatter_add", {"x", "updates", "ids"}, [](const OpCase& c, const Tensors& x) -> Tensors {
    const int axis = static_cast<int>(c.attribute("axis"));
    Shape line = x[1].shape();
    for (int i = 0; i < line.rank; ++i)
      if (i != axis) line[i] = 1;
    return {scatter_add(x[0], axis, x[2].reshape(line).expand(x[1].shape()), x[1])};
  });
}

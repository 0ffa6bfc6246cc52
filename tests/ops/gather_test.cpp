#include "tensor/kernels/gather.h"

#include <catch2/catch.hpp>

#include "autograd/ops.h"
#include "tests/support/contract.h"
#include "tests/support/goldens.h"

using namespace facet;
using namespace facet::test;

TEST_CASE("gather, take, scatter_add: contracts", "[contract]") { check_contracts("gather"); }

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

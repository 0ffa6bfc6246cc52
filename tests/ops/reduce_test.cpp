#include <catch2/catch.hpp>
#include <cmath>

#include "autograd/ops.h"
#include "tensor/cpu/tier.h"
#include "tensor/kernels/select.h"
#include "tensor/kernels/sum_to.h"
#include "tests/support/contract.h"
#include "tests/support/goldens.h"

using namespace facet;
using namespace facet::test;

TEST_CASE("reductions: contracts", "[contract]") { check_contracts("reduce"); }

TEST_CASE("sum over several dimensions, all of them, none of the elements") {
  Random r(5);
  const Tensor x = r.normal({2, 3, 4, 5});
  const auto f = [](std::vector<int> dims, bool keep) { return [=](const Tensors& t) { return sum(t[0], dims, keep); }; };
  gradcheck("sum", f({0, 2}, false), {x});
  gradcheck("sum", f({-1, 1}, true), {with_layout(x, Layout::transposed)});
  CHECK(sum(x, {0, 2}).shape() == Shape{3, 5});
  CHECK(sum(x, {0, 2}, true).shape() == Shape{1, 3, 1, 5});
  CHECK(close(sum(x, {0, 2}), sum(sum(x, {2}), {0}), 1e-13, 1e-14));
  CHECK(close(sum(x), sum(permute(x, {2, 0, 3, 1})), 1e-13));
  CHECK(sum(Tensor::zeros({0, 3}), {0}).to_vector() == std::vector<double>{0, 0, 0});
  CHECK(sum(Tensor::zeros({0, 3})).item() == 0);
  CHECK(std::isnan(mean(Tensor::zeros({0, 3})).item()));
  gradcheck("sum", f({0}, false), {Tensor::empty({0, 3}, DType::f64)});
}

TEST_CASE("sum_to: every split of dimensions, layout, dtype and tier, long sums, accumulation") {
  MachineScope restore;
  Random r(6);
  const Tensor x = r.normal({3, 4, 70, 33});
  for (int tier = 0; tier <= static_cast<int>(cpu::best_tier()); ++tier) {
    cpu::set_tier(static_cast<cpu::Tier>(tier));
    for (unsigned mask = 0; mask < 16; ++mask)
      for (Layout l : {Layout::dense, Layout::transposed, Layout::strided, Layout::expanded})
        for (DType d : {DType::f64, DType::f32, DType::bf16}) {
          if (d == DType::bf16 && l != Layout::dense) continue;
          Shape to = x.shape();
          for (int i = 0; i < 4; ++i)
            if (mask & (1u << i)) to[i] = 1;
          const Tensor v = with_layout(x.to(d), l);
          const Tensor y = Tensor::full(to, 2, acc_dtype(d));
          sum_to(v.view(), y.out(true));
          std::vector<double> expected(to.numel(), 2);
          const std::vector<double> all = v.to_vector();
          for (int64_t i = 0; i < x.numel(); ++i) {
            int64_t rest = i, o = 0, step = 1;
            for (int k = 3; k >= 0; --k) {
              const int64_t p = rest % x.dim(k);
              rest /= x.dim(k);
              if (to[k] != 1) o += p * step;
              step *= to[k];
            }
            expected[o] += all[i];
          }
          INFO("tier " << tier << " mask " << mask << " " << name_of(l) << " " << name_of(d));
          CHECK(close(y, Tensor::from(expected, to), 0, d == DType::f64 ? 1e-11 : 2e-3));
        }
    // 1,000,001 elements: an f32 sum in one accumulator would be off by about 1e-3
    const Tensor ones = Tensor::full({1000001}, 0.1);
    CHECK(sum(ones).item() == Approx(100000.1).epsilon(2e-6));
    CHECK(sum(Tensor::full({500000, 3}, 0.1), {0}).at({1}) == Approx(50000).epsilon(2e-6));
  }
}

TEST_CASE("max: ties share the gradient, NaN wins") {
  const Tensor x = leaf(Tensor::from({1, 3, 3, 0, NAN, 1}, {2, 3}));
  const Tensor y = max(x, -1);
  CHECK(y.at({0}) == 3);
  CHECK(std::isnan(y.at({1})));
  backward(y, Tensor::full({2}, 1));
  CHECK(grad_of(x).slice(0, 0, 1).to_vector() == std::vector<double>{0, 0.5, 0.5});
  CHECK(argmax(x).to_vector() == std::vector<double>{1, 1});
  CHECK(argmax(Tensor::from({5, 5, 1, 2, 7, 7}, {2, 3}), 0).to_vector() == std::vector<double>{0, 1, 1});
  CHECK_FALSE(argmax(x).slot());
}

TEST_CASE("top_k: order, ties by index, gradient") {
  const Tensor x = Tensor::from({2, 5, 5, -1, NAN, 9}, {2, 3});
  const TopK t = top_k(x, 2);
  CHECK(t.indices.to_vector() == std::vector<double>{1, 2, 1, 2});
  CHECK(t.values.at({0, 1}) == 5);
  CHECK(top_k(x, 0).values.shape() == Shape{2, 0});
}

TEST_CASE("reductions: errors") {
  const Tensor x = Tensor::zeros({2, 3});
  CHECK_THROWS_WITH(sum(Tensor::arange(3)), Catch::Contains("sum: x is i32"));
  CHECK_THROWS_WITH(mean(x, {2}), Catch::Contains("mean: dimension 2"));
  CHECK_THROWS_WITH(sum(x, {1, -1}), Catch::Contains("named twice"));
  CHECK_THROWS_WITH(max(Tensor::zeros({2, 0})), Catch::Contains("max") && Catch::Contains("[2, 0]"));
  CHECK_THROWS_WITH(argmax(x, 5), Catch::Contains("argmax"));
  CHECK_THROWS_WITH(top_k(x, 4), Catch::Contains("top_k: k = 4") && Catch::Contains("[2, 3]"));
  CHECK_THROWS_AS(var(Tensor::arange(3)), Error);
  CHECK_THROWS_AS(cumsum(Tensor::arange(3)), Error);
  CHECK_THROWS_AS(top_k(Tensor::arange(3), 1), Error);
  CHECK_THROWS_AS(argmax(Tensor::arange(3)), Error);
}

TEST_CASE("reductions: goldens") {
  const auto axis = [](const OpCase& c) { return static_cast<int>(c.attribute("axis")); };
  check_op_goldens("sum", {"x"}, [&](const OpCase& c, const Tensors& x) -> Tensors { return {sum(x[0], {axis(c)})}; });
  check_op_goldens("mean", {"x"}, [&](const OpCase& c, const Tensors& x) -> Tensors { return {mean(x[0], {axis(c)}, true)}; });
  check_op_goldens("max", {"x"}, [&](const OpCase& c, const Tensors& x) -> Tensors { return {max(x[0], axis(c))}; });
  check_op_goldens("var", {"x"}, [&](const OpCase& c, const Tensors& x) -> Tensors { return {var(x[0], axis(c))}; });
  check_op_goldens("cumsum", {"x"}, [&](const OpCase& c, const Tensors& x) -> Tensors { return {cumsum(x[0], axis(c))}; });
  check_op_goldens("top_k", {"x"}, [](const OpCase& c, const Tensors& x) -> Tensors {
    const TopK y = top_k(x[0], static_cast<int>(c.attribute("k")));
    return {y.indices, y.values};
  });
}

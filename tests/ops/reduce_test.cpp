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

namespace {

// A slow reduction along one dimension: f maps a line to its results (one, or as many as it has elements).
Function line_reference(int dim, bool keep, std::function<std::vector<double>(const std::vector<double>&)> f) {
  return [=](const Tensors& in) -> Tensor {
    Tensor x = in[0].detach();
    if (x.rank() == 0) return Tensor::from(f({x.item()}), {});
    const int d = dim < 0 ? dim + x.rank() : dim;
    Shape shape = x.shape();
    const int64_t n = shape[d];
    int64_t outer = 1, inner = 1;
    for (int i = 0; i < x.rank(); ++i) (i < d ? outer : i > d ? inner : outer) *= i == d ? 1 : shape[i];
    const std::vector<double> v = x.to_vector();
    const size_t m = f(std::vector<double>(n, 0)).size();
    std::vector<double> y(outer * inner * m);
    for (int64_t o = 0; o < outer; ++o)
      for (int64_t i = 0; i < inner; ++i) {
        std::vector<double> line(n);
        for (int64_t k = 0; k < n; ++k) line[k] = v[(o * n + k) * inner + i];
        const std::vector<double> r = f(line);
        for (size_t k = 0; k < m; ++k) y[(o * m + k) * inner + i] = r[k];
      }
    Shape result;
    for (int i = 0; i < shape.rank; ++i)
      if (i != d) result.push(shape[i]);
      else if (m != 1 || keep || n == 1) {
        if (m != 1 || keep) result.push(static_cast<int64_t>(m));
      }
    return Tensor::from(y, result);
  };
}
double total(const std::vector<double>& v) {
  double s = 0;
  for (double d : v) s += d;
  return s;
}

struct Case {
  Shape shape;
  int dim;
  Layout layout;
};
Case sample_case(int sample) {
  switch (sample) {
    case 0: return {{}, -1, Layout::dense};
    case 1: return {{1}, 0, Layout::dense};
    case 2: return {{7, 13}, -1, Layout::dense};
    case 3: return {{7, 13}, 0, Layout::dense};
    case 4: return {{3, 5, 17}, 1, Layout::dense};
    case 5: return {{5, 31}, -1, Layout::transposed};
    case 6: return {{4, 9}, 0, Layout::strided};
    case 7: return {{3, 16}, -1, Layout::expanded};
    case 8: return {{3, 16}, 0, Layout::expanded};
    case 9: return {{2, 3, 4, 5}, 1, Layout::transposed};
    case 10: return {{3, 1500}, -1, Layout::dense};
    default: return {{300, 9}, 0, Layout::dense};
  }
}

using LineOp = Tensor (*)(const Tensor&, int dim, bool keep);
void check_line_op(const char* name, LineOp op, std::function<std::vector<double>(const std::vector<double>&)> f, bool distinct = false,
                   double f32_nmse = 1e-10) {
  for (bool keep : {false, true}) {
    Contract c;
    c.name = name;
    int dim = -1;
    c.inputs = [&](Random& r, int sample) -> Tensors {
      const Case k = sample_case(sample);
      dim = k.dim;
      return {with_layout(distinct ? r.distinct(k.shape) : r.normal(k.shape), distinct && k.layout == Layout::expanded ? Layout::offset : k.layout)};
    };
    c.fused = [&](const Tensors& x) { return op(x[0], dim, keep); };
    c.composite = [&](const Tensors& x) { return line_reference(dim, keep, f)(x)[0]; };
    c.f32_nmse = f32_nmse;
    if (keep) c.samples = 6;
    check_contract(c);
  }
}

}  // namespace

TEST_CASE("reductions: contracts") {
  check_line_op("sum", [](const Tensor& x, int d, bool k) { return x.rank() ? sum(x, {d}, k) : sum(x); },
                [](auto& v) { return std::vector<double>{total(v)}; });
  check_line_op("mean", [](const Tensor& x, int d, bool k) { return x.rank() ? mean(x, {d}, k) : mean(x); },
                [](auto& v) { return std::vector<double>{total(v) / v.size()}; });
  check_line_op("var", [](const Tensor& x, int d, bool k) { return var(x, d, k); }, [](auto& v) {
    double s = 0;
    for (double e : v) s += (e - total(v) / v.size()) * (e - total(v) / v.size());
    return std::vector<double>{s / v.size()};
  });
}

TEST_CASE("max, cumsum: contracts") {
  check_line_op("max", [](const Tensor& x, int d, bool k) {
    // bf16 cannot tell all of many distinct values apart, so the f64 reference at the same rounded inputs shares ties alike
    return max(x, d, k);
  }, [](auto& v) { return std::vector<double>{*std::max_element(v.begin(), v.end())}; }, true, 0);
  for (int sample_dim : {0, -1}) {
    Contract c;
    c.name = "cumsum";
    c.inputs = [&](Random& r, int sample) -> Tensors { return {with_layout(r.normal(sample == 0 ? Shape{} : Shape{awkward_size(sample), 5}), all_layouts[sample % 5])}; };
    c.fused = [&](const Tensors& x) { return cumsum(x[0], x[0].rank() ? sample_dim : -1); };
    c.composite = [&](const Tensors& x) {
      if (x[0].rank() == 0) return x[0];
      const int d = sample_dim < 0 ? 1 : 0;
      Tensors parts;
      Tensor run;
      for (int64_t i = 0; i < x[0].dim(d); ++i) {
        const Tensor s = slice(x[0], d, i, i + 1);
        run = run ? run + s : s;
        parts.push_back(run);
      }
      return concat(parts, d);
    };
    check_contract(c);
  }
}

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
  Contract c;
  c.name = "top_k";
  c.inputs = [](Random& r, int sample) -> Tensors { return {with_layout(r.distinct({3, awkward_size(sample) + 1}, 0.3), all_layouts[sample % 4])}; };
  c.fused = [](const Tensors& in) -> Tensors {
    const TopK y = top_k(in[0], 2);
    return {y.values, y.indices};
  };
  c.composite = [](const Tensors& in) -> Tensors {
    const Tensor first = argmax(in[0], -1, true);
    const Tensor rest = where(equal(Tensor::arange(in[0].dim(1)), first), Tensor::scalar(-1e9, DType::f64), in[0]);
    const Tensor second = argmax(rest, -1, true);
    const Tensor both = concat({first, second}, 1);
    return {gather(in[0], 1, both), both};
  };
  c.bf16_nmse = c.bf16_grad_nmse = 1e-5;
  check_contract(c);
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

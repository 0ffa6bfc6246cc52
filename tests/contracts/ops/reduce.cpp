#include <algorithm>
#include <cmath>

#include "autograd/ops.h"
#include "tests/contracts/ops/list.h"

namespace facet::test {
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

// The dimension is an input, as a number on the host.
int dim_of(const Tensors& x) { return static_cast<int>(x[1].item()); }

using LineOp = Tensor (*)(const Tensor&, int dim, bool keep);
using LineReference = std::vector<double> (*)(const std::vector<double>&);
void add_line_op(Contracts& all, const std::string& name, LineOp op, LineReference f, bool distinct = false, double f32_nmse = 1e-10) {
  for (bool keep : {false, true}) {
    Contract c;
    c.name = keep ? name + ": kept dimension" : name;
    c.inputs = [distinct](Random& r, int sample) -> Tensors {
      const Case k = sample_case(sample);
      return {with_layout(distinct ? r.distinct(k.shape) : r.normal(k.shape), distinct && k.layout == Layout::expanded ? Layout::offset : k.layout),
              Tensor::scalar(k.dim, DType::i32)};
    };
    c.host = {1};
    c.fused = [=](const Tensors& x) { return op(x[0], dim_of(x), keep); };
    c.composite = [=](const Tensors& x) { return line_reference(dim_of(x), keep, f)(x)[0]; };
    c.f32_nmse = f32_nmse;
    if (keep) c.samples = 6;
    all.push_back(c);
  }
}

Contract top_k_contract() {
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
  return c;
}

}  // namespace

Contracts reduce_contracts() {
  Contracts all;
  add_line_op(all, "sum", [](const Tensor& x, int d, bool k) { return x.rank() ? sum(x, {d}, k) : sum(x); },
              [](const std::vector<double>& v) { return std::vector<double>{total(v)}; });
  add_line_op(all, "mean", [](const Tensor& x, int d, bool k) { return x.rank() ? mean(x, {d}, k) : mean(x); },
              [](const std::vector<double>& v) { return std::vector<double>{total(v) / static_cast<double>(v.size())}; });
  add_line_op(all, "var", [](const Tensor& x, int d, bool k) { return var(x, d, k); }, [](const std::vector<double>& v) {
    double s = 0;
    for (double e : v) s += (e - total(v) / static_cast<double>(v.size())) * (e - total(v) / static_cast<double>(v.size()));
    return std::vector<double>{s / static_cast<double>(v.size())};
  });
  add_line_op(all, "max", [](const Tensor& x, int d, bool k) {
    // bf16 cannot tell all of many distinct values apart, so the f64 reference at the same rounded inputs shares ties alike
    return max(x, d, k);
  }, [](const std::vector<double>& v) { return std::vector<double>{*std::max_element(v.begin(), v.end())}; }, true, 0);
  for (int sample_dim : {0, -1}) {
    Contract c;
    c.name = sample_dim == 0 ? "cumsum" : "cumsum: last dimension";
    c.inputs = [sample_dim](Random& r, int sample) -> Tensors { return {with_layout(r.normal(sample == 0 ? Shape{} : Shape{awkward_size(sample), 5}), all_layouts[sample % 5])}; };
    c.fused = [sample_dim](const Tensors& x) { return cumsum(x[0], x[0].rank() ? sample_dim : -1); };
    c.composite = [sample_dim](const Tensors& x) {
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
    all.push_back(c);
  }
  all.push_back(top_k_contract());
  return all;
}

}  // namespace facet::test

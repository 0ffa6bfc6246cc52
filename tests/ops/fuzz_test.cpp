// Random graphs: what operations do alone is checked elsewhere, here how gradients meet and branch.
#include <catch2/catch.hpp>

#include "autograd/ops.h"
#include "tests/support/gradcheck.h"
#include "tests/support/random.h"

using namespace facet;
using namespace facet::test;

namespace {

// One more tensor made of those at hand; values stay of size one, so that differences stay accurate.
Tensor grow(Random& r, const Tensors& have) {
  const auto pick = [&] { return have[static_cast<size_t>(r.below(static_cast<int64_t>(have.size())))]; };
  const Tensor a = pick(), b = pick();
  const int dim = static_cast<int>(r.below(2));
  switch (r.below(20)) {
    case 0: return a + b;
    case 1: return a - b * 0.5;
    case 2: return tanh(a) * tanh(b);
    case 3: return a / (square(b) + 1.0);
    case 4: return sin(a + mean(b));
    case 5: return tanh(a) + expand(sum(tanh(b), {dim}, true), b.shape()) * 0.1;
    case 6: return softmax(a, dim) - b;
    case 7: return log_softmax(tanh(a), dim);
    case 8: return sigmoid(a) * b * 0.5;
    case 9: return gelu_tanh(a);
    case 10: return transpose(transpose(a) + transpose(tanh(b)));
    case 11: return concat({slice(a, dim, 0, 1), slice(b, dim, 1, b.dim(dim))}, dim);
    case 12: {
      const std::vector<Tensor> parts = split(a, {1, a.dim(dim) - 1}, dim);
      return concat({parts[1], parts[0]}, dim);
    }
    case 13: return reshape(reshape(a, {-1}) * 0.9, a.shape());
    case 14: return take(a, r.ids({a.dim(dim)}, a.dim(dim)), dim);
    case 15: return scatter_add(a, dim, r.ids(b.shape(), b.dim(dim)), tanh(b));
    case 16: return cumsum(a, dim) * 0.3;
    case 17: return where(less(r.normal(a.shape()), Tensor::scalar(0, DType::f64)), a, silu(b));
    case 18: return softcap(a, 3) + logsumexp(b, dim, true);
    default: return (a - mean(a, {dim}, true)) * rsqrt(var(a, dim, true) + 0.5);
  }
}

void fuzz(int first, int last) {
  for (int seed = first; seed < last; ++seed) {
    Random shapes(seed);
    const Shape shape{2 + shapes.below(3), 2 + shapes.below(4)};
    const Tensors inputs = {shapes.normal(shape), with_layout(shapes.normal(shape), all_layouts[seed % 4])};
    const Function graph = [&](const Tensors& x) -> Tensor {
      Random r(seed + 100000);
      Tensors have = x;
      const int64_t ops = 3 + r.below(10);
      for (int64_t i = 0; i < ops; ++i) have.push_back(grow(r, have));
      Tensor y = have.back();
      for (size_t i = 2; i + 1 < have.size(); i += 2) y = y + have[i] * 0.25;  // several outputs flow into one
      return y + x[0] * 0.0 + x[1] * 0.0;  // every input takes part
    };
    GradcheckOptions o;
    o.full_jacobian = 0;  // by directions
    o.rtol = 1e-5;
    gradcheck("graph " + std::to_string(seed), graph, inputs, o);
  }
}

}  // namespace

TEST_CASE("fuzz: 200 random graphs") { fuzz(0, 200); }
TEST_CASE("fuzz: 2,000 random graphs", "[full]") { fuzz(200, 2200); }

// Random graphs: what operations do alone is checked elsewhere, here how gradients meet and branch.
#include <catch2/catch.hpp>

#include <cmath>

#include "autograd/ops.h"
#include "tests/support/compare.h"
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

// ---- graphs of fused operations, and the same graphs of primitive ones

constexpr int64_t heads = 2, head_dim = 8, width = heads * head_dim;
constexpr double eps = 1e-6;

// One of either: a fused operation, or what it means, spelled out.
struct Ops {
  bool fused;
  bool again;        // keep less in forward and compute it again in backward
  Tensor positions;  // i32 [1, N]

  Tensor project(const Tensor& x, const Tensor& w) const { return fused ? linear(x, w) : matmul(x, transpose(w)); }
  Tensor norm(const Tensor& x, const Tensor& w) const { return fused ? rms_norm(x, w, eps) : x * rsqrt(mean(square(x), {-1}, true) + eps) * (w + 1.0); }
  Tensor centred_norm(const Tensor& x, const Tensor& w, const Tensor& b) const {
    return fused ? layer_norm(x, w, b, eps) : (x - mean(x, {-1}, true)) * rsqrt(var(x, -1, true) + eps) * w + b;
  }
  Tensor norm_of_sum(const Tensor& x, const Tensor& h, const Tensor& w, const Tensor& m) const {
    if (!fused) return project(norm(x + h, w), m) + (x + h) * 0.5;
    const SumNorm s = add_rms_norm(x, h, w, eps);
    return project(s.norm, m) + s.sum * 0.5;
  }
  Tensor norm_of_normed_sum(const Tensor& x, const Tensor& h, const Tensor& v, const Tensor& w, const Tensor& m) const {
    if (!fused) return project(norm(x + norm(h, v), w), m) - x - norm(h, v);
    const SumNorm s = norm_add_norm(x, h, v, w, eps);
    return project(s.norm, m) - s.sum;
  }
  Tensor adapt(const Tensor& x, const Tensor& y, const Tensor& w) const {
    return fused ? add_linear(y * 1.0, x, w, 0.5) : y + matmul(x, transpose(w)) * 0.5;
  }
  Tensor gate(const Tensor& a, const Tensor& b) const { return fused ? geglu(a, b) : gelu_tanh(a) * b; }
  Tensor some(const Tensor& x, Key key) const {
    return fused ? dropout(x, 0.25, key) : x * dropout(Tensor::full(x.shape(), 1, x.dtype()), 0.25, key);
  }
  Tensor turn(const Tensor& x, const Tensor& w) const {  // x [1, N, heads, head_dim]
    if (fused) return norm_rope(x, w, eps, positions, RopeTable(head_dim, 100));
    const Tensor y = norm(x, w), a = slice(y, 3, 0, head_dim / 2), b = slice(y, 3, head_dim / 2, head_dim);
    std::vector<double> cosines, sines;
    for (const double p : positions.to_vector())
      for (int64_t i = 0; i < head_dim / 2; ++i) {
        const double angle = p / std::pow(100.0, 2.0 * static_cast<double>(i) / head_dim);
        cosines.push_back(std::cos(angle));
        sines.push_back(std::sin(angle));
      }
    const Shape each{1, positions.dim(1), 1, head_dim / 2};
    const Tensor c = Tensor::from(cosines, each).to(x.dtype()), s = Tensor::from(sines, each).to(x.dtype());
    return concat({a * c - b * s, b * c + a * s}, 3);
  }
  // Every head by itself, keys and values shared by all, a window of 3.
  Tensor attend(const Tensor& x, const Tensor& y, const Tensor& w) const {
    const int64_t n = x.dim(0);
    const double scale = 0.4, cap = 4;
    const Tensor q = turn(reshape(x, {1, n, heads, head_dim}), w), kv = reshape(slice(y * 1.0, 1, 0, head_dim), {1, n, 1, head_dim}), k = turn(kv, w);
    if (fused) {
      AttentionMask mask;
      mask.q_positions = positions;
      mask.window = 3;
      return reshape(attention(q, k, kv, mask, scale, cap), {n, width});
    }
    std::vector<double> hidden;
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < n; ++j) hidden.push_back(j <= i && i - j < 3 ? 0 : -1e30);
    const Tensor scores = einsum("bqhd,bkd->bhqk", {q, reshape(k, {1, n, head_dim})}) * scale;
    const Tensor p = softmax(softcap(scores, cap) + Tensor::from(hidden, {1, 1, n, n}).to(x.dtype()), -1);
    return reshape(einsum("bhqk,bkd->bqhd", {p, reshape(kv, {1, n, head_dim})}), {n, width});
  }
  Tensor loss(const Tensor& h, const Tensor& w, const Tensor& labels) const {
    if (fused) return linear_cross_entropy(h, w, labels);
    return -sum(gather(log_softmax(matmul(h, transpose(w)), -1), 1, reshape(labels, {labels.dim(0), 1})));
  }
};

// Rows of a model's width, made of those at hand and of two matrices and two vectors, all of which are used again and again.
Tensor grow_fused(Random& r, const Ops& ops, const Tensors& have, const Tensor* w, const Tensor* v) {
  const auto pick = [&] { return have[static_cast<size_t>(r.below(static_cast<int64_t>(have.size())))]; };
  const Tensor a = pick(), b = pick();
  const Tensor& m = w[r.below(2)];
  const Tensor& n = v[r.below(2)];
  const bool less = r.below(2);
  const RecomputeScope scope(ops.again && less);
  switch (r.below(13)) {
    case 0: return ops.project(a, m);
    case 1: return ops.norm(a + b, n);
    case 2: return ops.centred_norm(a, v[0], v[1]);
    case 3: return ops.norm_of_sum(a, b, n, m);
    case 4: return ops.norm_of_normed_sum(a, b, v[0], v[1], m);
    case 5: return ops.adapt(a, b, m);
    case 6: return ops.gate(a, b * 0.5);
    case 7: return ops.some(a, key(static_cast<uint64_t>(r.below(1000))));
    // Views: part of a wider tensor, columns for rows, one row for all.
    case 8: return slice(concat({a, b}, 1), 1, width / 2, width + width / 2);
    case 9: return transpose(transpose(a) * 0.5);
    case 10: return expand(slice(a, 0, 0, 1), a.shape());
    case 11: {  // a block as checkpoint() wants it: made of one tensor and of what has no history
      const auto block = [ops, leaves = Tensors{w[0], w[1], v[0], v[1]}, start = r](const Tensor& x) {
        Random draws = start;
        Tensors made = {x};
        for (int64_t i = draws.below(3); i >= 0; --i) made.push_back(grow_fused(draws, ops, made, &leaves[0], &leaves[2]));
        return made.back();
      };
      r.bits();
      return ops.again && less ? checkpoint(block, a) : block(a);
    }
    default: return ops.attend(a, b, slice(n, 0, 0, head_dim)) + a;
  }
}

// The loss of a graph and its gradients to rows, matrices, vectors and the head.
Tensors run_fused(int seed, bool fused, DType dtype, bool again = false) {
  Random values(seed);
  const int64_t rows = 1 + values.below(9), classes = 2 + values.below(20);
  const auto leaf = [&](const Shape& s, double scale) { return values.normal(s, DType::f32, scale).to(dtype); };
  const Tensors inputs = {with_layout(leaf({rows, width}, 1), all_layouts[seed % 4]), leaf({rows, width}, 1), leaf({width, width}, 0.25), leaf({width, width}, 0.25),
                          leaf({width}, 0.5), leaf({width}, 0.5), leaf({classes, width}, 0.5)};
  const Tensor labels = values.ids({rows}, classes);
  const Function graph = [&](const Tensors& x) -> Tensor {
    Random r(seed + 100000);
    const Ops ops{fused, again, Tensor::arange(rows, DType::i32).reshape({1, rows})};
    Tensors have = {x[0], x[1]};
    const int64_t n = 2 + r.below(7);
    for (int64_t i = 0; i < n; ++i) have.push_back(grow_fused(r, ops, have, &x[2], &x[4]));
    Tensor h = have.back();
    for (size_t i = 2; i + 1 < have.size(); i += 2) h = h + have[i] * 0.25;
    for (size_t i = 2; i < 6; ++i) h = h + mean(x[i]) * 0.0;  // every input takes part
    return ops.loss(h + x[1] * 0.0, x[6], labels);
  };
  Tensors all = gradients(graph, inputs, {Tensor::full({}, 1, dtype)});
  all.push_back(graph(inputs)[0].detach());
  return all;
}

void fuzz_fused(int first, int last) {
  const int64_t before = tape_stats().recomputed;
  for (int seed = first; seed < last; ++seed) {
    INFO("seed " << seed);
    const Tensors exact = run_fused(seed, false, DType::f64), wide = run_fused(seed, true, DType::f64), narrow = run_fused(seed, true, DType::f32);
    for (size_t i = 0; i < exact.size(); ++i) {
      INFO("gradient " << i << (i + 1 == exact.size() ? " (the value)" : ""));
      CHECK(close(wide[i], exact[i], 1e-8, 1e-9));
      // Where all cancels, as in the loss of a label that is sure, what is left is the rounding of numbers of size one.
      if (!close(narrow[i], exact[i], 0, 1e-5)) CHECK(nmse_within(narrow[i], exact[i], 1e-8));
    }
    for (const DType d : {DType::f32, DType::bf16}) {
      const Tensors kept = d == DType::f32 ? narrow : run_fused(seed, true, d), again = run_fused(seed, true, d, true);
      for (size_t i = 0; i < again.size(); ++i) {
        INFO("computed again, " << name_of(d) << ", gradient " << i);
        CHECK(bitwise_equal(kept[i], again[i]));
      }
    }
  }
  CHECK(tape_stats().recomputed - before > (last - first) / 2);
}

}  // namespace

TEST_CASE("fuzz: 200 random graphs of fused operations are those of primitive ones") { fuzz_fused(0, 200); }
TEST_CASE("fuzz: 20,000 random graphs of fused operations are those of primitive ones", "[nightly]") { fuzz_fused(200, 20200); }
TEST_CASE("fuzz: 20,000 random graphs", "[nightly]") { fuzz(2200, 22200); }
TEST_CASE("fuzz: 200 random graphs") { fuzz(0, 200); }
TEST_CASE("fuzz: 2,000 random graphs", "[full]") { fuzz(200, 2200); }

#include <catch2/catch.hpp>

#include <cmath>
#include <limits>

#include "autograd/ops.h"
#include "autograd/ops/linear_loss.h"
#include "tensor/cpu/tier.h"
#include "tensor/parallel.h"
#include "tests/support/composite_cross_entropy.h"
#include "tests/support/contract.h"
#include "tests/support/goldens.h"

using namespace facet;
using namespace facet::test;

namespace {

/// A head at work: gradients of h and w after a step, by the pure op or by the root.
struct Step {
  double value;
  Tensor dh, dw;
};
Step pure(const Tensor& h, const Tensor& w, const Tensor& y, const Tensor& weights = {}, const CrossEntropyOptions& o = {}) {
  const Tensor hl = leaf(h), wl = leaf(w);
  const Tensor loss = linear_cross_entropy(hl, wl, y, weights, o);
  backward(loss);
  return {loss.item(), grad_of(hl), grad_of(wl)};
}
Step root(const Tensor& h, const Tensor& w, const Tensor& y, const Tensor& weights = {}, const CrossEntropyOptions& o = {}) {
  const Tensor hl = leaf(h), wl = leaf(w);
  const double value = linear_cross_entropy_backward(hl, wl, y, weights, o);
  return {value, grad_of(hl), grad_of(wl)};
}

/// A table lookup whose gradient scatters rows into the table's sink, as embedding()'s does.
Tensor lookup(const std::vector<int>& ids, const Tensor& table) {
  const int64_t n = static_cast<int64_t>(ids.size()), D = table.dim(1);
  Tensor y = Tensor::empty({n, D});
  const float* from = table.data<float>().data();
  for (int64_t i = 0; i < n; ++i)
    for (int64_t d = 0; d < D; ++d) y.out().as<float>()[i * D + d] = from[ids[i] * D + d];
  struct Scatter {
    std::vector<int> ids;
    int64_t D;
    void operator()(Grads dy, Sinks dx) {
      const Out to = dx[0].zeroed();
      const auto from = dy[0].data<float>();
      for (size_t i = 0; i < ids.size(); ++i)
        for (int64_t d = 0; d < D; ++d) to.as<float>()[ids[i] * D + d] += from[i * D + d];
    }
  };
  if (tracing(table)) attach("lookup", {&y}, {&table}, Scatter{ids, D});
  return y;
}

/// Highest memory of forward and backward, against all logits in f32.
double peak_over_logits(bool as_root) {
  Random r(3);
  const int64_t T = 1024, V = 65536, D = 4;
  const Tensor h = leaf(r.normal({T, D}, DType::f32)), w = leaf(r.normal({V, D}, DType::f32));
  const Tensor y = labels_of(r, {T}, V, 50);
  const size_t before = pool_stats().live_bytes;
  pool_reset_peak();
  if (as_root) linear_cross_entropy_backward(h, w, y);
  else backward(linear_cross_entropy(h, w, y));
  return static_cast<double>(pool_stats().peak_bytes - before) / static_cast<double>(T * V * 4);
}

}  // namespace

TEST_CASE("linear_cross_entropy: contract", "[contract]") { check_contracts("linear_cross_entropy"); }

TEST_CASE("linear_cross_entropy: the libraries' numbers") {
  for_each_op_case("cross_entropy", [](const OpCase& c) {
    const CrossEntropyOptions o{c.attribute("cap", 0), c.attribute("smoothing", 0), c.attribute("z", 0)};
    for (DType t : {DType::f64, DType::f32}) {
      // Logits as they are: h is the logits, w the identity; dh then is their gradient.
      const Tensor z = c.in("logits", t), y = c.in("labels");
      const int64_t V = z.dim(-1);
      std::vector<double> eye(V * V, 0.0);
      for (int64_t v = 0; v < V; ++v) eye[v * V + v] = 1;
      double tokens = 0;
      for (double label : y.to_vector()) tokens += label >= 0;
      const double dy = c.cotangent("y").item();
      const Tensor weights = Tensor::full(y.shape(), tokens > 0 ? 1 / tokens : 0, DType::f64);
      const Tensor h = leaf(z), w = Tensor::from(eye, {V, V}).to(t);
      const Tensor loss = linear_cross_entropy(h, w, y, weights, o);
      const double rtol = t == DType::f64 ? 1e-12 : 2e-5;
      CHECK(loss.item() == Approx(c.out("y").item()).epsilon(rtol).margin(rtol * 0.1));
      backward(loss, Tensor::scalar(dy, t));
      if (grad_of(h)) CHECK(close(grad_of(h), c.grad("logits"), rtol, rtol * 0.1));
      else CHECK(close(c.grad("logits"), Tensor::zeros(z.shape(), t), 0));
    }
  });
}

TEST_CASE("linear_cross_entropy: the root is the pure op in one pass") {
  Random r(1);
  for (DType t : {DType::f32, DType::f64}) {
    for (int every : {1000, 2}) {  // all rows carry loss; half of them
      const Tensor h = r.normal({2, 20, 9}, t), w = r.normal({33, 9}, t), y = labels_of(r, {2, 20}, 33, every);
      const Tensor weights = r.uniform({2, 20}, 0, 1, DType::f32);
      for (const auto& o : all_cross_entropy_options) {
        const Step a = pure(h, w, y, weights, o), b = root(h, w, y, weights, o);
        CHECK(a.value == Approx(b.value).epsilon(1e-6));
        CHECK(bitwise_equal(a.dh, b.dh));
        CHECK(bitwise_equal(a.dw, b.dw));
      }
    }
  }
}

TEST_CASE("linear_cross_entropy: many blocks of rows are one") {
  Random r(2);
  const int64_t N = 150, V = 70000, D = 3;
  REQUIRE(linear_loss_chunk(N, V) < N / 2);
  const Tensor h = r.normal({N, D}, DType::f32), w = r.normal({V, D}, DType::f32), y = labels_of(r, {N}, V, 10);
  const Step whole = root(h, w, y);
  // Row by row: the values add up, and so do the gradients.
  double total = 0;
  const Tensor hl = leaf(h), wl = leaf(w);
  for (int64_t n = 0; n < N; n += 25) {
    const Tensor part = leaf(h.slice(0, n, n + 25));
    total += linear_cross_entropy_backward(part, wl, y.slice(0, n, n + 25));
    CHECK(close(grad_of(part), whole.dh.slice(0, n, n + 25), 1e-5, 1e-6));
  }
  CHECK(total == Approx(whole.value).epsilon(1e-6));
  CHECK(close(grad_of(wl), whole.dw, 1e-4, 1e-6));
  CHECK(whole.value == Approx(plain_cross_entropy(h, w, y, {}, {}).item()).epsilon(1e-6));
}

TEST_CASE("linear_cross_entropy: an eighth of the logits is never held") {
  CHECK(peak_over_logits(true) < 1.0 / 8);
}
TEST_CASE("linear_cross_entropy: an eighth of the logits is never held by the pure op", "[full]") {
  CHECK(peak_over_logits(false) < 1.0 / 8);
}

TEST_CASE("linear_cross_entropy: rows without loss") {
  Random r(4);
  const Tensor h = r.normal({4, 5}, DType::f32), w = r.normal({6, 5}, DType::f32);
  SECTION("none left: the value is 0, and no gradient arrives") {
    const Tensor none = Tensor::from(std::vector<int32_t>{-1, -100, -1, -7}, {4});
    const Step a = pure(h, w, none), b = root(h, w, none);
    for (const Step& s : {a, b}) {
      CHECK(s.value == 0);
      CHECK_FALSE(s.dh);
      CHECK_FALSE(s.dw);
    }
  }
  SECTION("their hidden states are never read: NaN there does no harm, and dh is 0 there") {
    std::vector<float> bad(h.data<float>().begin(), h.data<float>().end());
    for (int d = 0; d < 5; ++d) bad[1 * 5 + d] = bad[3 * 5 + d] = std::numeric_limits<float>::quiet_NaN();
    const Tensor y = Tensor::from(std::vector<int32_t>{2, -1, 5, 3}, {4}), weights = Tensor::from({1, 1, 1, 0}, {4});
    const Step s = root(Tensor::from(bad, {4, 5}), w, y, weights);
    CHECK(std::isfinite(s.value));
    CHECK(close(s.dh.slice(0, 1, 2), Tensor::zeros({1, 5}), 0));
    CHECK(close(s.dh.slice(0, 3, 4), Tensor::zeros({1, 5}), 0));
    CHECK(close(s.dh.slice(0, 2, 3), root(h.slice(0, 2, 3), w, y.slice(0, 2, 3)).dh, 1e-6));
    CHECK(std::isfinite(nmse(s.dw, s.dw)));
  }
  SECTION("a NaN in a row that counts is not hidden") {
    const Tensor bad = Tensor::full({1, 5}, std::numeric_limits<double>::quiet_NaN());
    CHECK(std::isnan(root(bad, w, Tensor::from(std::vector<int32_t>{0}, {1})).value));
  }
  SECTION("one word: probability 1") {
    const Step s = root(h, w.slice(0, 0, 1), Tensor::zeros({4}, DType::i32));
    CHECK(s.value == Approx(0).margin(1e-6));
    CHECK(close(s.dh, Tensor::zeros({4, 5}), 0, 1e-6));
  }
}

TEST_CASE("linear_cross_entropy: large logits do not overflow") {
  const Tensor h = Tensor::from({3e4f, -3e4f}, {2, 1}), w = Tensor::from({1.0f, -1.0f, 0.5f}, {3, 1});
  const Step s = root(h, w, Tensor::from(std::vector<int32_t>{0, 0}, {2}));
  CHECK(s.value == Approx(6e4));
  CHECK(close(s.dh, Tensor::from({0, -2}, {2, 1}), 1e-6));
}

TEST_CASE("linear_cross_entropy: a frozen side costs nothing and changes nothing") {
  Random r(5);
  const Tensor h = r.normal({12, 7}, DType::f32), w = r.normal({19, 7}, DType::f32), y = labels_of(r, {12}, 19);
  const Step both = root(h, w, y);
  SECTION("head") {
    const Tensor hl = leaf(h);
    CHECK(linear_cross_entropy_backward(hl, w, y) == both.value);
    CHECK(bitwise_equal(grad_of(hl), both.dh));
  }
  SECTION("body") {
    const Tensor wl = leaf(w);
    CHECK(linear_cross_entropy_backward(h, wl, y) == both.value);
    CHECK(bitwise_equal(grad_of(wl), both.dw));
  }
  SECTION("both, or no gradient wanted") {
    CHECK(linear_cross_entropy_backward(h, w, y) == both.value);
    const Tensor hl = leaf(h), wl = leaf(w);
    NoGrad off;
    CHECK(linear_cross_entropy_backward(hl, wl, y) == both.value);
    CHECK_FALSE(grad_of(hl));
    CHECK_FALSE(linear_cross_entropy(hl, wl, y).slot());
  }
}

TEST_CASE("linear_cross_entropy: bf16") {
  Random r(6);
  const Tensor h = r.normal({12, 40}, DType::bf16, 0.5), w = r.normal({50, 40}, DType::bf16, 0.5), y = labels_of(r, {12}, 50);
  const Step truth = root(h.to(DType::f64), w.to(DType::f64), y);
  SECTION("weights under f32 activations: dw in f32") {
    const Step s = root(h.to(DType::f32), w, y);
    CHECK(s.value == Approx(truth.value).epsilon(1e-6));
    CHECK(s.dw.dtype() == DType::f32);
    CHECK(nmse_within(s.dw, truth.dw, 1e-12));
    CHECK(nmse_within(s.dh, truth.dh, 1e-12));
  }
  SECTION("activations too: as an activation's gradient, dh is bf16, rounded once") {
    const Tensor x = leaf(h.to(DType::f32)), wl = leaf(w);
    // the cast of a leaf, by hand, so that h has a bf16 sink
    Tensor hb = h.clone();
    struct Pass {
      void operator()(Grads dy, Sinks dx) {
        CHECK(dy[0].dtype() == DType::bf16);
        dx[0].pass(dy[0].to(DType::f32));
      }
    };
    attach("cast", {&hb}, {&x}, Pass{});
    CHECK(linear_cross_entropy_backward(hb, wl, y) == Approx(truth.value).epsilon(1e-6));
    CHECK(grad_of(wl).dtype() == DType::f32);
    CHECK(nmse_within(grad_of(wl), truth.dw, 1e-12));
    CHECK(nmse_within(grad_of(x), truth.dh, 1e-5));
  }
}

TEST_CASE("linear_cross_entropy: the gradients of a tied table meet in one sink") {
  Random r(7);
  const int64_t V = 40000, D = 24;
  const Tensor table = r.normal({V, D}, DType::f32, 0.3);
  const std::vector<int> ids{5, 9, 39999, 5, 12};
  const Tensor y = Tensor::from(std::vector<int32_t>{9, 3, -1, 12, 39998}, {5});

  const Tensor tied = leaf(table);
  const Tensor h = lookup(ids, tied);
  const size_t before = pool_stats().live_bytes;
  const int64_t copies = tape_stats().copies;
  pool_reset_peak();
  linear_cross_entropy_backward(h, tied, y);
  const size_t peak = pool_stats().peak_bytes - before;
  CHECK(peak < static_cast<size_t>(V * D) * sizeof(float) * 17 / 10);  // one table of gradients and 4 rows of logits
  CHECK(tape_stats().copies == copies);

  const Tensor in = leaf(table), out = leaf(table);
  linear_cross_entropy_backward(lookup(ids, in), out, y);
  std::vector<float> sum(V * D);
  for (int64_t i = 0; i < V * D; ++i) sum[i] = grad_of(out).data<float>()[i] + grad_of(in).data<float>()[i];
  CHECK(close(grad_of(tied), Tensor::from(sum, {V, D}), 1e-6, 1e-7));
}

TEST_CASE("linear_cross_entropy: micro-batches of any cut are the big batch") {
  Random r(8);
  const int64_t B = 8, T = 13, D = 11, V = 29;
  const Tensor x = r.normal({B, T, D}, DType::f32), w = r.normal({V, D}, DType::f32);
  std::vector<int32_t> labels;
  double tokens = 0;
  for (int64_t b = 0; b < B; ++b)
    for (int64_t t = 0; t < T; ++t) {  // ragged: sequence b has 1 + (5 b mod 12) tokens with loss
      labels.push_back(t <= 5 * b % 12 ? static_cast<int32_t>(r.below(V)) : -1);
      tokens += labels.back() >= 0;
    }
  const Tensor y = Tensor::from(labels, {B, T});
  const auto run = [&](int64_t size) {
    const Tensor wl = leaf(w), xl = leaf(x);
    double value = 0;
    for (int64_t b = 0; b < B; b += size) {
      const Tensor part = leaf(x.slice(0, b, b + size).dense());
      const Tensor weights = Tensor::full({size, T}, 1 / tokens);
      value += linear_cross_entropy_backward(part, wl, y.slice(0, b, b + size), weights);
    }
    return std::pair(value, grad_of(wl));
  };
  const auto [value, dw] = run(8);
  CHECK(value == Approx(plain_cross_entropy(x, w, y, Tensor::full({B, T}, 1 / tokens, DType::f64), {}).item()).epsilon(1e-6));
  for (int64_t size : {4, 2, 1}) {
    const auto [v, d] = run(size);
    CHECK(std::abs(v - value) < 1e-6);
    CHECK(close(d, dw, 0, 1e-6));
  }
}

TEST_CASE("linear_cross_entropy: threads do not change a bit, on every tier") {
  MachineScope restore;
  Random r(9);
  const Tensor h = r.normal({40, 16}, DType::f32), w = r.normal({5003, 16}, DType::f32), y = labels_of(r, {40}, 5003);
  const Step truth = root(h.to(DType::f64), w.to(DType::f64), y, {}, {20, 0.1, 1e-3});
  for (int tier = 0; tier <= static_cast<int>(cpu::best_tier()); ++tier) {
    cpu::set_tier(static_cast<cpu::Tier>(tier));
    set_threads(1);
    const Step one = root(h, w, y, {}, {20, 0.1, 1e-3});
    CHECK(one.value == Approx(truth.value).epsilon(1e-6));
    CHECK(nmse_within(one.dh, truth.dh, 1e-11));
    CHECK(nmse_within(one.dw, truth.dw, 1e-11));
    for (int t : {2, 4, 8}) {
      set_threads(t);
      const Step s = root(h, w, y, {}, {20, 0.1, 1e-3});
      CHECK(s.value == one.value);
      CHECK(bitwise_equal(s.dh, one.dh));
      CHECK(bitwise_equal(s.dw, one.dw));
    }
  }
}

TEST_CASE("linear_cross_entropy: says what is wrong") {
  const Tensor h = Tensor::zeros({2, 3}), w = Tensor::zeros({4, 3}), y = Tensor::zeros({2}, DType::i32);
  CHECK_THROWS_WITH(linear_cross_entropy(h, Tensor::zeros({4, 2}), y), Catch::Contains("h [2, 3] and w [4, 2]"));
  CHECK_THROWS_WITH(linear_cross_entropy(h, w, Tensor::zeros({3}, DType::i32)), Catch::Contains("labels i32 [3]"));
  CHECK_THROWS_WITH(linear_cross_entropy(h, w, Tensor::zeros({2})), Catch::Contains("labels f32"));
  CHECK_THROWS_WITH(linear_cross_entropy(h, w, Tensor::full({2}, 4, DType::i32)), Catch::Contains("label 4 in row 0"));
  CHECK_THROWS_WITH(linear_cross_entropy(h, w, y, Tensor::zeros({3})), Catch::Contains("weights"));
  CHECK_THROWS_WITH(linear_cross_entropy(h, w, y, leaf(Tensor::zeros({2}))), Catch::Contains("detach"));
  CHECK_THROWS_WITH(linear_cross_entropy(h, w.to(DType::f64), y), Catch::Contains("h is f32 and w is f64"));
  CHECK_THROWS_WITH(linear_cross_entropy(h.to(DType::bf16), w, y), Catch::Contains("h is bf16 and w is f32"));
  CHECK_THROWS_WITH(linear_cross_entropy(h, w, y, {}, {.label_smoothing = 1}), Catch::Contains("smoothing"));
  CHECK_THROWS_WITH(linear_cross_entropy(h, w, y, {}, {.cap = -1}), Catch::Contains("cap"));
  CHECK_THROWS_WITH(linear_log_probs(h, w, y, 0, 0), Catch::Contains("temperature"));
}

TEST_CASE("linear_cross_entropy: blocks of rows") {
  CHECK(linear_loss_chunk(3072, 20) == 3072);  // small vocabularies: one block
  CHECK(linear_loss_chunk(1, 262144) == 1);
  for (int64_t n : {65, 100, 129, 1000, 1024, 8192, 100000}) {
    const int64_t c = linear_loss_chunk(n, 262144);
    CHECK(c >= 33);
    CHECK(c <= 256);
    if (n >= 1000) CHECK(c <= n / 12);
  }
  CHECK(linear_loss_chunk(8192, 262144) == 256);
}

TEST_CASE("linear_log_probs: contract", "[contract]") { check_contracts("linear_log_probs"); }

TEST_CASE("linear_log_probs: rows whose gradient is 0 are not computed") {
  Random r(10);
  const Tensor h = leaf(r.normal({3, 4}, DType::f32)), w = leaf(r.normal({5, 4}, DType::f32));
  const Tensor y = Tensor::from(std::vector<int32_t>{1, 2, 3}, {3});
  backward(linear_log_probs(h, w, y), Tensor::from({0, -1, 0}, {3}));
  const Tensor dh = grad_of(h).clone(), dw = grad_of(w).clone();
  clear_grad(h);
  clear_grad(w);
  linear_cross_entropy_backward(h, w, Tensor::from(std::vector<int32_t>{-1, 2, -1}, {3}));
  CHECK(bitwise_equal(dh, grad_of(h)));
  CHECK(bitwise_equal(dw, grad_of(w)));
}

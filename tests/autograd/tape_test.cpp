#include "autograd/tape.h"

#include <catch2/catch.hpp>

#include "autograd/parameter.h"
#include "tensor/kernels/copy.h"

using namespace facet;

namespace {
// y = x * factor (+ nothing): a minimal op that writes into its sink.
struct ScaleGrad {
  double factor;
  void operator()(Grads dy, Sinks dx) {
    if (!dx[0]) return;
    Tensor scaled = dy[0].clone();
    float* p = scaled.out().as<float>();
    for (int64_t i = 0; i < scaled.numel(); ++i) p[i] *= static_cast<float>(factor);
    copy(scaled.view(), dx[0].dst());
  }
};
Tensor scale(const Tensor& x, double factor) {
  Tensor y = x.detach().clone();
  float* p = y.out().as<float>();
  for (int64_t i = 0; i < y.numel(); ++i) p[i] *= static_cast<float>(factor);
  if (tracing(x)) attach("scale", {&y}, {&x}, ScaleGrad{factor});
  return y;
}
struct PlusGrad {
  void operator()(Grads dy, Sinks dx) {
    dx[0].pass_sum(dy[0]);
    dx[1].pass_sum(dy[0]);
  }
};
Tensor plus(const Tensor& a, const Tensor& b) {
  Tensor y = a.detach().clone();
  copy(b.view(), y.out(true));
  if (tracing(a, b)) attach("plus", {&y}, {&a, &b}, PlusGrad{});
  return y;
}
}  // namespace

TEST_CASE("tape: a gradient is there when something was written, not when its memory is") {
  const Tensor x = leaf(Tensor::full({3}, 2));
  CHECK_FALSE(grad_memory(x));
  zero_grad(x);
  const void* const where = grad_memory(x).view().data;
  REQUIRE(where);
  CHECK_FALSE(grad_of(x));
  for (int pass = 1; pass <= 2; ++pass) {
    backward(scale(x, 3), Tensor::full({3}, 1));
    CHECK(grad_of(x).to_vector() == std::vector<double>(3, 3 * pass));
  }
  zero_grad(x);
  CHECK_FALSE(grad_of(x));
  CHECK(grad_memory(x).view().data == where);
  CHECK(grad_memory(x).to_vector() == std::vector<double>(3));
  backward(x, Tensor::full({3}, 5));
  CHECK(grad_of(x).to_vector() == std::vector<double>(3, 5));
  CHECK(grad_of(x).view().data == where);
  clear_grad(x);
  CHECK_FALSE(grad_memory(x));

  // A block that does not read x gives its memory back as it was.
  const Tensor other = leaf(Tensor::full({3}, 1));
  for (const bool reads : {false, true}) {
    zero_grad(x);
    const Tensor y = checkpoint([&](const Tensor& inner) { return reads ? plus(inner, other) : scale(other, 2); }, x);
    backward(y, Tensor::full({3}, 1));
    CHECK(static_cast<bool>(grad_of(x)) == reads);
    CHECK(grad_memory(x).to_vector() == std::vector<double>(3, reads));
  }

  // What the tape does not see: a graph that is replayed.
  set_grad_written(x, false);
  CHECK_FALSE(grad_of(x));
  set_grad_written(x, true);
  CHECK(grad_of(x).to_vector() == std::vector<double>(3, 1));
}

TEST_CASE("tape: a residual stack needs no gradient copy and no addition") {
  Tensor x = leaf(Tensor::full({4}, 1));
  tape_stats() = {};
  Tensor y = x;
  for (int i = 0; i < 5; ++i) y = plus(y, scale(scale(y, 2), 3));  // dy/dx = 7 per block
  backward(y, Tensor::full({4}, 1));
  CHECK(grad_of(x).to_vector() == std::vector<double>(4, 16807));
  CHECK(tape_stats().copies == 0);
  CHECK(tape_stats().adds == 0);
}

TEST_CASE("tape: x + op(x) costs exactly one copy") {
  Tensor x = leaf(Tensor::full({4}, 1));
  tape_stats() = {};
  backward(plus(x, scale(x, 2)), Tensor::full({4}, 1));
  CHECK(grad_of(x).to_vector() == std::vector<double>(4, 3));
  CHECK(tape_stats().copies == 1);
  CHECK(tape_stats().adds == 0);
}

TEST_CASE("tape: leaves accumulate in place over micro-batches") {
  Parameter p(Tensor::full({2}, 1));
  for (int i = 0; i < 3; ++i) backward(scale(scale(p.value(), 2), 2), Tensor::full({2}, 1));
  CHECK(p.grad().to_vector() == std::vector<double>{12, 12});
  p.clear_grad();
  CHECK_FALSE(p.grad());
  p.set_trains(false);
  CHECK_FALSE(scale(p.value(), 2).slot());
}

TEST_CASE("tape: one tensor twice in one node, and shared use") {
  Tensor x = leaf(Tensor::full({2}, 1));
  backward(plus(x, x), Tensor::full({2}, 1));
  CHECK(grad_of(x).to_vector() == std::vector<double>{2, 2});
  Tensor z = leaf(Tensor::full({2}, 1));
  Tensor s = scale(z, 3);
  backward(plus(scale(s, 1), scale(s, 2)), Tensor::full({2}, 1));
  CHECK(grad_of(z).to_vector() == std::vector<double>{9, 9});
}

TEST_CASE("tape: one tensor twice in a node that asks for both places before it writes either") {
  struct BothGrad {
    void operator()(Grads dy, Sinks dx) {
      const Out first = dx[0].dst(), second = dx[1].dst();
      copy(dy[0].view(), second);
      copy(dy[0].view(), first);
    }
  };
  const auto both = [](const Tensor& a, const Tensor& b) {
    Tensor y = a.detach().clone();
    copy(b.view(), y.out(true));
    attach("both", {&y}, {&a, &b}, BothGrad{});
    return y;
  };
  Tensor x = leaf(Tensor::full({2}, 1));
  backward(both(x, x), Tensor::full({2}, 3));
  CHECK(grad_of(x).to_vector() == std::vector<double>{6, 6});
  backward(both(x, x), Tensor::full({2}, 3));
  CHECK(grad_of(x).to_vector() == std::vector<double>{12, 12});
}

TEST_CASE("tape: the caller's gradient is never written") {
  Tensor x = leaf(Tensor::full({2}, 1));
  Tensor dy = Tensor::full({2}, 1);
  backward(plus(x, scale(x, 2)), dy);
  CHECK(dy.to_vector() == std::vector<double>{1, 1});
}

TEST_CASE("tape: an expanded gradient is made dense in one counted place, broadcasting sums") {
  Tensor x = leaf(Tensor::full({1, 3}, 1));
  tape_stats() = {};
  backward(scale(x, 2), Tensor::full({1, 1}, 1).expand({1, 3}));
  CHECK(tape_stats().dense == 1);
  Tensor b = leaf(Tensor::full({3}, 1));
  backward(plus(scale(Tensor::full({2, 3}, 1), 1), b), Tensor::full({2, 3}, 1));
  CHECK(grad_of(b).to_vector() == std::vector<double>{2, 2, 2});
}

TEST_CASE("tape: no_grad, detach, second backward, missing gradient") {
  Tensor x = leaf(Tensor::full({1}, 1));
  {
    NoGrad off;
    CHECK_FALSE(scale(x, 2).slot());
  }
  CHECK_FALSE(scale(x.detach(), 2).slot());
  Tensor y = scale(scale(x, 2), 2);
  backward(y);
  CHECK_THROWS_AS(backward(y), Error);
  Tensor shared = scale(x, 2);
  backward(scale(shared, 2));
  CHECK_THROWS_AS(backward(scale(shared, 2)), Error);  // its producer is spent: refused, not dropped
  Tensor z = x.detach().clone();
  attach_no_gradient("mystery", {&z}, {&x});
  CHECK_THROWS_WITH(backward(z), Catch::Contains("mystery: has no gradient"));
  CHECK_THROWS_WITH(x.reshape({1, 1}), Catch::Contains("detach()"));
}

TEST_CASE("tape: bf16 leaves collect f32 gradients") {
  Tensor w = leaf(Tensor::full({2}, 1, DType::bf16));
  Tensor y = w.detach().to(DType::f32);
  attach("cast", {&y}, {&w}, PlusGrad{});
  struct Pass { void operator()(Grads dy, Sinks dx) { dx[0].pass(dy[0]); } };
  Tensor z = w.detach().to(DType::f32);
  attach("cast", {&z}, {&w}, Pass{});
  backward(z, Tensor::full({2}, 1.0 / 3));
  CHECK(grad_of(w).dtype() == DType::f32);
  CHECK(grad_of(w).at({0}) == Approx(1.0 / 3).epsilon(1e-7));
}

TEST_CASE("tape: a chain of 100,000 operations is walked and destroyed without recursion") {
  Tensor x = leaf(Tensor::full({1}, 1));
  Tensor y = x;
  for (int i = 0; i < 100000; ++i) y = scale(y, 1);
  { Tensor unused = y; }
  Tensor dropped = x;
  for (int i = 0; i < 100000; ++i) dropped = scale(dropped, 1);
  dropped = {};
  backward(y);
  CHECK(grad_of(x).item() == 1);
}

TEST_CASE("tape: memory returns to where it was") {
  Tensor x = leaf(Tensor::full({100}, 1));
  const size_t before = pool_stats().live_bytes;
  { Tensor y = scale(scale(x, 2), 2); }
  CHECK(pool_stats().live_bytes == before);
}

TEST_CASE("tape: what a node saved is released by its backward, though the result lives on") {
  struct KeepGrad {
    Saved x;
    void operator()(Grads dy, Sinks dx) { dx[0].pass(dy[0]); }
  };
  Tensor x = leaf(Tensor::full({1000}, 1));
  const size_t before = pool_stats().live_bytes;
  Tensor y = Tensor::full({1}, 1);
  attach("keep", {&y}, {&x}, KeepGrad{Tensor::full({100'000}, 1)});
  CHECK(pool_stats().live_bytes >= before + 400'000);
  clear_grad(x);
  backward(y, Tensor::full({1}, 1));
  CHECK(pool_stats().live_bytes < before + 100'000);
}

namespace {
// y = x^2 as two operations: `twice` can be had again from x, and `times` keeps what it multiplies.
struct TwiceGrad {
  Saved x;
  void operator()(Grads dy, Sinks dx) { dx[0].pass(scale(dy[0], 2)); }
  bool recomputes(uint16_t) const { return true; }
  Tensor recompute(uint16_t) const { return scale(x.get(), 2); }
};
Tensor twice(const Tensor& x) {
  Tensor y = scale(x.detach(), 2);
  if (tracing(x)) attach("twice", {&y}, {&x}, TwiceGrad{x});
  return y;
}
struct SquareGrad {
  Kept x;
  void operator()(Grads, Sinks dx) { dx[0].pass(scale(x.get(), 2)); }
};
Tensor squared(const Tensor& x) {
  Tensor y = x.detach().clone();
  float* p = y.out().as<float>();
  for (int64_t i = 0; i < y.numel(); ++i) p[i] *= p[i];
  if (tracing(x)) attach("squared", {&y}, {&x}, SquareGrad{x});
  return y;
}
}  // namespace

TEST_CASE("recompute: what is cheap to have again is not kept, and the gradient is the same") {
  const Tensor x = leaf(Tensor::full({4096}, 3));
  size_t bytes[2];
  for (const bool again : {false, true}) {
    const RecomputeScope scope(again);
    CHECK(recomputing() == again);
    tape_stats() = {};
    clear_grad(x);
    const size_t before = pool_stats().live_bytes;
    const Tensor y = squared(twice(x));  // 4 x^2
    bytes[again] = pool_stats().live_bytes - before;
    const RecomputeScope other(!again);  // what counts is what was open in forward
    backward(y, Tensor::full({4096}, 1));
    CHECK(grad_of(x).to_vector() == std::vector<double>(4096, 24));
    CHECK(tape_stats().recomputed == (again ? 1 : 0));
  }
  CHECK(bytes[0] - bytes[1] >= 4 * 4096);
  CHECK_FALSE(recomputing());
}

TEST_CASE("recompute: what an earlier backward used up, or somebody wrote over, is an error") {
  const RecomputeScope scope(true);
  const Tensor value = Tensor::full({2}, 1), x = leaf(value);
  const Tensor shared = twice(x), y = squared(shared);
  backward(shared, Tensor::full({2}, 1));
  CHECK_THROWS_WITH(backward(y, Tensor::full({2}, 1)), Catch::Contains("\"twice\" was already used"));
  const Tensor z = squared(twice(x));
  value.out();
  CHECK_THROWS_WITH(backward(z, Tensor::full({2}, 1)), Catch::Contains("written in place"));
}

TEST_CASE("checkpoint: same gradients, frozen inputs included, no extra copy") {
  Parameter w(Tensor::full({3}, 5));
  Tensor x = leaf(Tensor::full({3}, 1));
  auto f = [&](const Tensor& t) {
    Tensor branch = scale(scale(t, 2), 2);  // named, since the order of arguments is the compiler's and decides who runs last
    return plus(branch, scale(w.value(), 3));
  };
  Tensor h = scale(x, 2);
  tape_stats() = {};
  backward(plus(h, checkpoint(f, h)), Tensor::full({3}, 1));
  CHECK(grad_of(x).to_vector() == std::vector<double>(3, 10));
  CHECK(w.grad().to_vector() == std::vector<double>(3, 3));
  CHECK(tape_stats().copies == 0);
  w.clear_grad();
  backward(checkpoint(f, Tensor::full({3}, 1)), Tensor::full({3}, 1));
  CHECK(w.grad().to_vector() == std::vector<double>(3, 3));
}

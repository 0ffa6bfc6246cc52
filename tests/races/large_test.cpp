// Calls of parallel_for that nothing else cuts here: too long for the samples of the contracts, or no operation's own.
#include <catch2/catch.hpp>

#include "autograd/ops.h"
#include "tensor/kernels/sgd.h"
#include "tensor/parallel.h"
#include "tensor/rng.h"
#include "tests/support/compare.h"
#include "tests/support/contract.h"
#include "tests/support/gradcheck.h"
#include "tests/support/random.h"

using namespace facet;
using namespace facet::test;

namespace {

// What f makes has the same bits on one thread and on four.
void same(const char* name, const std::function<Tensors()>& f) {
  INFO(name);
  const MachineScope restore;
  set_threads(4);  // first: what is made once and kept is made by four
  const Tensors many = f();
  set_threads(1);
  const Tensors one = f();
  for (size_t i = 0; i < one.size(); ++i) CHECK(bitwise_equal(many[i], one[i]));
}

// The same of an operation and its gradients.
void same_op(const char* name, const Function& f, const Tensors& x) {
  same(name, [&] {
    Tensors y;
    {
      const NoGrad off;
      y = f(x);
    }
    Tensors all = gradients(f, x, random_weights(y, 3));
    std::erase_if(all, [](const Tensor& t) { return !t; });
    all.insert(all.end(), y.begin(), y.end());
    return all;
  });
}

}  // namespace

TEST_CASE("races: operations on tensors of some size") {
  Random r(1);
  const auto normal = [&](const Shape& s) { return r.normal(s, DType::f32); };
  const auto two = [](auto f) { return [f](const Tensors& x) { return f(x[0], x[1]); }; };
  same_op("elementwise", two([](const Tensor& a, const Tensor& b) { return a * b; }), {normal({300, 200}), normal({200})});
  same_op("strided", two([](const Tensor& a, const Tensor& b) { return a + transpose(b); }), {normal({200, 300}), normal({300, 200})});
  same_op("rows summed", [](const Tensors& x) { return sum(x[0], {1}); }, {normal({5000, 30})});
  const Tensor rows = r.ids({300, 200}, 300), columns = r.ids({300, 200}, 200);
  same_op("gather", [&](const Tensors& x) { return Tensors{gather(x[0], 0, rows), gather(x[0], 1, columns)}; }, {normal({300, 200})});
  same_op("long sums of products", two([](const Tensor& a, const Tensor& b) { return matmul(a, b); }), {normal({30, 2048}), normal({2048, 200})});
  Tensor positions = Tensor::empty({20, 64}, DType::i32);
  for (int64_t i = 0; i < positions.numel(); ++i) positions.out().as<int32_t>()[i] = static_cast<int32_t>(i % 64);
  const AttentionMask mask{.q_positions = positions};
  same_op("attention in many rows", [&](const Tensors& x) { return attention(x[0], x[1], x[2], mask, 0.3); },
          {normal({20, 64, 1, 8}), normal({20, 64, 1, 8}), normal({20, 64, 1, 8})});
  const Tensor labels = r.ids({100}, 1000);
  same_op("log-probabilities", two([&](const Tensor& h, const Tensor& w) { return linear_log_probs(h, w, labels); }), {normal({100, 8}), normal({1000, 8})});
  same_op("loss", two([&](const Tensor& h, const Tensor& w) { return linear_cross_entropy(h, w, labels); }), {normal({100, 8}), normal({1000, 8})});
  same_op("a table of angles", two([&](const Tensor& x, const Tensor& w) { return norm_rope(x, w, 1e-6, positions, RopeTable(8, 100)); }),
          {normal({20, 64, 1, 8}), normal({8})});
}

TEST_CASE("races: random numbers and plain descent") {
  Random r(2);
  same("integers", [] { return Tensors{randint(key(1), {10000}, 0, 77)}; });
  const Tensor logits = r.normal({9, 50}, DType::f32);
  same("categories", [&] { return Tensors{categorical(key(2), logits)}; });
  const Tensor p = r.normal({100003}, DType::f32), g = r.normal({100003}, DType::f32);
  same("sgd", [&] {
    const Tensor value = p.clone(), trace = g.clone();
    sgd(value.out(), g.view(), trace.out(), {.lr = 0.1, .momentum = 0.9});
    return Tensors{value, trace};
  });
}

// The tree of modules: what one list of members in visit() gives.
#include "nn/module.h"

#include <catch2/catch.hpp>

#include "autograd/ops.h"
#include "nn/layers.h"
#include "nn/tap.h"
#include "tests/support/compare.h"
#include "tests/support/random.h"

using namespace facet;
using facet::test::bitwise_equal;
using facet::test::close;
using facet::test::Random;

namespace {

struct Inner final : Module {
  Linear up{4, 6};
  std::unique_ptr<RmsNorm> before, after;
  Inner() : after(std::make_unique<RmsNorm>(4, 1e-6)) {}
  void visit(Visitor& v) override {
    v("up", up);
    v("before", before);  // absent
    v("after", after);
  }
};

struct Tree final : Module {
  Embedding table{5, 4};
  std::vector<std::unique_ptr<Inner>> layers;
  Parameter bias{Tensor::zeros({3})};
  Tree() {
    for (int i = 0; i < 2; ++i) layers.push_back(std::make_unique<Inner>());
  }
  void visit(Visitor& v) override {
    v("table", table);
    v("layers", layers);
    v("bias", bias);
    v("head", table);  // tied
  }
};

std::vector<std::string> names(Module& m) {
  std::vector<std::string> r;
  for (const Parameter* p : parameters(m)) r.push_back(p->name);
  return r;
}

// y = x (W + b a)^T: what an adapter looks like to a Linear.
struct LowRank final : Weight {
  std::unique_ptr<Weight> base;
  Parameter a, b;  // [r, I], [O, r]
  LowRank(std::unique_ptr<Weight> w, Tensor a_, Tensor b_) : base(std::move(w)), a(std::move(a_)), b(std::move(b_)) {}
  void factors(pool_vector<Tensor>& list) const override {
    base->factors(list);
    list.push_back(a.value());
  }
  Tensor combine(const Tensor& x, std::span<Tensor> products) const override {
    return add(base->combine(x, products.first(1)), linear(products[1], b.value()));
  }
  DType compute() const override { return base->compute(); }
  int64_t inputs() const override { return base->inputs(); }
  int64_t outputs() const override { return base->outputs(); }
  void visit(Visitor& v) override {
    base->visit(v);
    v("lora_A", a);
    v("lora_B", b);
  }
};

void randomize(Module& m, Random& random) {
  for (Parameter* p : parameters(m)) p->reset(random.normal(p->value().shape(), DType::f32), true);
}

}  // namespace

TEST_CASE("module: names are paths in visiting order, absent members and second mentions are not listed") {
  Tree t;
  CHECK(names(t) == std::vector<std::string>{"table.weight", "layers.0.up.weight", "layers.0.after.weight", "layers.1.up.weight",
                                             "layers.1.after.weight", "bias"});
  const auto values = named_values(t);
  REQUIRE(values.size() == 6);
  CHECK(values[1].first == "layers.0.up.weight");
  CHECK(values[1].second.shape() == Shape{6, 4});
  CHECK(values[0].second.view().data == t.table.weight.value().view().data);  // the memory itself, not a copy
}

TEST_CASE("module: counts, a tied table once") {
  Tree t;
  CHECK(count_parameters(t) == 20 + 2 * (24 + 4) + 3);
  CHECK(count_parameters(*t.layers[0]) == 28);
  CHECK(set_trains(t, "layers.*", false) == 4);
  CHECK(count_parameters(t, true) == 23);
  CHECK(count_parameters(t) == 79);
}

TEST_CASE("module: patterns choose who trains") {
  Tree t;
  CHECK(set_trains(t, "*", false) == 6);
  CHECK(count_parameters(t, true) == 0);
  CHECK(set_trains(t, "*.after.weight", true) == 2);
  CHECK(count_parameters(t, true) == 8);
  CHECK(set_trains(t, "layers.1.up.weight", true) == 1);
  CHECK(set_trains(t, "layers.1", true) == 2);  // a module: all of it
  CHECK(set_trains(t, "layers.1.u", true) == 0);  // a whole name, not a part
  CHECK(set_trains(t, "layers.-1.*", false) == 2);
  CHECK_FALSE(t.layers[1]->after->weight.trains());
  CHECK(t.layers[0]->after->weight.trains());
  CHECK(set_trains(t, "layers.-1", true) == 2);
  CHECK(set_trains(t, "layers.-2.up.weight", true) == 1);
  for (const char* none : {"layers.-3", "layers.-0", "layers.-x", "layers.-", "table.-1", "layers.-99999999999999999999"}) CHECK(set_trains(t, none, true) == 0);
  CHECK(set_trains(t, "", true) == 0);
  CHECK_FALSE(t.bias.trains());
  CHECK(t.layers[1]->after->weight.trains());

  CHECK(matches("a*b*c", "a-b-b-c"));
  CHECK(matches("**", ""));
  CHECK(matches("*", "x"));
  CHECK(matches("a*", "a"));
  CHECK_FALSE(matches("a*b", "a"));
  CHECK_FALSE(matches("a", "ab"));
  CHECK_FALSE(matches("a.b", "axb"));  // a dot is a dot
  CHECK_FALSE(matches("*a*a*a*a*a*a*a*a*b", std::string(2000, 'a')));  // and quickly
}

TEST_CASE("module: the printed tree") {
  Tree t;
  set_trains(t, "layers.1.up.*", false);
  CHECK(to_string(t) ==
        "model  79 parameters\n"
        "  table  Embedding 5 x 4, 20 parameters\n"
        "    weight  f32[5, 4]\n"
        "  layers.0  28 parameters\n"
        "    up  Linear 4 -> 6, 24 parameters\n"
        "      weight  f32[6, 4]\n"
        "    after  RMSNorm 4 eps 1e-06, 4 parameters\n"
        "      weight  f32[4]\n"
        "  layers.1  28 parameters\n"
        "    up  Linear 4 -> 6, 24 parameters\n"
        "      weight  f32[6, 4]  frozen\n"
        "    after  RMSNorm 4 eps 1e-06, 4 parameters\n"
        "      weight  f32[4]\n"
        "  bias  f32[3]\n"
        "  head  Embedding 5 x 4, 20 parameters\n"
        "    weight  f32[5, 4]\n");
}

TEST_CASE("layers: what they compute") {
  Random random(1);
  const Tensor x = random.normal({3, 4}, DType::f32);
  RmsNorm norm(4, 1e-6);
  CHECK(close(norm(x), rms_norm(x, Tensor::zeros({4}), 1e-6), 0, 0));
  GatedMlp mlp(4, 6);
  randomize(mlp, random);
  CHECK(names(mlp) == std::vector<std::string>{"gate_proj.weight", "up_proj.weight", "down_proj.weight"});
  const Tensor want = mlp.down_proj(mul(gelu_tanh(mlp.gate_proj(x)), mlp.up_proj(x)));
  CHECK(close(mlp(x), want, 1e-5, 1e-6));
  Embedding table(5, 4);
  randomize(table, random);
  CHECK(table(Tensor::from(std::vector<int32_t>{3, 3, 0}, {3}), 2, DType::f32).at({1, 2}) == 2 * table.weight.value().at({3, 2}));
}

TEST_CASE("layers: several projections together give the bits and the gradients of each alone") {
  Random random(2);
  Linear p(5, 4), q(5, 7), r(5, 1);
  for (Linear* l : {&p, &q, &r}) randomize(*l, random);
  const Tensor value = random.normal({2, 3, 5}, DType::f32);
  const auto run = [&](bool together) {
    const Tensor x = leaf(value);
    for (Linear* l : {&p, &q, &r})
      for (Parameter* w : parameters(*l)) w->clear_grad();
    const auto y = together ? apply_together(x, {&p, &q, &r}) : pool_vector<Tensor>{p(x), q(x), r(x)};
    backward(add(add(sum(square(y[0])), sum(square(y[1]))), sum(square(y[2]))));
    std::vector<Tensor> all{y[0].detach(), y[1].detach(), y[2].detach(), grad_of(x).clone()};
    for (Linear* l : {&p, &q, &r}) all.push_back(parameters(*l)[0]->grad().clone());
    return all;
  };
  const auto one = run(true), three = run(false);
  for (size_t i = 0; i < 3; ++i) CHECK(bitwise_equal(one[i], three[i]));
  for (size_t i = 3; i < one.size(); ++i) CHECK(close(one[i], three[i], 1e-5, 1e-5));
}

TEST_CASE("layers: a weight that is more than a matrix joins the pass over x, and lists what it holds") {
  Random random(3);
  Linear plain(4, 6), adapted(4, 6);
  randomize(plain, random), randomize(adapted, random);
  const Tensor dense = parameters(adapted)[0]->value().clone(), a = random.normal({2, 4}, DType::f32), b = random.normal({6, 2}, DType::f32);
  adapted.weight = std::make_unique<LowRank>(std::move(adapted.weight), a.clone(), b.clone());
  CHECK(names(adapted) == std::vector<std::string>{"weight", "lora_A", "lora_B"});
  CHECK(adapted.describe() == "Linear 4 -> 6");

  const Tensor x = random.normal({3, 4}, DType::f32);
  const auto y = apply_together(x, {&plain, &adapted});
  CHECK(bitwise_equal(y[0].detach(), plain(x).detach()));
  CHECK(close(y[1].detach(), linear(x, add(dense, matmul(b, a))).detach(), 1e-5, 1e-5));

  set_trains(adapted, "weight", false);
  backward(sum(square(y[1])));
  set_trains(adapted, "weight", true);
  CHECK(parameters(adapted)[1]->grad());
  CHECK(parameters(adapted)[2]->grad());
}

TEST_CASE("taps: paths, nesting, silence without an observer") {
  std::vector<std::string> seen, inner;
  const Tensor x = Tensor::full({1}, 1);
  tap("nobody", x);
  CHECK_FALSE(tapping());
  {
    const TapScope before("outside", 0);  // opened while nobody listens: leaves no prefix
    const Taps taps([&](const std::string& path, const Tensor&) { seen.push_back(path); });
    CHECK(tapping());
    tap("plain", x);
    {
      const TapScope layer("layers", 3);
      tap("q", x);
      const TapScope head("heads", 1);
      tap("k", x);
      const Taps nested([&](const std::string& path, const Tensor& v) {
        CHECK(v.item() == 1);
        inner.push_back(path);
      });
      tap("hidden from the outer one", x);
    }
    tap("after", x);
  }
  CHECK_FALSE(tapping());
  CHECK(seen == std::vector<std::string>{"plain", "layers.3.q", "layers.3.heads.1.k", "after"});
  CHECK(inner == std::vector<std::string>{"layers.3.heads.1.hidden from the outer one"});
}

// The first value that is not finite is found where it was made, forward or backward, and nothing is found where nothing is.
#include "autograd/anomaly.h"

#include <catch2/catch.hpp>

#include <cmath>

#include "autograd/ops.h"

using namespace facet;
using Catch::Contains;

namespace {

Tensor values(std::initializer_list<float> list) { return Tensor::from(std::vector<float>(list), {static_cast<int64_t>(list.size())}); }

}  // namespace

TEST_CASE("anomaly: the range of a tensor, in each dtype, with what is not finite left out") {
  const std::vector<float> list = {3, -2.5, 0, -0.f, 7.25, 1e-30f};
  for (const DType dtype : {DType::f32, DType::bf16, DType::f64}) {
    const Range r = range_of(Tensor::from(list, {2, 3}).to(dtype));
    CHECK(r.least == -2.5);
    CHECK(r.greatest == 7.25);
    CHECK(r.bad == 0);
    CHECK(r.count == 6);
    for (const float bad : {NAN, -NAN, INFINITY, -INFINITY}) {
      Tensor t = Tensor::from(list, {2, 3});
      t.out().as<float>()[4] = bad;
      const Range b = range_of(t.to(dtype));
      CHECK(b.bad == 1);
      CHECK(b.least == -2.5);
      CHECK(b.greatest == 3);
    }
  }
  CHECK(std::isnan(range_of(values({NAN, INFINITY})).least));
  CHECK(range_of(Tensor::from(list, {2, 3}).permute({1, 0})).greatest == 7.25);
}

TEST_CASE("anomaly: what forward makes is named with its module, the place, and what it was made from") {
  Parameter p(values({1, 0, 4}));
  p.name = "layers.2.scale";
  Parameter* const list[] = {&p};
  const Anomaly look(list);
  {
    const ModuleScope layer("layers", 2), part("mlp");
    const Tensor y = mul(p.value(), values({2, 3, 4}));
    log(y);
    exp(mul(y, 1e4));
  }
  CHECK_THAT(look.found(), Catch::StartsWith("forward, log made [3] 0.693 to 2.77, 1 of 3 not finite in layers.2.mlp (tests/autograd/anomaly_test.cpp:") &&
                               Contains(", operation 2)") && Contains(", from mul [3] 0 to 16"));
}

TEST_CASE("anomaly: an input that was broken before is said to be") {
  Parameter p(values({1, NAN, 4}));
  p.name = "broken";
  Parameter* const list[] = {&p};
  const Anomaly look(list);
  add(p.value(), values({1, 1, 1}));
  CHECK(look.found() == "forward, add made [3] 2 to 5, 1 of 3 not finite, from broken [3] 1 to 4, 1 of 3 not finite, a constant [3] 1 to 1");
}

TEST_CASE("anomaly: what backward makes is named with where its operation was recorded") {
  Parameter p(values({1, 0, 4}));
  p.name = "w";
  Parameter* const list[] = {&p};
  const Anomaly look(list);
  Tensor y;
  {
    const ModuleScope scope("head");
    y = sqrt(p.value());  // its slope at 0 is infinite
  }
  CHECK(look.found() == "");
  backward(sum(y));
  CHECK_THAT(look.found(), Catch::StartsWith("backward, sqrt gave w a gradient [3] 0.25 to 0.5, 1 of 3 not finite; it made [3] 0 to 2 in head (tests/autograd/") &&
                               Contains("operation 1)") && Catch::EndsWith(", from a gradient [3] 1 to 1"));
}

TEST_CASE("anomaly: a gradient that comes from outside the tape") {
  Parameter p(values({1, 2}));
  const Anomaly look;
  const Tensor y = mul(p.value(), 2.0);
  backward(y, values({1, INFINITY}));
  CHECK_THAT(look.found(), Catch::StartsWith("the loss gave a gradient [2] 1 to 1, 1 of 2 not finite of mul [2] 2 to 4"));
}

TEST_CASE("anomaly: nothing is found where nothing is, and the gradients are the same bits") {
  const auto gradient = [](bool watched) {
    Parameter p(Tensor::from(std::vector<float>{0.5, -1, 2, 1.5, -2, 1}, {2, 3}));
    const auto f = [&](const Tensor& x) { return exp(mul(x, p.value())); };
    std::optional<Anomaly> look;
    if (watched) look.emplace();
    Tensor y = mul(p.value(), p.value());
    y = checkpoint(f, y);
    backward(sum(add(y, permute(y, {0, 1}))));
    if (watched) CHECK(look->found() == "");
    CHECK((anomaly_watch() != nullptr) == watched);
    return p.grad().to_vector();
  };
  CHECK(gradient(true) == gradient(false));
  CHECK(anomaly_watch() == nullptr);
}

TEST_CASE("anomaly: inside a checkpoint the operation is named, with its module and place, whichever way it goes wrong") {
  Parameter p(values({1, 0, 4}));
  p.name = "w";
  Parameter* const list[] = {&p};
  const auto branch = [&](const Tensor& x) {
    const ModuleScope part("mlp");
    return sqrt(mul(x, p.value()));  // its slope at 0 is infinite
  };
  {
    const Anomaly look(list);
    Tensor y;
    {
      const ModuleScope layer("layers", 2);
      y = checkpoint(branch, values({1, 1, 1}));
    }
    CHECK(look.found() == "");
    backward(sum(y));
    CHECK_THAT(look.found(), Catch::StartsWith("backward, sqrt gave mul a gradient [3] 0.25 to 0.5, 1 of 3 not finite; it made [3] 0 to 2 in layers.2.mlp (tests/autograd/") &&
                                 Contains(", operation 2 of what backward computes again)"));
  }
  const Anomaly look(list);
  const ModuleScope layer("layers", 2);
  checkpoint(branch, mul(p.value(), -1.0));
  CHECK_THAT(look.found(), Catch::StartsWith("forward, sqrt made [3] -0 to -0, 2 of 3 not finite in layers.2.mlp (tests/autograd/anomaly_test.cpp:") &&
                               Contains(", operation 2), from mul [3] -16 to -0"));
}

// A library that is faster and right is used, one that is wrong never. Here a function plays it.
#include <algorithm>
#include <cmath>

#include "tensor/gpu/measured_choice.h"
#include "tensor/gpu/pool.h"
#include "tensor/kernels/copy.h"
#include "tests/gpu/device.h"

using namespace facet;
using namespace facet::test;

namespace {

struct Scene {
  const gpu::Tuning before = (gpu::emulate(true), gpu::tuning());
  gpu::LtChoices choices{""};  // kept in memory
  gpu::LtKey key;
  Tensor right = Random(1).normal({6, 40}, DType::f32).to(Device::gpu), wrong = right.to(Device::cpu);
  Tensor y = Tensor::empty({6, 40}, DType::f32, Device::gpu);
  int library_calls = 0, own_calls = 0;
  bool serves = true, is_right = true;
  int slow_library = 0, slow_own = 0;  // further runs a call takes

  Scene() {
    gpu::set_tuning(gpu::Tuning::on);
    wrong.out().as<float>()[77] += 0.5f;
    wrong = wrong.to(Device::gpu);
    key.v[0] = 5;
  }
  ~Scene() { gpu::set_tuning(before); }

  void write(const Tensor& values, int more) {
    for (int i = 0; i <= more; ++i) copy(values.view(), y.out());
  }
  // What a call leaves, and who computed it last.
  std::string compute() {
    const gpu::MeasuredChoice<2> choice{"a test", "the library", {y.view(), View{}}, {2e-5, 3e-2}};
    std::string by;
    choice.compute(
        choices, key,
        [&] {
          ++library_calls;
          if (!serves) return false;
          write(is_right ? right : wrong, slow_library);
          by = "library";
          return true;
        },
        [&] {
          ++own_calls;
          write(right, slow_own);
          by = "own";
        });
    CHECK(bitwise_equal(y.to(Device::cpu), right.to(Device::cpu)));
    return by;
  }
};

}  // namespace

TEST_CASE("measured choice: the faster of two that agree, asked once") {
  Scene s;
  s.slow_own = 400;
  CHECK(s.compute() == "library");
  const int asked = s.own_calls;
  CHECK(s.compute() == "library");
  CHECK(s.own_calls == asked);
  Scene other;
  other.slow_library = 400;
  CHECK(other.compute() == "own");
  other.library_calls = 0;
  CHECK(other.compute() == "own");
  CHECK(other.library_calls == 0);
}

TEST_CASE("measured choice: a library that is wrong is not used, however fast") {
  Scene s;
  s.slow_own = 400;
  s.is_right = false;
  CHECK(s.compute() == "own");
  s.library_calls = 0;
  CHECK(s.compute() == "own");
  CHECK(s.library_calls == 0);
}

TEST_CASE("measured choice: no engine, no measuring, a wait that is allowed, no room") {
  Scene s;
  s.serves = false;
  CHECK(s.compute() == "own");
  Scene off;
  gpu::set_tuning(gpu::Tuning::off);
  CHECK(off.compute() == "own");
  CHECK(off.library_calls == 0);
  {
    Scene quiet;
    const gpu::NoSync nowhere;
    quiet.slow_own = 400;
    const gpu::MeasuredChoice<1> choice{"a test", "the library", {quiet.y.view()}, {2e-5, 3e-2}};
    CHECK_NOTHROW(choice.compute(quiet.choices, quiet.key, [&] { return quiet.write(quiet.right, 0), true; }, [&] { quiet.write(quiet.right, 1); }));
  }
  Scene full;
  const gpu::MeasuredChoice<1> choice{"a test", "the library", {full.y.view()}, {2e-5, 3e-2}};
  bool own = false;
  choice.compute(full.choices, full.key, []() -> bool { fail(Kind::memory, "no room for a workspace"); }, [&] { own = true; });
  CHECK(own);
  CHECK(full.choices.find(full.key) == nullptr);  // there may be room the next time
}

TEST_CASE("measured choice: a chosen library that fails costs a warning and is chosen no more; what else goes wrong is told") {
  Scene s;
  s.slow_own = 400;
  REQUIRE(s.compute() == "library");
  const gpu::MeasuredChoice<1> choice{"a test", "the library", {s.y.view()}, {2e-5, 3e-2}};
  int own = 0;
  const auto failing = [&](Kind kind) { return [=]() -> bool { fail(kind, "no engine"); }; };
  CHECK_THROWS_WITH(choice.compute(s.choices, s.key, failing(Kind::memory), [&] { ++own; }), "no engine");
  CHECK(own == 0);
  choice.compute(s.choices, s.key, failing(Kind::environment), [&] { ++own; });
  CHECK(own == 1);
  s.library_calls = 0;
  CHECK(s.compute() == "own");
  CHECK(s.library_calls == 0);
}

TEST_CASE("measured choice: how near two results are") {
  const Tensor a = Tensor::from(std::vector<float>{3, 4, 0, 0, 1e-9f, 0}, {3, 2});
  const auto with = [&](size_t i, float v) {
    const Tensor t = a.clone();
    t.out().as<float>()[i] = v;
    return t;
  };
  CHECK(gpu::nearness(a, a).within({0, 0}));
  const gpu::Nearness one = gpu::nearness(with(0, 3.5f), a);
  CHECK(one.nmse == Approx(0.25 / 25));
  CHECK(one.of_row == Approx(0.5 / std::sqrt(12.5)));
  CHECK(gpu::nearness(with(4, 0.1f), a).of_row == Approx(0.1 / std::sqrt(25.0 / 6)));  // a row of nothing: measured by all
  CHECK_FALSE(gpu::nearness(with(2, NAN), a).within({1e300, 1e300}));
  CHECK_FALSE(gpu::nearness(a, with(2, NAN)).within({1e300, 1e300}));
  CHECK(gpu::nearness(with(2, NAN), with(2, NAN)).within({0, 0}));
  CHECK_FALSE(gpu::nearness(with(2, INFINITY), with(2, -INFINITY)).within({1e300, 1e300}));
}

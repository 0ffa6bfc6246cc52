// The instruments are tested first: each must report an op that is wrong on purpose.
#include <catch2/catch.hpp>
#include <cmath>

#include "tensor/gpu/emulator/emulator.h"
#include "tests/contracts/device.h"
#include "tests/support/contract.h"
#include "tests/support/goldens.h"

using namespace facet;
using namespace facet::test;

namespace {

// y = x^2 with defects to choose from.
enum class Defect { none, factor, one_element, writes_over, aliases, detaches, layout };

struct SquareGrad {
  Saved x;
  Defect defect;
  void operator()(Grads dy, Sinks dx) {
    const std::vector<double> vx = x.get().to_vector();
    Out d = dx[0].dst();
    if (!d) return;
    const double* g = static_cast<const double*>(dy[0].view().data);
    double* p = d.as<double>();
    for (size_t i = 0; i < vx.size(); ++i) {
      double v = 2 * vx[i] * g[i];
      if (defect == Defect::factor) v *= 1.0001;
      if (defect == Defect::one_element && i == 2) v += 1e-4;
      p[i] = (d.accumulate && defect != Defect::writes_over ? p[i] : 0) + v;
    }
  }
};

Tensor squared(const Tensor& x, Defect defect = Defect::none) {
  std::vector<double> v = defect == Defect::layout ? Tensor::from(std::vector<double>(x.numel(), 3), x.shape()).to_vector() : x.to_vector();
  if (defect == Defect::layout && x.contiguous()) v = x.to_vector();
  for (double& d : v) d *= d;
  Tensor y = Tensor::from(v, x.shape());
  if (tracing(x) && defect != Defect::detaches) attach("squared", {&y}, {&x}, SquareGrad{x, defect});
  return y;
}

Function with(Defect defect) {
  return [defect](const Tensors& x) { return squared(x[0], defect); };
}

}  // namespace

TEST_CASE("harness: gradcheck accepts a right gradient in every layout") {
  Random random(1);
  for (Layout l : all_layouts) gradcheck("squared", with(Defect::none), {with_layout(random.normal({3, 5}), l)});
  gradcheck("squared", with(Defect::none), {random.normal({70, 70})});  // by directions
  gradcheck("squared", with(Defect::none), {Tensor::scalar(2, DType::f64)});
  gradcheck("squared", with(Defect::none), {Tensor::empty({0, 3}, DType::f64)});
}

TEST_CASE("harness: gradcheck reports every kind of wrong gradient") {
  Random random(2);
  const Tensor x = random.normal({3, 5}), large = random.normal({70, 70});
  const auto says = [](const std::vector<std::string>& errors, const std::string& words) {
    for (const std::string& e : errors)
      if (e.find(words) != std::string::npos) return true;
    return false;
  };
  CHECK(says(gradient_errors("squared", with(Defect::factor), {x}), "input 0 element 0, output 0 element 0: analytic"));
  CHECK(says(gradient_errors("squared", with(Defect::factor), {large}), "direction"));
  CHECK(says(gradient_errors("squared", with(Defect::one_element), {x}), "element 2"));
  CHECK(says(gradient_errors("squared", with(Defect::writes_over), {x}), "accumulate"));
  CHECK(says(gradient_errors("squared", with(Defect::detaches), {x}), "detached"));
  CHECK(says(gradient_errors("squared", with(Defect::layout), {with_layout(x, Layout::strided)}), "layout"));
}

TEST_CASE("harness: gradcheck moves inputs off kinks and refuses f32") {
  const Tensor x = Tensor::from(std::vector<double>{0, 1e-5, -1e-5, 1}, {4});
  bool seen = false;
  GradcheckOptions o;
  o.kinks = {0};
  gradcheck("squared", [&](const Tensors& t) {
    for (double v : t[0].to_vector()) seen |= std::abs(v) < 1e-3;
    return squared(t[0]);
  }, {x}, o);
  CHECK_FALSE(seen);
  CHECK_THROWS_AS(gradient_errors("squared", with(Defect::none), {x.to(DType::f32)}), Error);
}

TEST_CASE("harness: comparisons name the worst element") {
  const Tensor a = Tensor::from({1, 2, 3, 4}, {2, 2}), b = Tensor::from({1, 2, 3.5, 4.1}, {2, 2});
  CHECK(close(a, a, 0, 0));
  CHECK_FALSE(close(a, b, 1e-3));
  CHECK_THAT(close(a, b, 1e-3).message, Catch::Contains("at [1, 0]: 3 against 3.5"));
  CHECK_FALSE(close(a, Tensor::from({1, 2, 3, 4}, {4}), 1));
  CHECK(nmse(a, a) == 0);
  CHECK(nmse(b, a) == Approx(0.26 / 30).epsilon(1e-6));
  CHECK_FALSE(nmse_within(b, a, 1e-3));
  CHECK(bitwise_equal(a, a.clone()));
  CHECK_FALSE(bitwise_equal(Tensor::from({0.f}, {1}), Tensor::from({-0.f}, {1})));
  CHECK_FALSE(bitwise_equal(a, a.to(DType::f64)));
  const float next = std::nextafter(3.f, 4.f);
  CHECK(max_ulp(Tensor::from({3.f}, {1}), Tensor::from({next}, {1})) == 1);
  CHECK(max_ulp(Tensor::from({-0x1p-149f}, {1}), Tensor::from({0x1p-149f}, {1})) == 2);
  const Tensor nan = Tensor::from({NAN, INFINITY}, {2});
  CHECK(close(nan, nan, 0));
  CHECK_FALSE(close(nan, Tensor::from({NAN, -INFINITY}, {2}), 1e9));
  CHECK(nmse(Tensor::from({NAN, 1}, {2}), Tensor::from({1, 1}, {2})) == INFINITY);
}

TEST_CASE("harness: layouts keep the values") {
  const Tensor x = Random(3).normal({4, 5, 6});
  for (Layout l : {Layout::dense, Layout::transposed, Layout::strided, Layout::offset}) {
    CHECK(bitwise_equal(with_layout(x, l), x));
    CHECK(with_layout(x, l).contiguous() == (l == Layout::dense || l == Layout::offset));
  }
  CHECK(with_layout(x, Layout::expanded).stride()[0] == 0);
}

TEST_CASE("harness: contract runs all modes on an op with several dtypes") {
  Contract c;
  c.name = "squared";
  c.samples = 2;
  c.dtypes = {DType::f64};
  c.inputs = [](Random& r, int sample) -> Tensors { return {r.normal({3, awkward_size(sample)})}; };
  c.fused = with(Defect::none);
  c.composite = [](const Tensors& x) { return squared(x[0]); };
  check_contract(c);
}

TEST_CASE("harness: distances between devices") {
  const Tensor a = Tensor::from({1, 2, 3, 4}, {2, 2});
  CHECK(distance(a, a, DType::f32).nmse == 0);
  const Distance d = distance(Tensor::from({1, 2, 3, 4.04f}, {2, 2}), a, DType::bf16);
  CHECK(d.nmse == Approx(0.04 * 0.04 / 30).epsilon(1e-3));
  CHECK(d.of_row == Approx(0.04 / std::sqrt(30.0 / 4)).epsilon(1e-3));  // short rows count as one
  CHECK(d.beyond == 0);                                                // 4 ulp of bf16 at 4 are 0.125
  CHECK(distance(Tensor::from({1, 2, 3, 4.2f}, {2, 2}), a, DType::bf16).beyond == 0.25);
  const Tensor wide = Tensor::full({2, 16}, 1), one = wide.clone();
  one.out().as<float>()[3] = 1.5f;
  CHECK(distance(one, wide, DType::f32).of_row == 0.5);
  const Tensor nan = Tensor::from({NAN, INFINITY}, {2});
  CHECK(distance(nan, nan, DType::f32).nmse == 0);
  CHECK(distance(nan, Tensor::from({NAN, 1}, {2}), DType::f32).nmse == INFINITY);
  CHECK(distance(Tensor::from({NAN, 1}, {2}), Tensor::from({2, 1}, {2}), DType::f32).of_row == INFINITY);
  CHECK(distance(Tensor::from({1e-3f}, {1}), Tensor::from({0}, {1}), DType::f32).nmse == INFINITY);
}

namespace {
// x^2 for any device: computed on the host and moved, with something wrong where x lies on the GPU.
enum class There { nothing, value, gradient, random, leak, throws };
struct SquareThere {
  Saved x;
  There wrong;
  void operator()(Grads dy, Sinks dx) {
    const Device d = dy[0].device();
    const double f = d == Device::gpu && wrong == There::gradient ? 2.01 : 2;
    std::vector<double> v = x.get().to_vector(), g = dy[0].to_vector();
    for (size_t i = 0; i < v.size(); ++i) g[i] *= f * v[i];
    dx[0].pass(Tensor::from(g, dy[0].shape()).to(DType::f32).to(d));
  }
};
Tensors kept;
Contract square_with(There wrong) {
  static int calls = 0;
  Contract c;
  c.name = "squared";
  c.kind = Arithmetic::elementwise;
  c.samples = 2;
  c.inputs = [](Random& r, int sample) -> Tensors { return {r.normal({3, awkward_size(sample)})}; };
  c.fused = [wrong](const Tensors& x) {
    const bool there = x[0].device() == Device::gpu;
    if (there && wrong == There::throws) fail(Kind::usage, "squared: a mistake");
    std::vector<double> v = x[0].detach().to_vector();
    for (double& d : v) d *= d;
    if (there && wrong == There::value) v[1] *= 1.05;
    if (there && wrong == There::random) v[0] += 1e-9 * ++calls;  // too little for a comparison with the CPU
    Tensor y = Tensor::from(v, x[0].shape()).to(x[0].dtype()).to(x[0].device());
    if (there && wrong == There::random && x[0].dtype() == DType::f32) y = Tensor::from(v, x[0].shape()).to(DType::f32).to(Device::gpu);
    if (there && wrong == There::leak) kept.push_back(y);
    if (tracing(x[0])) attach("squared", {&y}, {&x[0]}, SquareThere{x[0], wrong});
    return y;
  };
  return c;
}
struct Emulated {
  Emulated() { gpu::emulate(true); }
  ~Emulated() { gpu::emulate(false); }
};
}  // namespace

TEST_CASE("harness: the device mode reports every kind of wrong result") {
  const Emulated device;
  const auto says = [](There wrong, const std::string& words) {
    for (const std::string& f : run_on_device(square_with(wrong)).failures)
      if (f.find(words) != std::string::npos) return true;
    return false;
  };
  const DeviceResult right = run_on_device(square_with(There::nothing));
  for (const std::string& f : right.failures) FAIL_CHECK(f);
  CHECK(right.ran == 4);
  CHECK(says(There::value, "squared sample 0: [3, 1] in f32: output 0: NMSE"));
  CHECK(says(There::value, "root mean square"));
  CHECK(says(There::value, "in bf16"));
  CHECK(says(There::gradient, "gradient of input 0"));
  CHECK(says(There::random, "differs from run to run"));
  CHECK(says(There::leak, "leaves 12 bytes of device memory behind"));
  kept.clear();
  CHECK(says(There::throws, "squared sample 0: squared: a mistake"));
  CHECK(run_on_device(square_with(There::nothing), {.most_elements = 10}).left_out == 2);
}

TEST_CASE("harness: goldens are read, compared and complete") {
  check_op_goldens("square", {"x"}, [](const OpCase&, const Tensors& x) -> Tensors {
    if (x[0].dtype() == DType::f64) return {squared(x[0])};
    Tensor y = squared(x[0].detach().to(DType::f64)).to(DType::f32);
    struct Grad {
      Saved x;
      void operator()(Grads dy, Sinks dx) {
        const Tensor wide = leaf(x.get().to(DType::f64));
        WithGrad on;
        backward(squared(wide), dy[0].to(DType::f64));
        dx[0].pass(grad_of(wide).to(DType::f32));
      }
    };
    attach("square", {&y}, {&x[0]}, Grad{x[0]});
    return {y};
  });
  int cases = 0;
  for_each_op_case("max", [&](const OpCase& c) {
    ++cases;
    CHECK(c.attribute("axis") == -1);
    CHECK(c.attribute("missing", 7) == 7);
    CHECK_THROWS_AS(c.attribute("missing"), Error);
    CHECK(c.in("x").dtype() == DType::f64);
    CHECK(c.cotangent("y").shape() == c.out("y").shape());
  });
  CHECK(cases == 6);
}

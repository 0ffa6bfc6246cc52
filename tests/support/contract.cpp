#include "tests/support/contract.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdlib>

#include "tensor/cpu/tier.h"
#include "tensor/parallel.h"
#include "tests/contracts/device.h"

namespace facet::test {

MachineScope::MachineScope() : threads_(threads()), tier_(static_cast<int>(cpu::current_tier())) {}
MachineScope::~MachineScope() {
  set_threads(threads_);
  cpu::set_tier(static_cast<cpu::Tier>(tier_));
}

namespace {

struct Result {
  Tensors y, grad;
};

class Runner {
 public:
  Runner(const Contract& c, int sample) : c_(c) {
    Sample s = make_sample(c, sample);
    x_ = std::move(s.inputs);
    what_ = std::move(s.what);
  }

  void run() {
    INFO(what_);
    const MachineScope restore;
    if (c_.differentiable) gradcheck(c_.name, c_.fused, x_, c_.gradcheck);
    for (int t = 0; t <= static_cast<int>(cpu::best_tier()); ++t) {
      cpu::set_tier(static_cast<cpu::Tier>(t));
      INFO("tier " << cpu::name_of(cpu::current_tier()));
      for (DType d : c_.dtypes) against_composite(d);
    }
    for (DType d : c_.dtypes) {
      same_on_threads(d, {2, 4, 8});
      if (c_.differentiable) accumulate(d);
    }
  }
  void run_threads() {
    INFO(what_);
    const MachineScope restore;
    for (DType d : c_.dtypes) same_on_threads(d, {4});
  }

 private:
  Tensors inputs_in(DType d) const { return test::inputs_in(c_, x_, d); }
  static Tensors in_f64(Tensors x) {
    for (Tensor& t : x)
      if (t && t.dtype() != DType::i32) t = t.to(DType::f64);
    return x;
  }

  Result evaluate(const Function& f, const Tensors& x) const {
    Result r;
    {
      NoGrad off;
      r.y = f(x);
    }
    if (c_.differentiable) r.grad = gradients(f, x, weights_for(r.y), c_.gradcheck.fixed);
    return r;
  }
  void against_composite(DType d) {
    INFO("in " << facet::name_of(d) << " against the " << (c_.composite ? "composite" : "f64 run") << " in f64");
    const Tensors x = inputs_in(d);
    const Result got = evaluate(c_.fused, x);
    const Function& slow = c_.composite ? c_.composite : c_.fused;
    if (d == DType::f64 && !c_.composite) return;
    const Result expected = evaluate(slow, in_f64(x));
    REQUIRE(got.y.size() == expected.y.size());
    for (size_t k = 0; k < got.y.size(); ++k) {
      INFO("output " << k);
      if (got.y[k].dtype() == DType::i32) CHECK(close(got.y[k], expected.y[k], 0, 0));
      else compare(got.y[k], expected.y[k], d, d == DType::f32 ? c_.f32_nmse : c_.bf16_nmse);
    }
    if (!c_.differentiable) return;
    Tensors grads = expected.grad;
    if (!recorded(slow, x)) {  // values only: the op's own f64 gradient, which gradcheck has proved, is the reference
      if (d == DType::f64) return;
      grads = gradients(c_.fused, in_f64(x), weights_for(expected.y), c_.gradcheck.fixed);
    }
    for (size_t i = 0; i < got.grad.size(); ++i) {
      if (!got.grad[i]) continue;
      INFO("gradient of input " << i);
      compare(got.grad[i], grads[i], d, d == DType::f32 ? c_.f32_grad_nmse : c_.bf16_grad_nmse);
    }
  }
  void compare(const Tensor& a, const Tensor& b, DType d, double limit) const {
    double largest = 0;
    for (double v : b.to_vector())
      if (std::isfinite(v)) largest = std::max(largest, std::abs(v));
    if (d == DType::f64) {
      CHECK(close(a, b, 0, c_.f64_rtol * largest + 1e-15));
    } else if (largest < 1e-12) {  // the true value cancels to nothing: what is left is the rounding of inputs of size one
      CHECK(close(a, b, 0, 1e-5));
    } else {
      // A handful of elements may all be rounded by the full half unit (2^-8 relative in bf16), twice in a gradient.
      if (d == DType::bf16 && a.numel() < 64) limit = std::max(limit, 0x1p-14);
      CHECK(nmse_within(a, b, limit));
    }
  }
  bool recorded(const Function& f, const Tensors& x) const {
    Tensors l = in_f64(x);
    for (Tensor& t : l)
      if (t && t.dtype() != DType::i32) t = leaf(t);
    for (const Tensor& y : f(l))
      if (y.slot()) return true;
    return false;
  }

  void same_on_threads(DType d, std::initializer_list<int> counts) {
    INFO("in " << facet::name_of(d));
    const Tensors x = inputs_in(d);
    set_threads(1);
    const Result one = evaluate(c_.fused, x);
    for (int n : counts) {
      INFO(n << " threads against one");
      set_threads(n);
      const Result many = evaluate(c_.fused, x);
      for (size_t k = 0; k < one.y.size(); ++k) CHECK(bitwise_equal(many.y[k], one.y[k]));
      for (size_t i = 0; i < one.grad.size(); ++i)
        if (one.grad[i]) CHECK(bitwise_equal(many.grad[i], one.grad[i]));
    }
    set_threads(0);
  }

  void accumulate(DType d) {
    INFO("two backward passes into one leaf, " << facet::name_of(d));
    const Tensors x = inputs_in(d);
    Tensors y;
    {
      NoGrad off;
      y = c_.fused(x);
    }
    const Tensors weights = weights_for(y);
    const Tensors once = gradients(c_.fused, x, weights, c_.gradcheck.fixed);
    Tensors l = x;
    for (size_t i = 0; i < l.size(); ++i)
      if (once[i]) l[i] = leaf(x[i]);
    for (int pass = 0; pass < 2; ++pass) {
      const Tensor s = weighted_sum(c_.fused(l), weights);
      if (s.slot()) backward(s);
    }
    for (size_t i = 0; i < l.size(); ++i) {
      if (!once[i] || !grad_of(l[i])) continue;
      INFO("input " << i);
      std::vector<double> twice = once[i].to_vector();
      double largest = 0;
      for (double& v : twice) largest = std::max(largest, std::abs(v *= 2));
      const double rtol = d == DType::f64 ? 1e-13 : 1e-6;
      CHECK(close(grad_of(l[i]), Tensor::from(twice, once[i].shape()), rtol, rtol * (std::isfinite(largest) ? largest : 0)));
    }
  }

  const Contract& c_;
  Tensors x_;
  std::string what_;
};

}  // namespace

void check_contract(const Contract& c) {
  const char* mode = std::getenv("FACET_CONTRACT");
  if (!mode || !*mode) {
    for (int s = 0; s < c.samples; ++s) Runner(c, s).run();
    return;
  }
  if (std::string(mode) == "threads") {
    for (int s = 0; s < c.samples; ++s) Runner(c, s).run_threads();
    return;
  }
  if (std::string(mode) != "gpu") fail(Kind::usage, "FACET_CONTRACT is \"{}\", expected gpu, threads or nothing", mode);
  // Threads of a block are emulated one after the other, so large samples are for real devices.
  const DeviceResult r = run_on_device(c, {.most_elements = 200000});
  if (r.left_out > 0) WARN(c.name << ": " << r.left_out << " samples are too large for the emulator");
  CHECK(r.ran > 0);
  for (const std::string& f : r.failures) FAIL_CHECK(f);
}

void check_contracts(const std::string& page) {
  int found = 0;
  for (const Contract& c : contracts()) {
    if (c.page != page) continue;
    ++found;
    check_contract(c);
  }
  INFO("tests/contracts/ops/" << page << ".cpp");
  CHECK(found > 0);
}

}  // namespace facet::test

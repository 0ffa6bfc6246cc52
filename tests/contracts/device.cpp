#include "tests/contracts/device.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "tensor/gpu/pool.h"
#include "tensor/gpu/runtime.h"

namespace facet::test {
namespace {

// 2^-mantissa: the distance of neighbours, relative to the power of two below them.
double ulp_at(double x, DType d) {
  int exponent;
  std::frexp(x, &exponent);
  return std::ldexp(1, exponent - 1 - (d == DType::bf16 ? 7 : 23));
}

struct Outcome {
  Tensors y, grad;  // on the CPU
};

// A tensor on the device with the strides it had: the layouts are part of what is tested.
Tensor moved(const Tensor& t) {
  if (!t) return t;
  const Tensor x = t.detach();
  if (x.contiguous()) return x.to(Device::gpu);
  bool repeats = false;
  Tensor base = x;
  for (int i = 0; i < x.rank(); ++i)
    if (x.dim(i) > 1 && x.stride()[i] == 0) {
      base = base.slice(i, 0, 1);
      repeats = true;
    }
  if (repeats) return base.to(Device::gpu).expand(x.shape());
  if (x.rank() > 1 && x.stride()[-1] != 1 && x.transpose(-1, -2).contiguous()) return x.transpose(-1, -2).to(Device::gpu).transpose(-1, -2);
  // A window of a larger tensor: every second element, with neighbours that no one may touch.
  return with_layout(x.to(Device::gpu), Layout::strided);
}

Tensors fetched(const Tensors& list) {
  Tensors host = list;
  for (Tensor& t : host)
    if (t) t = t.detach().to(Device::cpu);
  return host;
}

class Runner {
 public:
  Runner(const Contract& c, const DeviceOptions& o, DeviceResult& r) : c_(c), o_(o), r_(r) {}

  void sample(int i) {
    const Sample s = make_sample(c_, i);
    for (DType d : o_.dtypes) {
      if (std::find(c_.dtypes.begin(), c_.dtypes.end(), d) == c_.dtypes.end()) continue;
      what_ = s.what + " in " + facet::name_of(d);
      const Tensors x = inputs_in(c_, s.inputs, d);
      const Tensors y = values(c_.fused, x);
      int64_t elements = 0;
      for (const Tensors* list : {&x, &y})
        for (const Tensor& t : *list) elements += t ? t.numel() : 0;
      if (o_.most_elements > 0 && elements > o_.most_elements) {
        ++r_.left_out;
        continue;
      }
      const Tensors weights = weights_for(y);
      const Outcome want = on_cpu(x, y, weights);
      const auto exact = [&] {
        Tensors wide = x, w = weights;
        for (Tensors* list : {&wide, &w})
          for (Tensor& t : *list)
            if (t && t.dtype() != DType::i32) t = t.to(DType::f64);
        return on_cpu(wide, values(c_.fused, wide), w);
      };
      std::vector<Outcome> got;
      {
        const gpu::GuardScope guard;
        got.push_back(on_device(x, weights));  // may leave tables behind that later calls share
      }
      for (const std::string& broken : gpu::broken_sentinels()) failed("{}", broken);
      const int64_t held = held_bytes();
      for (int run = 1; run < o_.runs; ++run) got.push_back(on_device(x, weights));
      if (held_bytes() != held) failed("every run leaves {} bytes of device memory behind", (held_bytes() - held) / (o_.runs - 1));
      ++r_.ran;
      compare(got[0], want, exact, d);
      for (int run = 1; run < o_.runs; ++run) repeats(got[static_cast<size_t>(run)], got[0]);
    }
  }

 private:
  template <class... A>
  void failed(fmt::format_string<A...> format, A&&... a) {
    r_.failures.push_back(what_ + ": " + fmt::format(format, std::forward<A>(a)...));
  }

  static Tensors values(const Function& f, const Tensors& x) {
    const NoGrad off;
    return f(x);
  }
  static int64_t held_bytes() { return static_cast<int64_t>(gpu::pool_stats().live_bytes); }

  Outcome on_device(const Tensors& x, const Tensors& weights) {
    Tensors there = x, w = weights;
    for (size_t i = 0; i < there.size(); ++i)
      if (std::find(c_.host.begin(), c_.host.end(), static_cast<int>(i)) == c_.host.end()) there[i] = moved(there[i]);
    for (Tensor& t : w)
      if (t) t = t.to(Device::gpu);
    Outcome o;
    o.y = fetched(values(c_.fused, there));
    if (c_.differentiable) o.grad = fetched(gradients(c_.fused, there, w, c_.gradcheck.fixed));
    return o;
  }

  Outcome on_cpu(const Tensors& x, const Tensors& y, const Tensors& weights) const {
    return {y, c_.differentiable ? gradients(c_.fused, x, weights, c_.gradcheck.fixed) : Tensors()};
  }

  void compare(const Outcome& got, const Outcome& want, const std::function<Outcome()>& exact, DType d) {
    for (size_t k = 0; k < want.y.size(); ++k)
      near(fmt::format("output {}", k), got.y[k], want.y[k], [&] { return exact().y[k]; }, d, false);
    for (size_t i = 0; i < want.grad.size(); ++i) {
      if (!want.grad[i] || !got.grad[i]) {
        if (static_cast<bool>(want.grad[i]) != static_cast<bool>(got.grad[i]))
          failed("input {} has a gradient on the {} alone", i, want.grad[i] ? "CPU" : "GPU");
        continue;
      }
      near(fmt::format("gradient of input {}", i), got.grad[i], want.grad[i], [&] { return exact().grad[i]; }, d, true);
    }
  }

  void near(const std::string& part, const Tensor& a, const Tensor& b, const std::function<Tensor()>& exact, DType d, bool backward) {
    if (!(a.shape() == b.shape()) || a.dtype() != b.dtype()) {
      failed("{} is {} {}, on the CPU {} {}", part, facet::name_of(a.dtype()), to_string(a.shape()), facet::name_of(b.dtype()), to_string(b.shape()));
      return;
    }
    if (b.dtype() == DType::i32 || (c_.kind == Arithmetic::none && !backward)) {
      if (const Comparison same = bitwise_equal(a, b); !same) failed("{}: {}", part, same.message);
      return;
    }
    const Distance limit = limit_of(c_.kind, d, backward);
    Distance far = distance(a, b, d, c_.kind);
    if (share(far, limit) > 1) {
      // Where terms cancel, both are as far from the truth as from each other: then the GPU must be as near to it as the CPU is.
      const Tensor truth = exact();
      const Distance here = distance(a, truth, d, c_.kind), there = distance(b, truth, d, c_.kind);
      if (here.nmse <= 2 * there.nmse && here.of_row <= 2 * there.of_row && here.beyond <= 2 * there.beyond) return;
    }
    r_.worst = std::max(r_.worst, share(far, limit));
    if (far.nmse > limit.nmse) failed("{}: NMSE {:.3g} > {:g}; {}", part, far.nmse, limit.nmse, close(a, b, 0, 0).message);
    if (far.of_row > limit.of_row) failed("{}: {:.3g} of a row's root mean square > {:g}; {}", part, far.of_row, limit.of_row, close(a, b, 0, 0).message);
    if (limit.beyond > 0 && far.beyond > allowed_beyond(far, limit)) failed("{}: {:.3g} of the elements beyond 4 ulp, {:g} are allowed; {}", part, far.beyond, limit.beyond, close(a, b, 0, 0).message);
  }
  // One element is a large share of a few.
  static double allowed_beyond(const Distance& far, const Distance& limit) { return std::max(limit.beyond, 1.0 / static_cast<double>(far.elements)); }
  static double share(const Distance& far, const Distance& limit) {
    return std::max({far.nmse / limit.nmse, far.of_row / limit.of_row, limit.beyond > 0 ? far.beyond / allowed_beyond(far, limit) : 0});
  }

  void repeats(const Outcome& again, const Outcome& first) {
    const auto same = [&](const std::string& part, const Tensor& a, const Tensor& b) {
      if (!a && !b) return;
      if (const Comparison c = bitwise_equal(a, b); !c) failed("{} differs from run to run: {}", part, c.message);
    };
    for (size_t k = 0; k < first.y.size(); ++k) same(fmt::format("output {}", k), again.y[k], first.y[k]);
    for (size_t i = 0; i < first.grad.size(); ++i) same(fmt::format("gradient of input {}", i), again.grad[i], first.grad[i]);
  }

  const Contract& c_;
  const DeviceOptions& o_;
  DeviceResult& r_;
  std::string what_;
};

}  // namespace

Distance distance(const Tensor& a, const Tensor& b, DType ulps_of, Arithmetic kind) {
  const std::vector<double> x = a.to_vector(), y = b.to_vector();
  Distance d;
  d.elements = static_cast<int64_t>(y.size());
  if (y.empty()) return d;
  int64_t width = b.rank() ? b.dim(-1) : 1;
  if (width < 16) width = b.numel();
  double least = 0;  // what elements and rows are measured by at least
  if (kind == Arithmetic::attention || kind == Arithmetic::head) {
    for (double v : y) least += std::isfinite(v) ? v * v : 0;
    least = std::sqrt(least / static_cast<double>(y.size()));
  }
  double error = 0, power = 0;
  int64_t beyond = 0;
  for (size_t row = 0; row < y.size(); row += static_cast<size_t>(width)) {
    double most = 0, squares = 0;
    for (size_t i = row; i < row + static_cast<size_t>(width); ++i) {
      const bool same = x[i] == y[i] || (std::isnan(x[i]) && std::isnan(y[i]));
      const double far = same ? 0 : std::isfinite(x[i]) && std::isfinite(y[i]) ? std::abs(x[i] - y[i]) : INFINITY;
      most = std::max(most, far);
      error += far * far;
      if (std::isfinite(y[i])) squares += y[i] * y[i];
      beyond += far > 0 && !(far <= 4 * ulp_at(std::max(std::abs(y[i]), least), ulps_of));
    }
    power += squares;
    if (most > 0) d.of_row = std::max(d.of_row, most / std::max(least, std::sqrt(squares / static_cast<double>(width))));
  }
  if (error > 0) d.nmse = error / power;
  d.beyond = static_cast<double>(beyond) / static_cast<double>(y.size());
  return d;
}

Distance limit_of(Arithmetic kind, DType d, bool backward) {
  if (d == DType::f32) return kind == Arithmetic::elementwise && !backward ? Distance{1e-12, 1e-5, 0, 0} : Distance{1e-10, 1e-4, 0, 0};
  if (kind == Arithmetic::head) return backward ? Distance{5e-4, 1e-1, 5e-2, 0} : Distance{5e-5, 5e-2, 5e-3, 0};
  if (backward) return {5e-5, 5e-2, 5e-3, 0};
  return kind == Arithmetic::attention ? Distance{2e-5, 3e-2, 5e-3, 0} : Distance{1e-5, 2e-2, 1e-3, 0};
}

DeviceResult run_on_device(const Contract& c, const DeviceOptions& o) {
  gpu::device();  // throws without one
  DeviceResult r;
  r.name = c.name;
  const auto begin = std::chrono::steady_clock::now();
  Runner run(c, o, r);
  for (int i = 0; i < c.samples; ++i) {
    try {
      run.sample(i);
    } catch (const Error& e) {
      if (e.kind() == Kind::environment) throw;  // the device itself
      r.failures.push_back(fmt::format("{} sample {}: {}", c.name, i, e.what()));
      break;
    }
  }
  r.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return r;
}

}  // namespace facet::test

#include "tests/support/gradcheck.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "tests/support/compare.h"
#include "tests/support/random.h"

namespace facet::test {
namespace {

struct WeightedSumGrad {
  Tensors weights;
  void operator()(Grads, Sinks dx) {
    for (size_t i = 0; i < weights.size(); ++i)
      if (weights[i]) dx[i].pass(weights[i]);
  }
};

bool contains(const std::vector<int>& list, int i) { return std::find(list.begin(), list.end(), i) != list.end(); }
bool is_floating(const Tensor& t) { return t && t.dtype() != DType::i32; }

Tensors leaves(const Tensors& x, const std::vector<int>& fixed) {
  Tensors r = x;
  for (int i = 0; i < static_cast<int>(x.size()); ++i)
    if (is_floating(x[i]) && !contains(fixed, i)) r[i] = leaf(x[i]);
  return r;
}

Tensors collect(const Tensors& x) {
  Tensors g(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    if (!x[i].slot()) continue;
    g[i] = grad_of(x[i]);
    if (!g[i]) g[i] = Tensor::zeros(x[i].shape(), acc_dtype(x[i].dtype()), x[i].device());  // nothing depends on this input
  }
  return g;
}

double dot(const Tensor& a, const Tensor& b) {
  const std::vector<double> va = a.to_vector(), vb = b.to_vector();
  double s = 0;
  for (size_t i = 0; i < va.size(); ++i) s += va[i] * vb[i];
  return s;
}

Tensor scaled(const Tensor& x, double s) {
  std::vector<double> v = x.to_vector();
  for (double& d : v) d *= s;
  return Tensor::from(v, x.shape()).to(x.dtype());
}

Tensor sum_of(const Tensor& a, const Tensor& b) {
  std::vector<double> va = a.to_vector(), vb = b.to_vector();
  for (size_t i = 0; i < va.size(); ++i) va[i] += vb[i];
  return Tensor::from(va, a.shape()).to(a.dtype());
}

class Check {
 public:
  Check(const std::string& name, const Function& f, const Tensors& inputs, const GradcheckOptions& o)
      : name_(name), f_(f), inputs_(inputs), o_(o) {
    for (int i = 0; i < static_cast<int>(inputs_.size()); ++i) {
      if (!is_floating(inputs_[i]) || contains(o_.fixed, i)) continue;
      if (inputs_[i].dtype() != DType::f64)
        fail(Kind::usage, "gradcheck {}: input {} is {}; differences need f64", name, i, facet::name_of(inputs_[i].dtype()));
      wanted_.push_back(i);
      if (!o_.kinks.empty()) inputs_[i] = away_from_kinks(inputs_[i]);
    }
    dense_ = inputs_;
    for (Tensor& t : dense_)
      if (t) t = t.detach().clone();
  }

  std::vector<std::string> run() {
    if (!check_forward()) return errors_;
    int64_t in = 0, out = 0;
    for (int i : wanted_) in += inputs_[i].numel();
    for (size_t k = 0; k < y_.size(); ++k)
      if (weights_[k]) out += y_[k].numel();
    if (in * out <= o_.full_jacobian) jacobian();
    else directions();
    behaviour();
    return errors_;
  }

 private:
  template <class... A>
  void error(fmt::format_string<A...> format, A&&... a) {
    errors_.push_back(name_ + ": " + fmt::format(format, std::forward<A>(a)...));
  }
  void expect(const Comparison& c, const std::string& what) {
    if (!c) error("{}: {}", what, c.message);
  }

  Tensor away_from_kinks(const Tensor& x) const {
    std::vector<double> v = x.to_vector();
    bool moved = false;
    for (double& d : v)
      for (double k : o_.kinks)
        if (std::abs(d - k) < 1e-3) {
          d = k + (d < k ? -0.01 : 0.01);
          moved = true;
        }
    return moved ? Tensor::from(v, x.shape()) : x;
  }

  bool check_forward() {
    NoGrad off;
    y_ = f_(inputs_);
    weights_ = random_weights(y_, 17);
    const Tensors dense = f_(dense_);
    Tensors traced;
    {
      WithGrad on;
      traced = f_(leaves(inputs_, o_.fixed));
    }
    for (size_t k = 0; k < y_.size(); ++k) {
      expect(close(y_[k], dense[k], 1e-10, 1e-12), fmt::format("output {} depends on the layout of the inputs", k));
      expect(bitwise_equal(y_[k], traced[k]), fmt::format("output {} changes when gradients are recorded", k));
      if (y_[k].slot()) error("output {} is recorded although gradients are off", k);
      if (weights_[k] && !wanted_.empty() && y_[k].numel() > 0 && !traced[k].slot()) {
        error("output {} is detached from its inputs", k);
        return false;
      }
      if (!weights_[k] && traced[k].slot()) error("integer output {} claims a gradient", k);
    }
    return errors_.empty();
  }

  // Moves one element (or, with a direction, all) and returns (f(x + h u) - f(x - h u)) / 2h per output.
  std::vector<std::vector<double>> difference(const Tensors& plus, const Tensors& minus, double h) const {
    NoGrad off;
    const Tensors a = f_(plus), b = f_(minus);
    std::vector<std::vector<double>> r(a.size());
    for (size_t k = 0; k < a.size(); ++k) {
      r[k] = a[k].to_vector();
      const std::vector<double> vb = b[k].to_vector();
      for (size_t i = 0; i < r[k].size(); ++i) r[k][i] = (r[k][i] - vb[i]) / (2 * h);
    }
    return r;
  }

  // The rounding of values of this size, seen through the difference quotient.
  double noise(double size, double h) const { return 8 * 0x1p-53 * size / h; }
  bool agree(double a, double n, double extra) const {
    return std::abs(a - n) <= o_.atol + extra + o_.rtol * std::max(std::abs(a), std::abs(n));
  }

  void jacobian() {
    // numeric[i][k]: [elements of input i][elements of output k]
    std::vector<std::vector<std::vector<std::vector<double>>>> numeric(wanted_.size());
    for (size_t w = 0; w < wanted_.size(); ++w) {
      const int i = wanted_[w];
      const std::vector<double> x = dense_[i].to_vector();
      for (size_t e = 0; e < x.size(); ++e) {
        const double h = o_.step * std::max(1.0, std::abs(x[e]));
        Tensors plus = dense_, minus = dense_;
        plus[i] = dense_[i].clone();
        minus[i] = dense_[i].clone();
        plus[i].out().as<double>()[e] = x[e] + h;
        minus[i].out().as<double>()[e] = x[e] - h;
        numeric[w].push_back(difference(plus, minus, h));
      }
    }
    for (size_t k = 0; k < y_.size(); ++k) {
      if (!weights_[k]) continue;
      const std::vector<double> y = y_[k].to_vector();
      for (size_t r = 0; r < y.size(); ++r) {
        Tensors one(y_.size());
        one[k] = Tensor::zeros(y_[k].shape(), DType::f64);
        one[k].out().as<double>()[r] = 1;
        const Tensors g = gradients(f_, inputs_, one, o_.fixed);
        for (size_t w = 0; w < wanted_.size(); ++w) {
          const std::vector<double> a = g[wanted_[w]].to_vector();
          if (a.size() != numeric[w].size()) {
            error("input {}: gradient has shape {}, the input {}", wanted_[w], to_string(g[wanted_[w]].shape()),
                  to_string(inputs_[wanted_[w]].shape()));
            return;
          }
          for (size_t e = 0; e < a.size(); ++e) {
            const double n = numeric[w][e][k][r];
            if (agree(a[e], n, noise(std::abs(y[r]), o_.step))) continue;
            error("input {} element {}, output {} element {}: analytic {:.12g}, numeric {:.12g}", wanted_[w], e, k, r, a[e], n);
            if (errors_.size() > 5) return;
          }
        }
      }
    }
  }

  void directions() {
    const Tensors g = gradients(f_, inputs_, weights_, o_.fixed);
    Random random(23);
    for (int d = 0; d < 8; ++d) {
      Tensors plus = dense_, minus = dense_;
      double analytic = 0, numeric = 0, size = 0;
      for (int i : wanted_) {
        const Tensor u = random.normal(inputs_[i].shape());
        plus[i] = sum_of(dense_[i], scaled(u, o_.step));
        minus[i] = sum_of(dense_[i], scaled(u, -o_.step));
        analytic += dot(u, g[i]);
      }
      const auto diff = difference(plus, minus, o_.step);
      for (size_t k = 0; k < y_.size(); ++k) {
        if (!weights_[k]) continue;
        const std::vector<double> w = weights_[k].to_vector(), y = y_[k].to_vector();
        for (size_t e = 0; e < w.size(); ++e) {
          numeric += w[e] * diff[k][e];
          size += std::abs(w[e] * y[e]);
        }
      }
      if (!agree(analytic, numeric, noise(size, o_.step)))
        error("direction {}: analytic {:.12g}, numeric {:.12g}", d, analytic, numeric);
    }
  }

  // What a gradient must do besides being right.
  void behaviour() {
    const Tensors g = gradients(f_, inputs_, weights_, o_.fixed);
    for (int i : wanted_) {
      if (!(g[i].shape() == inputs_[i].shape()))
        error("input {}: gradient has shape {}, the input {}", i, to_string(g[i].shape()), to_string(inputs_[i].shape()));
      if (g[i].dtype() != DType::f64) error("input {}: gradient is {}", i, facet::name_of(g[i].dtype()));
    }
    if (!errors_.empty()) return;
    same(g, gradients(f_, inputs_, weights_, o_.fixed), "two backward runs differ");

    for (Layout l : {Layout::transposed, Layout::strided}) {
      Tensors views = weights_;
      for (Tensor& w : views)
        if (w) w = with_layout(w, l);
      same(g, gradients(f_, inputs_, views, o_.fixed), "a non-contiguous incoming gradient changes the result");
    }

    Tensors doubled = g;
    for (Tensor& t : doubled)
      if (t) t = scaled(t, 2);
    {
      const Tensors x = leaves(inputs_, o_.fixed);
      const Tensors y = f_(x);
      const Tensor a = weighted_sum(y, weights_), b = weighted_sum(y, weights_);
      if (a.slot() && b.slot()) backward(weighted_sum({a, b}, {Tensor::scalar(1, DType::f64), Tensor::scalar(1, DType::f64)}));
      near(doubled, collect(x), "an output used twice does not sum");
    }
    {
      const Tensors x = leaves(inputs_, o_.fixed);
      const Tensor a = weighted_sum(f_(x), weights_), b = weighted_sum(f_(x), weights_);
      if (a.slot() && b.slot()) backward(weighted_sum({a, b}, {Tensor::scalar(1, DType::f64), Tensor::scalar(1, DType::f64)}));
      near(doubled, collect(x), "inputs used by two calls do not accumulate");
    }

    for (int i : wanted_) {
      std::vector<int> fixed = o_.fixed;
      fixed.push_back(i);
      Tensors others = g;
      others[i] = {};
      const Tensors got = gradients(f_, inputs_, weights_, fixed);
      if (got[i]) error("input {} is frozen and got a gradient", i);
      near(others, got, fmt::format("freezing input {} changes other gradients", i));
    }
    std::vector<int> all = o_.fixed;
    all.insert(all.end(), wanted_.begin(), wanted_.end());
    for (const Tensor& y : f_(leaves(inputs_, all)))
      if (y.slot()) error("an output is recorded although no input wants a gradient");

    if (!o_.twice_in_one) return;
    for (size_t a = 0; a < wanted_.size(); ++a)
      for (size_t b = a + 1; b < wanted_.size(); ++b) {
        const int i = wanted_[a], j = wanted_[b];
        if (!(inputs_[i].shape() == inputs_[j].shape())) continue;
        Tensors x = inputs_;
        x[j] = x[i];
        const Tensors apart = gradients(f_, x, weights_, o_.fixed);
        Tensors shared = leaves(x, o_.fixed);
        shared[j] = shared[i];
        const Tensor s = weighted_sum(f_(shared), weights_);
        if (s.slot()) backward(s);
        expect(close(collect(shared)[i], sum_of(apart[i], apart[j]), 1e-12, 1e-13),
               fmt::format("one tensor as inputs {} and {} does not sum both gradients", i, j));
      }
  }

  void same(const Tensors& a, const Tensors& b, const std::string& what) {
    for (int i : wanted_) expect(bitwise_equal(b[i], a[i]), fmt::format("{} (input {})", what, i));
  }
  void near(const Tensors& a, const Tensors& b, const std::string& what) {
    for (int i : wanted_)
      if (a[i]) expect(close(b[i], a[i], 1e-12, 1e-13), fmt::format("{} (input {})", what, i));
  }

  std::string name_;
  const Function& f_;
  Tensors inputs_, dense_;
  GradcheckOptions o_;
  std::vector<int> wanted_;
  Tensors y_, weights_;
  std::vector<std::string> errors_;
};

}  // namespace

Tensor weighted_sum(const Tensors& y, const Tensors& weights) {
  double total = 0;
  std::vector<const Tensor*> inputs;
  Tensors kept;
  bool any = false;
  for (size_t i = 0; i < y.size(); ++i) {
    if (!weights[i]) continue;
    if (y[i].device() == Device::cpu) total += dot(y[i].detach(), weights[i]);  // of no use elsewhere: backward starts from the weights
    inputs.push_back(&y[i]);
    kept.push_back(weights[i].to(y[i].dtype()));
    any |= static_cast<bool>(y[i].slot());
  }
  Tensor s = Tensor::scalar(total, DType::f64);
  Tensor* out[] = {&s};
  if (any && grad_enabled()) attach("weighted_sum", std::span<Tensor* const>(out), std::span<const Tensor* const>(inputs), WeightedSumGrad{std::move(kept)});
  return s;
}

Tensors gradients(const Function& f, const Tensors& inputs, const Tensors& weights, const std::vector<int>& fixed) {
  const Tensors x = leaves(inputs, fixed);
  const Tensor s = weighted_sum(f(x), weights);
  if (s.slot()) backward(s);
  return collect(x);
}

Tensors random_weights(const Tensors& y, uint64_t seed) {
  Random random(seed);
  Tensors w(y.size());
  for (size_t k = 0; k < y.size(); ++k)
    if (is_floating(y[k])) w[k] = random.normal(y[k].shape(), y[k].dtype());
  return w;
}

std::vector<std::string> gradient_errors(const std::string& name, const Function& f, const Tensors& inputs,
                                         const GradcheckOptions& options) {
  return Check(name, f, inputs, options).run();
}

}  // namespace facet::test

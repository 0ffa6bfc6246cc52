#include <cmath>

#include "autograd/ops.h"
#include "tests/contracts/ops/elementwise.h"
#include "tests/contracts/ops/list.h"

namespace facet::test {
namespace {

// Twelve shapes and layouts: rank 0, size 0, size 1, primes, vector tails, views, one large.
Tensor sample_input(Random& r, int sample, double low, double high) {
  const auto x = [&](const Shape& s) { return r.uniform(s, low, high); };
  switch (sample) {
    case 0: return x({});
    case 1: return x({0, 3});
    case 2: return x({1});
    case 3: return x({7, 13});
    case 4: return with_layout(x({5, 17}), Layout::transposed);
    case 5: return with_layout(x({3, 31}), Layout::strided);
    case 6: return with_layout(x({4, 9}), Layout::expanded);
    case 7: return with_layout(x({2, 3, 5}), Layout::transposed);
    case 8: return x({2, 1, 16});
    case 9: return with_layout(x({2, 300}), Layout::strided);
    case 10: return with_layout(x({20, 257}), Layout::transposed);
    default: return x({4, 1100});
  }
}

Function elementwise_reference(std::function<double(double)> f) {
  return [f](const Tensors& x) {
    std::vector<double> v = x[0].to_vector();
    for (double& d : v) d = f(d);
    return Tensor::from(v, x[0].shape());
  };
}

double logistic(double x) { return 1 / (1 + std::exp(-x)); }
double gelu_tanh_reference(double x) { return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))); }

// Pairs of shapes that broadcast in every direction, and layouts.
std::pair<Shape, Shape> broadcast_pair(int sample) {
  switch (sample) {
    case 0: return {{}, {}};
    case 1: return {{2, 3}, {3}};
    case 2: return {{7}, {5, 1}};
    case 3: return {{2, 1, 3}, {1, 4, 1}};
    case 4: return {{0, 3}, {3}};
    case 5: return {{13, 17}, {13, 17}};
    case 6: return {{5, 7}, {}};
    case 7: return {{}, {3, 11}};
    case 8: return {{4, 300}, {300}};
    case 9: return {{9, 1}, {9, 31}};
    case 10: return {{1}, {1, 1}};
    default: return {{64, 80}, {64, 80}};
  }
}
int64_t broadcast_index(const Shape& shape, const Shape& operand, int64_t flat) {
  int64_t offset = 0, step = 1;
  for (int i = 1; i <= shape.rank; ++i) {
    const int64_t k = flat % shape[-i];
    flat /= shape[-i];
    if (i > operand.rank) continue;
    if (operand[-i] != 1) offset += k * step;
    step *= operand[-i];
  }
  return offset;
}

Contract where_contract() {
  Contract c;
  c.name = "where";
  c.kind = Arithmetic::elementwise;
  c.inputs = [](Random& r, int sample) -> Tensors {
    const auto [sa, sb] = broadcast_pair(sample);
    const Shape s = broadcast_shape("test", sa, sb);
    return {sample % 3 == 0 ? r.ids(s, 2) : r.ids(Shape{s.rank ? s[-1] : 1}, 3), with_layout(r.normal(sa), all_layouts[sample % 4]), r.normal(sb)};
  };
  c.fused = [](const Tensors& x) { return where(x[0], x[1], x[2]); };
  c.composite = [](const Tensors& x) {
    const Tensor yes = cast(less(Tensor::scalar(0, DType::i32), x[0]), DType::f64);
    return yes * x[1] + (yes * -1.0 + 1.0) * x[2];
  };
  return c;
}

}  // namespace

const std::vector<UnaryOp>& unary_ops() {
  using T = const Tensor&;
  static const std::vector<UnaryOp> ops = {
      {"add scalar", [](T x) { return x + 0.7; }, [](double x) { return x + 0.7; }},
      {"mul scalar", [](T x) { return -1.3 * x; }, [](double x) { return -1.3 * x; }},
      {"pow scalar", [](T x) { return pow(x, 1.7); }, [](double x) { return std::pow(x, 1.7); }, 0.3, 3},
      {"pow 3", [](T x) { return pow(x, 3); }, [](double x) { return x * x * x; }},
      {"pow 0", [](T x) { return pow(x, 0); }, [](double) { return 1; }},
      {"neg", [](T x) { return -x; }, [](double x) { return -x; }},
      {"exp", [](T x) { return exp(x); }, [](double x) { return std::exp(x); }},
      {"log", [](T x) { return log(x); }, [](double x) { return std::log(x); }, 0.1, 3},
      {"tanh", [](T x) { return tanh(x); }, [](double x) { return std::tanh(x); }},
      {"sqrt", [](T x) { return sqrt(x); }, [](double x) { return std::sqrt(x); }, 0.1, 3},
      {"rsqrt", [](T x) { return rsqrt(x); }, [](double x) { return 1 / std::sqrt(x); }, 0.1, 3},
      {"square", [](T x) { return square(x); }, [](double x) { return x * x; }},
      {"abs", [](T x) { return abs(x); }, [](double x) { return std::abs(x); }, -3, 3, {0}},
      {"sin", [](T x) { return sin(x); }, [](double x) { return std::sin(x); }},
      {"cos", [](T x) { return cos(x); }, [](double x) { return std::cos(x); }},
      {"sigmoid", [](T x) { return sigmoid(x); }, logistic, -6, 6},
      {"log_sigmoid", [](T x) { return log_sigmoid(x); }, [](double x) { return std::log(logistic(x)); }},
      {"softplus", [](T x) { return softplus(x); }, [](double x) { return std::log1p(std::exp(x)); }},
      {"relu", [](T x) { return relu(x); }, [](double x) { return x > 0 ? x : 0; }, -3, 3, {0}},
      {"silu", [](T x) { return silu(x); }, [](double x) { return x * logistic(x); }},
      {"gelu_tanh", [](T x) { return gelu_tanh(x); }, gelu_tanh_reference},
      {"gelu_erf", [](T x) { return gelu_erf(x); }, [](double x) { return 0.5 * x * std::erfc(-x / std::sqrt(2.0)); }},
      {"softcap", [](T x) { return softcap(x, 2.5); }, [](double x) { return 2.5 * std::tanh(x / 2.5); }},
  };
  return ops;
}

const std::vector<BinaryOp>& binary_ops() {
  static const std::vector<BinaryOp> ops = {
      {"add", add, [](double a, double b) { return a + b; }},
      {"sub", sub, [](double a, double b) { return a - b; }},
      {"mul", mul, [](double a, double b) { return a * b; }},
      {"div", div, [](double a, double b) { return a / b; }, true},
      {"maximum", maximum, [](double a, double b) { return std::max(a, b); }},
      {"minimum", minimum, [](double a, double b) { return std::min(a, b); }},
      {"pow", pow, [](double a, double b) { return std::pow(a, b); }, true},
  };
  return ops;
}

Contracts elementwise_contracts() {
  Contracts all;
  for (const UnaryOp& u : unary_ops()) {
    Contract c;
    c.name = u.name;
    c.kind = Arithmetic::elementwise;
    c.inputs = [u](Random& r, int sample) -> Tensors { return {sample_input(r, sample, u.low, u.high)}; };
    c.fused = [u](const Tensors& x) { return u.op(x[0]); };
    c.composite = elementwise_reference(u.reference);
    c.gradcheck.kinks = u.kinks;
    all.push_back(c);
  }
  for (const BinaryOp& b : binary_ops()) {
    Contract c;
    c.name = b.name;
    c.kind = Arithmetic::elementwise;
    c.inputs = [b](Random& r, int sample) -> Tensors {
      const auto [sa, sb] = broadcast_pair(sample);
      if (std::string(b.name).ends_with("imum")) {  // ties and near ties are kinks
        const Tensor both = r.distinct({sa.numel() + sb.numel()});
        return {both.slice(0, 0, sa.numel()).reshape(sa), both.slice(0, sa.numel(), sa.numel() + sb.numel()).reshape(sb)};
      }
      const double low = b.positive ? 0.3 : -2;
      return {with_layout(r.uniform(sa, low, 2), all_layouts[sample % 5]), with_layout(r.uniform(sb, low, 2), all_layouts[(sample + 2) % 4])};
    };
    c.fused = [b](const Tensors& x) { return b.op(x[0], x[1]); };
    c.composite = [b](const Tensors& x) {
      const Shape s = broadcast_shape("test", x[0].shape(), x[1].shape());
      const std::vector<double> va = x[0].to_vector(), vb = x[1].to_vector();
      std::vector<double> v(s.numel());
      for (int64_t i = 0; i < s.numel(); ++i)
        v[i] = b.reference(va[broadcast_index(s, x[0].shape(), i)], vb[broadcast_index(s, x[1].shape(), i)]);
      return Tensor::from(v, s);
    };
    c.gradcheck.twice_in_one = !std::string(b.name).ends_with("imum");
    all.push_back(c);
  }
  all.push_back(where_contract());
  return all;
}

}  // namespace facet::test

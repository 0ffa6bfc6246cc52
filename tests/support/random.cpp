#include "tests/support/random.h"

#include <cmath>
#include <numeric>

#include "tensor/kernels/copy.h"

namespace facet::test {

const char* name_of(Layout l) {
  switch (l) {
    case Layout::dense: return "dense";
    case Layout::transposed: return "transposed";
    case Layout::strided: return "strided";
    case Layout::offset: return "offset";
    default: return "expanded";
  }
}

namespace {
// Copies x's values into a window of fresh memory.
Tensor fill_window(const Tensor& x, const Tensor& window) {
  if (x.numel() > 0) copy(x.view(), window.out());
  return window;
}
}  // namespace

Tensor with_layout(const Tensor& x, Layout layout) {
  Shape s = x.shape();
  if (s.rank == 0) return x;
  switch (layout) {
    case Layout::transposed: {
      if (s.rank < 2) return with_layout(x, Layout::strided);
      std::swap(s[-1], s[-2]);
      return fill_window(x, Tensor::zeros(s, x.dtype(), x.device()).transpose(-1, -2));
    }
    case Layout::strided: {
      const int64_t n = s[-1];
      s[-1] = 2 * n + 1;
      return fill_window(x, Tensor::full(s, 77, x.dtype(), x.device()).slice(-1, 1, 2 * n + 1, 2));
    }
    case Layout::offset: {
      const int64_t n = s[0];
      s[0] = n + 3;
      return fill_window(x, Tensor::full(s, 77, x.dtype(), x.device()).slice(0, 2, n + 2));
    }
    case Layout::expanded:
      if (s[0] == 0) return x;
      return x.slice(0, 0, 1).clone().expand(s);
    default: return x.dense();
  }
}

uint64_t Random::bits() {
  uint64_t z = state_ += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}
int64_t Random::below(int64_t n) { return static_cast<int64_t>(bits() % static_cast<uint64_t>(n)); }
double Random::uniform(double low, double high) { return low + (high - low) * static_cast<double>(bits() >> 11) * 0x1p-53; }
double Random::normal() {
  const double u = uniform(0x1p-53, 1), v = uniform(0, 1);
  return std::sqrt(-2 * std::log(u)) * std::cos(6.283185307179586 * v);
}

namespace {
template <class F>
Tensor generate(const Shape& shape, DType dtype, F value) {
  std::vector<double> v(static_cast<size_t>(shape.numel()));
  for (double& d : v) d = value();
  return Tensor::from(v, shape).to(dtype);
}
}  // namespace

Tensor Random::uniform(const Shape& shape, double low, double high, DType dtype) {
  return generate(shape, dtype, [&] { return uniform(low, high); });
}
Tensor Random::normal(const Shape& shape, DType dtype, double scale) {
  return generate(shape, dtype, [&] { return scale * normal(); });
}
Tensor Random::ids(const Shape& shape, int64_t n) {
  return generate(shape, DType::i32, [&] { return static_cast<double>(below(n)); });
}
Tensor Random::distinct(const Shape& shape, double gap, DType dtype) {
  const int64_t n = shape.numel();
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  for (int64_t i = n - 1; i > 0; --i) std::swap(order[i], order[below(i + 1)]);
  size_t next = 0;
  return generate(shape, dtype, [&] { return gap * (static_cast<double>(order[next++]) - static_cast<double>(n) / 2 + 0.3); });
}

int64_t awkward_size(int i) {
  constexpr int64_t sizes[] = {1, 3, 31, 7, 2, 17, 13, 5, 16, 8, 9, 15, 4, 11, 33, 6};
  return sizes[i % 16];
}

}  // namespace facet::test

// Seeded test tensors of any dtype and layout. Independent of the library's own random numbers on purpose.
#pragma once
#include <string>
#include <vector>

#include "tensor/tensor.h"

namespace facet::test {

/// How the elements of a test tensor lie in memory; the values are the same in every layout but `expanded`.
enum class Layout { dense, transposed, strided, offset, expanded };
const char* name_of(Layout);
inline constexpr Layout all_layouts[] = {Layout::dense, Layout::transposed, Layout::strided, Layout::offset, Layout::expanded};

/// x's values behind a view: `transposed` swaps the last two dimensions in memory, `strided` takes every second element of a
/// larger one along the last dimension, `offset` starts in the middle of its storage, `expanded` repeats the first slice of
/// dimension 0 with stride 0 (so the values change). Rank 0 stays as it is.
Tensor with_layout(const Tensor& x, Layout);

/// splitmix64.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 1) {}
  uint64_t bits();
  int64_t below(int64_t n);  ///< 0 <= result < n
  double uniform(double low = -1, double high = 1);
  double normal();

  Tensor uniform(const Shape&, double low, double high, DType = DType::f64);
  Tensor normal(const Shape&, DType = DType::f64, double scale = 1);
  Tensor ids(const Shape&, int64_t n);  ///< i32, 0 <= id < n
  /// Values at least `gap` apart in random order: for max, sorting, top_k.
  Tensor distinct(const Shape&, double gap = 0.05, DType = DType::f64);

 private:
  uint64_t state_;
};

/// Sizes that break kernels: 1, primes, vector tails. awkward_size(i) cycles through them.
int64_t awkward_size(int i);

}  // namespace facet::test

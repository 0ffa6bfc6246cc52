// Comparing tensors. Every comparison converts to bool and prints what was worst, so CHECK(close(a, b)) tells the whole story.
#pragma once
#include <iosfwd>
#include <string>

#include "tensor/tensor.h"

namespace facet::test {

struct Comparison {
  bool ok = true;
  std::string message;
  explicit operator bool() const { return ok; }
};
std::ostream& operator<<(std::ostream&, const Comparison&);

/// |a - b| <= atol + rtol max(|a|, |b|) for every element. Shapes must agree, dtypes need not. NaN equals NaN and infinities equal
/// themselves, in place.
Comparison close(const Tensor& a, const Tensor& b, double rtol, double atol = 0);
/// sum (a - reference)^2 / sum reference^2; infinite when one has a NaN or infinity where the other has not.
double nmse(const Tensor& a, const Tensor& reference);
/// nmse() <= limit, with both numbers and the worst element in the message.
Comparison nmse_within(const Tensor& a, const Tensor& reference, double limit);
/// Same shape, dtype and bits (so 0 and -0 differ).
Comparison bitwise_equal(const Tensor& a, const Tensor& b);
/// Largest distance in representable numbers; a and b of one floating dtype.
int64_t max_ulp(const Tensor& a, const Tensor& b);

}  // namespace facet::test

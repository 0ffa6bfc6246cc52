// The operations on single elements, by name: for their contracts, and for tests of all of them.
#pragma once
#include <functional>
#include <vector>

#include "tensor/tensor.h"

namespace facet::test {

struct UnaryOp {
  const char* name;
  std::function<Tensor(const Tensor&)> op;
  std::function<double(double)> reference;
  double low = -3, high = 3;
  std::vector<double> kinks = {};
};
const std::vector<UnaryOp>& unary_ops();

struct BinaryOp {
  const char* name;
  Tensor (*op)(const Tensor&, const Tensor&);
  double (*reference)(double, double);
  bool positive = false;
};
const std::vector<BinaryOp>& binary_ops();

}  // namespace facet::test

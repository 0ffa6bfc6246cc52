#include <fmt/core.h>

#include <cmath>

#include "autograd/ops.h"
#include "autograd/parameter.h"
#include "optim/sgd.h"

using namespace facet;

int main() {
  const Tensor x = Tensor::from({0, 1, 2, 3}, {4}), y = Tensor::from({1, 3, 5, 7}, {4});  // y = 2x + 1
  Parameter a(Tensor::scalar(0)), b(Tensor::scalar(0));
  Sgd optimizer({{.parameters = {&a, &b}}});
  for (int i = 0; i < 400; ++i) {
    backward(mean(square(a.value() * x + b.value() - y)));
    optimizer.step(0.1);
  }
  fmt::print("y = {:.3f} x + {:.3f}\n", a.value().item(), b.value().item());
  return std::abs(a.value().item() - 2) < 1e-3 && std::abs(b.value().item() - 1) < 1e-3 ? 0 : 1;
}

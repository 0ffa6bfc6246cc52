#include "optim/sgd.h"

#include "tensor/kernels/sgd.h"

namespace facet {

Sgd::Sgd(const std::vector<ParameterGroup>& groups, const SgdOptions& options)
    : Optimizer("Sgd", groups, {"trace"}), options_(options) {
  if (!(options.momentum >= 0 && options.momentum < 1))
    fail(Kind::usage, "Sgd: momentum {}: expected 0 <= momentum < 1", options.momentum);
  for (Item& i : items_) {
    if (i.dtype == DType::bf16)
      fail(Kind::usage, "Sgd: parameter \"{}\" is bf16; expected f32 or f64, or use AdamW, which keeps an f32 master",
           i.parameter->name);
    if (i.weight_decay != 0) fail(Kind::usage, "Sgd: weight decay {}: not supported, use AdamW", i.weight_decay);
    if (options.momentum > 0) i.buffers[0] = Tensor::zeros(i.shape, i.dtype, i.parameter->value().device());
  }
}

void Sgd::update(Item& i, View grad, double lr, double grad_scale) {
  sgd(i.parameter->value().out(), grad, out_of(i.buffers[0]),
      SgdStep{.lr = lr, .momentum = options_.momentum, .grad_scale = grad_scale, .nesterov = options_.nesterov});
}

}  // namespace facet

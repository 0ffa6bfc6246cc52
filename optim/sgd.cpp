#include "optim/sgd.h"

namespace facet {

Sgd::Sgd(const std::vector<ParameterGroup>& groups, const SgdOptions& options)
    : OptimizerOf("Sgd", groups, {"trace"}), options_(options) {
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

SgdStep Sgd::step_of(const Item&, double lr, double grad_scale) const {
  return {.lr = lr, .momentum = options_.momentum, .grad_scale = grad_scale, .nesterov = options_.nesterov};
}

void Sgd::update(Item& i, View grad, const SgdStep& step, const Constants* uploaded) {
  sgd(i.parameter->value().out(), grad, out_of(i.buffers[0]), step, uploaded);
}

}  // namespace facet

#include "optim/lion.h"

namespace facet {

Lion::Lion(const std::vector<ParameterGroup>& groups, const LionOptions& options) : OptimizerOf("Lion", groups, {"m", "master"}), options_(options) {
  for (const double beta : {options.beta1, options.beta2})
    if (!(beta >= 0 && beta < 1)) fail(Kind::usage, "Lion: beta1 {}, beta2 {}: expected 0 <= beta < 1", options.beta1, options.beta2);
  for (Item& i : items_) {
    i.buffers[0] = Tensor::zeros(i.shape, acc_dtype(i.dtype), i.parameter->value().device());
    i.buffers[1] = master_of(i);
  }
}

LionStep Lion::step_of(const Item& i, double lr, double grad_scale) const {
  return {.lr = lr, .beta1 = options_.beta1, .beta2 = options_.beta2, .weight_decay = i.weight_decay, .grad_scale = grad_scale};
}

void Lion::update(Item& i, View grad, const LionStep& step, const Constants* uploaded) {
  lion(i.parameter->value().out(), out_of(i.buffers[1]), grad, i.buffers[0].out(), step, uploaded);
}

}  // namespace facet

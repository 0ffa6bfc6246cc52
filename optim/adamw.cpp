#include "optim/adamw.h"

#include "tensor/kernels/adamw.h"

namespace facet {

AdamW::AdamW(const std::vector<ParameterGroup>& groups, const AdamWOptions& options)
    : Optimizer("AdamW", groups, {"m", "v", "master"}), options_(options) {
  const auto is_beta = [](double b) { return b >= 0 && b < 1; };
  if (!is_beta(options.beta1) || !is_beta(options.beta2) || !(options.eps >= 0) || !(options.eps_root >= 0))
    fail(Kind::usage, "AdamW: beta1 {}, beta2 {}, eps {}, eps_root {}: expected 0 <= beta < 1 and eps >= 0", options.beta1,
         options.beta2, options.eps, options.eps_root);
  for (Item& i : items_) {
    const DType t = acc_dtype(i.dtype);
    i.buffers[0] = Tensor::zeros(i.shape, t, i.parameter->value().device());
    i.buffers[1] = Tensor::zeros(i.shape, t, i.parameter->value().device());
    i.buffers[2] = master_of(i);
  }
}

void AdamW::update(Item& i, View grad, double lr, double grad_scale) {
  adamw(i.parameter->value().out(), out_of(i.buffers[2]), grad, i.buffers[0].out(), i.buffers[1].out(),
        AdamwStep{.lr = lr,
                  .beta1 = options_.beta1,
                  .beta2 = options_.beta2,
                  .eps = options_.eps,
                  .eps_root = options_.eps_root,
                  .weight_decay = i.weight_decay,
                  .grad_scale = grad_scale,
                  .t = steps_});
}

}  // namespace facet

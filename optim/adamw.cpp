#include "optim/adamw.h"

namespace facet {

AdamW::AdamW(const std::vector<ParameterGroup>& groups, const AdamWOptions& options)
    : OptimizerOf("AdamW", groups, {"m", "v", "master"}), options_(options) {
  const auto is_beta = [](double b) { return b >= 0 && b < 1; };
  if (!is_beta(options.beta1) || !is_beta(options.beta2) || !(options.eps >= 0) || !(options.eps_root >= 0))
    fail(Kind::usage, "AdamW: beta1 {}, beta2 {}, eps {}, eps_root {}: expected 0 <= beta < 1 and eps >= 0", options.beta1,
         options.beta2, options.eps, options.eps_root);
  for (Item& i : items_) {
    const DType t = acc_dtype(i.dtype), moments = options.bf16_moments ? DType::bf16 : t;
    if (options.bf16_moments && i.dtype == DType::f64)
      fail(Kind::usage, "AdamW: parameter \"{}\" is f64 and its moments would be bf16; f64 is for exact gradients, leave them f64", i.parameter->name);
    i.buffers[0] = Tensor::zeros(i.shape, moments, i.parameter->value().device());
    i.buffers[1] = Tensor::zeros(i.shape, moments, i.parameter->value().device());
    if (options.master) i.buffers[2] = master_of(i);
  }
}

AdamwStep AdamW::step_of(const Item& i, double lr, double grad_scale) const {
  const Key key = fold_in(options_.key, static_cast<uint32_t>(&i - items_.data()));
  return {.lr = lr,
          .beta1 = options_.beta1,
          .beta2 = options_.beta2,
          .eps = options_.eps,
          .eps_root = options_.eps_root,
          .weight_decay = i.weight_decay,
          .grad_scale = grad_scale,
          .t = steps_,
          .stochastic = i.dtype == DType::bf16 && !i.buffers[2],
          .key_hi = key.hi,
          .key_lo = key.lo};
}

void AdamW::update(Item& i, View grad, const AdamwStep& step, const Constants* uploaded) {
  adamw(i.parameter->value().out(), out_of(i.buffers[2]), grad, i.buffers[0].out(), i.buffers[1].out(), step, uploaded);
}

}  // namespace facet

// Stochastic gradient descent, for lessons and comparisons: p <- p - lr * u (tensor/kernels/sgd.h).
#pragma once
#include "optim/optimizer_of.h"
#include "tensor/kernels/sgd.h"

namespace facet {

struct SgdOptions {
  double momentum = 0;    ///< trace <- momentum * trace + g, u = trace; 0: u = g and no state
  bool nesterov = false;  ///< u = g + momentum * trace
};

/// State per parameter: "trace.NAME", with momentum only. f32 and f64 values; bf16 ones are refused, since most updates would
/// vanish in their rounding (AdamW keeps an f32 master). Weight decay is refused too: in SGD there are two kinds.
class Sgd final : public OptimizerOf<SgdStep> {
 public:
  explicit Sgd(const std::vector<ParameterGroup>& groups, const SgdOptions& options = {});

 private:
  SgdStep step_of(const Item&, double lr, double grad_scale) const override;
  void update(Item&, View grad, const SgdStep&, const Constants* uploaded) override;

  SgdOptions options_;
};

}  // namespace facet

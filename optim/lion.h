// Lion: tensor/kernels/lion.h is the textbook page. Every element moves by the rate, so rates are 3 to 10 times smaller than AdamW's.
#pragma once
#include "optim/optimizer_of.h"
#include "tensor/kernels/lion.h"

namespace facet {

struct LionOptions {
  double beta1 = 0.9;   ///< of the mixture whose sign is taken
  double beta2 = 0.99;  ///< of the momentum that is kept
};

/// State per parameter: "m.NAME" in f32 (f64 for f64), and for bf16 values an f32 master: half of AdamW's.
class Lion final : public OptimizerOf<LionStep> {
 public:
  explicit Lion(const std::vector<ParameterGroup>& groups, const LionOptions& options = {});

 private:
  LionStep step_of(const Item&, double lr, double grad_scale) const override;
  void update(Item&, View grad, const LionStep&, const Constants* uploaded) override;

  LionOptions options_;
};

}  // namespace facet

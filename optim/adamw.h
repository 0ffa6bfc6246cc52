// AdamW: tensor/kernels/adamw.h is the textbook page. Without weight decay (the groups' default) it is Adam.
#pragma once
#include "optim/optimizer_of.h"
#include "tensor/kernels/adamw.h"
#include "tensor/rng.h"

namespace facet {

struct AdamWOptions {
  double beta1 = 0.9, beta2 = 0.999;
  double eps = 1e-8;    ///< outside the root
  double eps_root = 0;  ///< inside the root
  bool bf16_moments = false;  ///< m and v in bf16, rounded by chance: half their memory. Not for f64 values
  bool master = true;         ///< off: a bf16 value is itself what is updated, and rounded by chance
  Key key = {};               ///< of those chances; each parameter draws by its place in the list
};

/// State per parameter: m and v in f32 (f64 for f64, bf16 on request), and for bf16 values an f32 master, which is what is updated; the value is
/// the master rounded. All of it is allocated here, zeroed, so that the first step shows the whole demand. A value that is
/// replaced later (Parameter::reset) needs a new optimizer or load_state(): the master would not know. The bias correction
/// counts steps of the optimizer, not updates of a parameter.
class AdamW final : public OptimizerOf<AdamwStep> {
 public:
  explicit AdamW(const std::vector<ParameterGroup>& groups, const AdamWOptions& options = {});

 private:
  AdamwStep step_of(const Item&, double lr, double grad_scale) const override;
  void update(Item&, View grad, const AdamwStep&, const Constants* uploaded) override;

  AdamWOptions options_;
};

}  // namespace facet

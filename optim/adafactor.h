// Adafactor: tensor/kernels/adafactor.h is the textbook page. For weights whose moments would not fit: a matrix of R rows and C columns costs
// R + C numbers. Rates are relative to the size of a parameter (1e-3 moves it by about a thousandth of its rms).
#pragma once
#include "optim/optimizer_of.h"
#include "tensor/kernels/adafactor.h"

namespace facet {

struct AdafactorOptions {
  double decay_power = 0.8;     ///< the t-th update keeps 1 - t^-decay_power of the moments
  double eps = 1e-30;           ///< added to squared gradients
  double clip = 1;              ///< most rms of an update before the rate; 0: any
  double min_scale = 1e-3;      ///< least size a parameter is taken to have; 0: rates are absolute
  int64_t least_factored = 128; ///< matrices whose smaller side is below it keep a moment for every element, as vectors do
};

/// Whether a parameter of this shape has a moment for every row and column instead of every element.
bool is_factored(const Shape&, const AdafactorOptions&);

/// State per parameter: "rows.NAME" [R] and "cols.NAME" [C], or "v.NAME" of its shape, in f32 (f64 for f64); for bf16 values an f32 master.
/// The decay counts steps of the optimizer, not updates of a parameter.
class Adafactor final : public OptimizerOf<AdafactorStep> {
 public:
  explicit Adafactor(const std::vector<ParameterGroup>& groups, const AdafactorOptions& options = {});

 private:
  AdafactorStep step_of(const Item&, double lr, double grad_scale) const override;
  void update(Item&, View grad, const AdafactorStep&, const Constants* uploaded) override;

  AdafactorOptions options_;
};

}  // namespace facet

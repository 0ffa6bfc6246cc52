// All that is left to write of an optimizer: what a Step is, and one call of its kernel.
#pragma once
#include <cstring>

#include "optim/optimizer.h"

namespace facet {

/// Step: what a kernel is told (tensor/kernels/update.h).
template <class Step>
class OptimizerOf : public Optimizer {
 protected:
  using Constants = decltype(constants_of<float>(Step{}));
  using Optimizer::Optimizer;
  virtual Step step_of(const Item&, double lr, double grad_scale) const = 0;
  /// The kernel, on whichever device the item is; `uploaded` is its last argument.
  virtual void update(Item&, View grad, const Step&, const Constants* uploaded) = 0;

 private:
  size_t constants_bytes() const final { return sizeof(Constants); }
  void write_constants(const Item& i, double lr, double grad_scale, void* to) const final {
    const Constants constants = constants_of<float>(step_of(i, lr, grad_scale));
    std::memcpy(to, &constants, sizeof constants);
  }
  void update_by(Item& i, View grad, double lr, double grad_scale, const void* uploaded) final {
    update(i, grad, step_of(i, lr, grad_scale), static_cast<const Constants*>(uploaded));
  }
};

}  // namespace facet

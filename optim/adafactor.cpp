#include "optim/adafactor.h"

#include <algorithm>
#include <cmath>

namespace facet {

bool is_factored(const Shape& s, const AdafactorOptions& o) { return s.rank == 2 && std::min(s[0], s[1]) >= o.least_factored; }

Adafactor::Adafactor(const std::vector<ParameterGroup>& groups, const AdafactorOptions& o)
    : OptimizerOf("Adafactor", groups, {"rows", "cols", "v", "master"}), options_(o) {
  if (!(o.decay_power > 0 && o.decay_power <= 1) || !(o.eps >= 0) || !(o.clip >= 0) || !(o.min_scale >= 0))
    fail(Kind::usage, "Adafactor: decay_power {}, eps {}, clip {}, min_scale {}: expected 0 < decay_power <= 1 and the others >= 0", o.decay_power, o.eps,
         o.clip, o.min_scale);
  for (Item& i : items_) {
    const DType t = acc_dtype(i.dtype);
    const Device device = i.parameter->value().device();
    const Shape& s = i.shape;
    if (is_factored(s, o)) {
      i.buffers[0] = Tensor::zeros({s[0]}, t, device);
      i.buffers[1] = Tensor::zeros({s[1]}, t, device);
    } else {
      i.buffers[2] = Tensor::zeros(s, t, device);
    }
    i.buffers[3] = master_of(i);
  }
}

AdafactorStep Adafactor::step_of(const Item& i, double lr, double grad_scale) const {
  return {.lr = lr,
          .decay = 1 - std::pow(static_cast<double>(steps_), -options_.decay_power),
          .eps = options_.eps,
          .clip = options_.clip,
          .min_scale = options_.min_scale,
          .weight_decay = i.weight_decay,
          .grad_scale = grad_scale};
}

void Adafactor::update(Item& i, View grad, const AdafactorStep& step, const Constants* uploaded) {
  adafactor(i.parameter->value().out(), out_of(i.buffers[3]), grad, out_of(i.buffers[0]), out_of(i.buffers[1]), out_of(i.buffers[2]), step, uploaded);
}

}  // namespace facet

#include "app/limits.h"

#include "autograd/ops.h"
#include "bench/support/loops.h"
#include "tensor/parallel.h"

namespace facet::app {

double bytes_of(const std::vector<Parameter*>& weights) {
  double bytes = 0;
  for (const Parameter* p : weights) bytes += static_cast<double>(p->value().numel() * size_of(p->value().dtype()));
  return bytes;
}

void read_all(const std::vector<Parameter*>& weights) {
  for (const Parameter* p : weights) {
    const View v = p->value().view();
    parallel_for(v.numel() * size_of(v.dtype) / 4, 1 << 16, 4,
                 [&](int64_t begin, int64_t end) { cpu::read_loop(v.as<float>() + begin, end - begin); });
  }
}

Products::Products(const std::vector<Parameter*>& weights, int64_t rows, const Parameter* without) {
  for (const Parameter* p : weights) {
    const Tensor& w = p->value();
    if (w.rank() != 2 || p == without) continue;
    weights_.push_back(w);
    x_.push_back(Tensor::full({rows, w.dim(1)}, 0.5, acc_dtype(w.dtype())));
    flops_ += 2.0 * static_cast<double>(rows * w.numel());
  }
}

void Products::operator()() const {
  for (size_t i = 0; i < x_.size(); ++i) linear(x_[i], weights_[i]);
}

}  // namespace facet::app

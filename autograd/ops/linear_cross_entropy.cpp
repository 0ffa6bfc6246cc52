#include <algorithm>

#include "autograd/ops.h"
#include "autograd/ops/linear_loss.h"
#include "tensor/kernels/sum_to.h"

namespace facet {
namespace {

/// weights[n] * ((1 - e) (lse - z_y) + e (lse - mean) + z lse^2), row by row; the losses take the weights' place.
void rows_of_block(const std::array<double, 6>& numbers, const RowBlock& b, const Out& stats, const Out& side, const View& dy) {
  const CrossEntropyForm form{.label_smoothing = numbers[0], .z_loss = numbers[1], .words = static_cast<int64_t>(numbers[2])};
  cross_entropy_rows(stats, side, dy, form, b.scale, side);
}

struct LinearCrossEntropyGrad {
  Saved h, w, labels, weights;
  CrossEntropyOptions options;
  void operator()(Grads dy, Sinks dx) {
    const HeadTask task = cross_entropy_task(h.get(), w.get(), labels.get(), weights ? weights.get() : Tensor{}, options);
    const Tensor side = task.loss.side.to(task.head.device);
    const auto loss = [&](const RowBlock& b, const Out& stats) { rows_of_block(task.loss.numbers, b, stats, b.of(side).out(), dy[0].view()); };
    task.head.run_sinks(task.rows, loss, dx[0], dx[1]);
  }
};

}  // namespace

HeadTask cross_entropy_task(const Tensor& h, const Tensor& w, const Tensor& labels, const Tensor& weights, const CrossEntropyOptions& o) {
  HeadTask t{LinearHead("linear_cross_entropy", h, w, labels, {.cap = o.cap, .mean = o.label_smoothing != 0, .block = o.block}), {}, {}};
  if (weights) {
    if (!(weights.shape() == labels.shape()) || !weights.contiguous() ||
        (weights.dtype() != DType::f32 && weights.dtype() != DType::f64))
      fail(Kind::usage, "linear_cross_entropy: weights {} {} for labels {}: expected f32 or f64, dense, of the same shape",
           name_of(weights.dtype()), to_string(weights.shape()), to_string(labels.shape()));
    if (weights.slot()) fail(Kind::usage, "linear_cross_entropy: weights get no gradient; detach() them");
  }
  if (!(o.label_smoothing >= 0 && o.label_smoothing < 1))
    fail(Kind::usage, "linear_cross_entropy: label smoothing {}: expected 0 <= e < 1", o.label_smoothing);
  // Weights are on the CPU, like the labels: they say which rows there are.
  const auto weight = [v = weights ? weights.view() : View{}](int64_t n) {
    return !v ? 1 : v.dtype == DType::f64 ? v.as<double>()[n] : static_cast<double>(v.as<float>()[n]);
  };
  if (weights && weights.device() != Device::cpu) fail(Kind::usage, "linear_cross_entropy: weights are on the GPU; expected on the CPU, like the labels");
  t.rows = t.head.rows([&](int64_t n) { return weight(n) != 0; });
  const auto kernel = [](const std::array<double, 6>& numbers, const RowBlock& b, const Out& stats, const Out& side) { rows_of_block(numbers, b, stats, side, {}); };
  t.loss = {kernel, {o.label_smoothing, o.z_loss, static_cast<double>(t.head.V)}, Tensor::zeros({t.head.count(std::ssize(t.rows))}, DType::f64)};
  std::ranges::transform(t.rows, t.loss.side.out().as<double>(), weight);
  return t;
}

double total_loss(const Tensor& losses) {
  double sum = 0;
  for (const double l : losses.data<double>()) sum += l;
  return sum;
}

Tensor linear_cross_entropy(const Tensor& h, const Tensor& w, const Tensor& labels, const Tensor& weights,
                            const CrossEntropyOptions& options) {
  const OpScope scope("linear_cross_entropy");
  const HeadTask task = cross_entropy_task(h, w, labels, weights, options);
  const Tensor losses = task.loss.side.to(task.head.device);
  task.run(task.head.listed(task.rows).to(task.head.device), losses, {}, {});
  Tensor y;
  if (task.head.device == Device::gpu) {  // nobody waits
    y = Tensor::empty({}, task.head.acc, Device::gpu);
    sum_to(losses.view(), y.out());
  } else {
    y = Tensor::scalar(total_loss(losses), task.head.acc);
  }
  if (tracing(h, w)) attach("linear_cross_entropy", {&y}, {&h, &w}, LinearCrossEntropyGrad{h, w, labels, weights, options});
  return y;
}

double linear_cross_entropy_backward(const Tensor& h, const Tensor& w, const Tensor& labels, const Tensor& weights,
                                     const CrossEntropyOptions& options) {
  return total_loss(cross_entropy_task(h, w, labels, weights, options).run_backward(h, w));
}

}  // namespace facet

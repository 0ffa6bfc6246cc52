#include <algorithm>
#include <utility>

#include "autograd/ops.h"
#include "autograd/ops/linear_loss.h"
#include "autograd/recorded_loss.h"
#include "tensor/gpu/waits.h"
#include "tensor/kernels/sum_to.h"

namespace facet {
namespace {

/// weights[n] * ((1 - e) (lse - z_y) + e (lse - mean) + z lse^2), row by row.
struct CrossEntropyRows {
  CrossEntropyForm form;
  Tensor weights;  // f64, of the rows that are listed; absent: 1
  Tensor dy;       // absent: 1
  Tensor losses;   // f64, of the same rows

  void operator()(const RowBlock& b, const Out& stats) const {
    cross_entropy_rows(stats, weights ? b.of(weights).view() : View{}, dy ? dy.view() : View{}, form, b.scale, b.of(losses).out());
  }
};

struct Task {
  LinearHead head;
  CrossEntropyRows loss;
  pool_vector<int64_t> rows;

  Task(const Tensor& h, const Tensor& w, const Tensor& labels, const Tensor& weights, const CrossEntropyOptions& o)
      : head("linear_cross_entropy", h, w, labels, {.cap = o.cap, .mean = o.label_smoothing != 0}), loss{{o.label_smoothing, o.z_loss, head.V}, {}, {}, {}} {
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
    rows = head.rows([&](int64_t n) { return weight(n) != 0; });
    const auto n = static_cast<int64_t>(rows.size());
    if (weights) {
      const Tensor listed = Tensor::empty({n}, DType::f64);
      std::ranges::transform(rows, listed.out().as<double>(), weight);
      loss.weights = listed.to(head.device);
    }
    loss.losses = Tensor::empty({n}, DType::f64, head.device);
  }

  double total() const { return total_of(loss.losses); }
  static double total_of(const Tensor& losses) {
    const gpu::MaySync wait;  // once for a micro-batch: its loss is read
    const Tensor here = losses.to(Device::cpu);
    double sum = 0;
    for (const double l : here.data<double>()) sum += l;
    return sum;
  }
};

struct LinearCrossEntropyGrad {
  Saved h, w, labels, weights;
  CrossEntropyOptions options;
  void operator()(Grads dy, Sinks dx) {
    Task task(h.get(), w.get(), labels.get(), weights ? weights.get() : Tensor{}, options);
    task.loss.dy = dy[0];
    task.head.run_sinks(task.rows, task.loss, dx[0], dx[1]);
  }
};

bool same(const CrossEntropyOptions& a, const CrossEntropyOptions& b) {
  return a.cap == b.cap && a.label_smoothing == b.label_smoothing && a.z_loss == b.z_loss;
}

}  // namespace

Tensor linear_cross_entropy(const Tensor& h, const Tensor& w, const Tensor& labels, const Tensor& weights,
                            const CrossEntropyOptions& options) {
  Task task(h, w, labels, weights, options);
  task.head.run(task.rows, task.loss);
  Tensor y;
  if (task.head.device == Device::gpu) {  // nobody waits
    y = Tensor::empty({}, task.head.acc, Device::gpu);
    sum_to(task.loss.losses.view(), y.out());
  } else {
    y = Tensor::scalar(task.total(), task.head.acc);
  }
  if (tracing(h, w)) attach("linear_cross_entropy", {&y}, {&h, &w}, LinearCrossEntropyGrad{h, w, labels, weights, options});
  return y;
}

double linear_cross_entropy_backward(const Tensor& h, const Tensor& w, const Tensor& labels, const Tensor& weights,
                                     const CrossEntropyOptions& options) {
  Task task(h, w, labels, weights, options);
  task.head.run_backward(h, w, task.rows, task.loss);
  return task.total();
}

double RecordedCrossEntropy::eager(const Tensor& h, const Tensor& w, const Tensor& labels, const Tensor& weights, const CrossEntropyOptions& options) {
  Task task(h, w, labels, weights, options);
  if (!decided_) rows_ = task.rows, options_ = options;
  task.head.run_backward(h, w, task.rows, task.loss);
  return task.total();
}

std::optional<double> RecordedCrossEntropy::run(const Tensor& h, const Tensor& w, const Tensor& labels, const Tensor& weights,
                                                const CrossEntropyOptions& options, const Tensor& dh, const Tensor& dw,
                                                const std::shared_ptr<gpu::Arena>& arena) {
  Task task(h, w, labels, weights, options);
  if (task.rows.empty()) return {};
  const Out to_dh = dh.out(), to_dw = dw ? dw.out(true) : Out{};
  const bool expected = task.rows == rows_ && same(options, options_);
  if (!std::exchange(decided_, true) && expected) {
    list_ = task.head.listed(rows_).to(Device::gpu), weights_ = task.loss.weights, losses_ = task.loss.losses;
    graph_.record(arena, [&] { task.head.run(rows_, list_, task.loss, to_dh, to_dw); });
  } else if (expected && graph_.recorded()) {
    list_.set(task.head.listed(rows_));
    if (weights_) weights_.set(task.loss.weights);
  } else {
    task.head.run(task.rows, task.loss, to_dh, to_dw);
    return task.total();
  }
  graph_.replay();
  ++replays_;
  return Task::total_of(losses_);
}

void RecordedCrossEntropy::reset() {
  graph_.reset();
  rows_.clear();
  list_ = weights_ = losses_ = {};
  decided_ = false;
}

}  // namespace facet

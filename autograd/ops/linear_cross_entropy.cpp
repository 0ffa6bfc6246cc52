#include "autograd/ops.h"
#include "autograd/ops/linear_loss.h"

namespace facet {
namespace {

/// weights[n] * ((1 - e) (lse - z_y) + e (lse - mean) + z lse^2), summed into `total`.
struct CrossEntropyRow {
  View weights;
  CrossEntropyOptions options;
  double dy = 1;
  double total = 0;

  double weight(int64_t n) const {
    if (!weights) return 1;
    return weights.dtype == DType::f64 ? weights.as<double>()[n] : weights.as<float>()[n];
  }
  RowGrad operator()(int64_t n, const LogitRow& z) {
    const double e = options.label_smoothing, zl = options.z_loss, w = weight(n);
    total += w * ((1 - e) * (z.lse - z.label) + e * (z.lse - z.mean) + zl * z.lse * z.lse);
    return {dy * w * (1 + 2 * zl * z.lse), -dy * w * (1 - e), -dy * w * e};
  }
};

struct Task {
  LinearHead head;
  CrossEntropyRow row;
  pool_vector<int64_t> rows;

  Task(const Tensor& h, const Tensor& w, const Tensor& labels, const Tensor& weights, const CrossEntropyOptions& o)
      : head("linear_cross_entropy", h, w, labels, {.cap = o.cap, .mean = o.label_smoothing != 0}), row{{}, o} {
    if (weights) {
      if (!(weights.shape() == labels.shape()) || !weights.contiguous() ||
          (weights.dtype() != DType::f32 && weights.dtype() != DType::f64))
        fail(Kind::usage, "linear_cross_entropy: weights {} {} for labels {}: expected f32 or f64, dense, of the same shape",
             name_of(weights.dtype()), to_string(weights.shape()), to_string(labels.shape()));
      if (weights.slot()) fail(Kind::usage, "linear_cross_entropy: weights get no gradient; detach() them");
      row.weights = weights.view();
    }
    if (!(o.label_smoothing >= 0 && o.label_smoothing < 1))
      fail(Kind::usage, "linear_cross_entropy: label smoothing {}: expected 0 <= e < 1", o.label_smoothing);
    rows = head.rows([this](int64_t n) { return row.weight(n) != 0; });
  }
};

struct LinearCrossEntropyGrad {
  Saved h, w, labels, weights;
  CrossEntropyOptions options;
  void operator()(Grads dy, Sinks dx) {
    Task task(h.get(), w.get(), labels.get(), weights ? weights.get() : Tensor{}, options);
    task.row.dy = dy[0].item();
    task.head.run_sinks(task.rows, task.row, dx[0], dx[1]);
  }
};

}  // namespace

Tensor linear_cross_entropy(const Tensor& h, const Tensor& w, const Tensor& labels, const Tensor& weights,
                            const CrossEntropyOptions& options) {
  Task task(h, w, labels, weights, options);
  task.head.run(task.rows, task.row);
  Tensor y = Tensor::scalar(task.row.total, task.head.acc);
  if (tracing(h, w)) attach("linear_cross_entropy", {&y}, {&h, &w}, LinearCrossEntropyGrad{h, w, labels, weights, options});
  return y;
}

double linear_cross_entropy_backward(const Tensor& h, const Tensor& w, const Tensor& labels, const Tensor& weights,
                                     const CrossEntropyOptions& options) {
  Task task(h, w, labels, weights, options);
  task.head.run_backward(h, w, task.rows, task.row);
  return task.row.total;
}

}  // namespace facet

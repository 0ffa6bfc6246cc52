#include <algorithm>

#include "autograd/ops.h"
#include "autograd/ops/linear_loss.h"

namespace facet {
namespace {

struct LogProbRows {
  Tensor dy, log_probs;  // [N]; absent: not known, not asked for
  void operator()(const RowBlock& b, const Out& stats) const {
    log_prob_rows(stats, b.rows, dy ? dy.view() : View{}, b.scale, log_probs ? log_probs.out() : Out{});
  }
};

double read(const View& v, int64_t n) { return v.dtype == DType::f64 ? v.as<double>()[n] : v.as<float>()[n]; }

struct LinearLogProbsGrad {
  Saved h, w, labels;
  LogitForm form;
  void operator()(Grads dy, Sinks dx) {
    const LinearHead head("linear_log_probs", h.get(), w.get(), labels.get(), form);
    const Tensor d = dy[0].dense();
    // A policy loss gives no gradient to tokens it clipped or masked: their rows need no product either. On the GPU, to know them would be to wait.
    const auto rows = head.rows([&, v = d.view()](int64_t n) { return v.device == Device::gpu || read(v, n) != 0; });
    head.run_sinks(rows, LogProbRows{d, {}}, dx[0], dx[1]);
  }
};

}  // namespace

HeadTask log_prob_task(const LinearHead& head, DType dtype) {
  const auto kernel = [](const std::array<double, 6>&, const RowBlock& b, const Out& stats, const Out& side) { log_prob_rows(stats, {}, {}, b.scale, side); };
  HeadTask t{head, head.rows([](int64_t) { return true; }), {}};
  t.loss = {kernel, {}, Tensor::zeros({head.count(std::ssize(t.rows))}, dtype)};
  return t;
}

HeadTask log_prob_gradient_task(const LinearHead& head, std::span<const double> slopes) {
  const auto kernel = [](const std::array<double, 6>&, const RowBlock& b, const Out& stats, const Out& side) { log_prob_rows(stats, {}, side, b.scale, {}); };
  const auto slope = [&](int64_t n) { return slopes[static_cast<size_t>(n)]; };
  HeadTask t{head, head.rows([&](int64_t n) { return slope(n) != 0; }), {}};
  t.loss = {kernel, {}, Tensor::zeros({head.count(std::ssize(t.rows))}, DType::f64), false};
  std::ranges::transform(t.rows, t.loss.side.out().as<double>(), slope);
  return t;
}

Tensor linear_log_probs(const Tensor& h, const Tensor& w, const Tensor& labels, double cap, double temperature) {
  const OpScope scope("linear_log_probs");
  const LogitForm form{.cap = cap, .temperature = temperature, .exact = true};
  const LinearHead head("linear_log_probs", h, w, labels, form);
  Tensor y = Tensor::zeros(labels.shape(), head.acc, head.device);
  head.run(head.rows([](int64_t) { return true; }), LogProbRows{{}, y});
  if (tracing(h, w)) attach("linear_log_probs", {&y}, {&h, &w}, LinearLogProbsGrad{h, w, labels, form});
  return y;
}

}  // namespace facet

#include "autograd/ops.h"
#include "autograd/ops/linear_loss.h"
#include "tensor/kernels/copy.h"

namespace facet {
namespace {

double read(const View& v, int64_t n) { return v.dtype == DType::f64 ? v.as<double>()[n] : v.as<float>()[n]; }

struct LinearLogProbsGrad {
  Saved h, w, labels;
  LogitForm form;
  void operator()(Grads dy, Sinks dx) {
    const LinearHead head("linear_log_probs", h.get(), w.get(), labels.get(), form);
    const View d = dy[0].view();
    // A policy loss gives no gradient to tokens it clipped or masked: their rows need no product either.
    const auto rows = head.rows([&](int64_t n) { return read(d, n) != 0; });
    head.run_sinks(rows, [&](int64_t n, const LogitRow&) { return RowGrad{-read(d, n), read(d, n), 0}; }, dx[0], dx[1]);
  }
};

}  // namespace

Tensor linear_log_probs(const Tensor& h, const Tensor& w, const Tensor& labels, double cap, double temperature) {
  const LogitForm form{.cap = cap, .temperature = temperature};
  const LinearHead head("linear_log_probs", h, w, labels, form);
  Tensor y = Tensor::zeros(labels.shape(), head.acc);
  const Out out = y.out();
  head.run(head.rows([](int64_t) { return true; }), [&](int64_t n, const LogitRow& z) {
    if (out.dtype == DType::f64) out.as<double>()[n] = z.label - z.lse;
    else out.as<float>()[n] = static_cast<float>(z.label - z.lse);
    return RowGrad{};
  });
  if (tracing(h, w)) attach("linear_log_probs", {&y}, {&h, &w}, LinearLogProbsGrad{h, w, labels, form});
  return y;
}

}  // namespace facet

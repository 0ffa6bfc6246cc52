#include "autograd/joined_ops.h"
#include "autograd/ops.h"
#include "autograd/ops/check.h"
#include "autograd/ops/joined.h"

namespace facet {
namespace {

// dx = sum_i dy_i w_i; dw_i = dy_i^T x, straight into the parameter's gradient. Inputs: x, w_0, w_1, ...
struct LinearGrad {
  Kept x;                // when some w trains
  pool_vector<Saved> w;  // when x wants a gradient

  void operator()(Grads dy, Sinks dx) {
    pool_vector<View> dys, ws;
    for (size_t i = 0; i < dy.size(); ++i) {
      if (!dy[i]) continue;
      dys.push_back(as_rows(dy[i].view()));
      if (dx[0]) ws.push_back(w[i].view());
    }
    if (dx[0]) linear_dx(dys, ws, as_rows(dx[0].dst()));
    if (!x) return;
    const RowsOf rows(x.get());
    for (size_t i = 0, n = 0; i < dy.size(); ++i) {
      if (!dy[i]) continue;
      if (dx[1 + i]) linear_dw(dys[n], rows.view, dx[1 + i].dst());
      ++n;
    }
  }
};

// dx = dy [w_0; w_1; ...]; [dw_0; dw_1; ...] = dy^T x. Inputs: x, w_0, w_1, ...
struct LinearJoinedGrad {
  Kept x;  // when some w trains
  pool_vector<Saved> w;

  void operator()(Grads dy, Sinks dx) {
    const View d = as_rows(dy[0].view());
    pool_vector<View> ws;
    for (const Saved& s : w) ws.push_back(s.view());
    if (dx[0]) joined_dx(d, ws, as_rows(dx[0].dst()));
    if (!x) return;
    const RowsOf rows(x.get());
    pool_vector<Sink*> sinks;
    for (Sink& s : dx.subspan(1)) sinks.push_back(&s);
    joined_dw(d, rows.view, ws, sinks);
  }
};

}  // namespace

bool side_by_side(std::span<const Tensor> w) {
  pool_vector<View> views;
  for (const Tensor& t : w) views.push_back(t.view());
  return static_cast<bool>(stacked<View>(views));
}

Tensor linear_joined(const Tensor& x, std::span<const Tensor> w) {
  const OpScope scope("linear_joined");
  if (w.empty()) fail(Kind::usage, "linear_joined: no weights");
  Shape shape = x.shape();
  pool_vector<View> ws;
  pool_vector<const Tensor*> inputs{&x};
  bool trains = false;
  for (const Tensor& t : w) {
    check_projection("linear_joined", x, "w", t);
    ws.push_back(t.view());
    inputs.push_back(&t);
    trains = trains || t.slot();
  }
  shape[-1] = 0;
  for (const View& v : ws) shape[-1] += v.shape[0];
  Tensor y = Tensor::empty(shape, x.dtype(), x.device());
  const RowsOf rows(x.detach());
  linear(rows.view, ws, parts_of(as_rows(y.out()), ws));  // which joins them, but for a few rows, whose bits are those of a product each
  if (grad_enabled() && (x.slot() || trains)) {
    LinearJoinedGrad grad;
    if (trains) grad.x = x;
    grad.w.assign(w.begin(), w.end());
    Tensor* outputs[] = {&y};
    attach<LinearJoinedGrad>("linear_joined", outputs, inputs, std::move(grad));
  }
  return y;
}

pool_vector<Tensor> linear(const Tensor& x, std::span<const Tensor> w) {
  const OpScope scope("linear");
  pool_vector<Tensor> y(w.size());
  pool_vector<View> weights;
  pool_vector<Out> outs;
  const View rows = x.rank() ? as_rows(x.view()) : View{};
  bool trains = false;
  for (size_t i = 0; i < w.size(); ++i) {
    check_projection("linear", x, "w", w[i]);
    Shape shape = x.shape();
    shape[-1] = w[i].dim(0);
    y[i] = Tensor::empty(shape, x.dtype(), x.device());
    weights.push_back(w[i].view());
    if (rows) outs.push_back(as_rows(y[i].out()));
    else gemm_batched(x.view(), transposed(weights[i]), y[i].out());
    trains = trains || w[i].slot();
  }
  if (rows) linear(rows, weights, outs);
  if (grad_enabled() && (x.slot() || trains)) {
    LinearGrad grad;
    if (trains) grad.x = x;
    if (x.slot()) grad.w.assign(w.begin(), w.end());
    pool_vector<Tensor*> outputs;
    pool_vector<const Tensor*> inputs{&x};
    for (size_t i = 0; i < w.size(); ++i) {
      outputs.push_back(&y[i]);
      inputs.push_back(&w[i]);
    }
    attach<LinearGrad>("linear", outputs, inputs, std::move(grad));
  }
  return y;
}

Tensor linear(const Tensor& x, const Tensor& w) { return std::move(linear(x, {&w, 1})[0]); }

}  // namespace facet

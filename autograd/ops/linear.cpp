#include <algorithm>

#include "autograd/ops.h"
#include "autograd/ops/rows.h"
#include "tensor/kernels/gemm.h"

namespace facet {
namespace {

void check(const Tensor& x, const Tensor& w) {
  if (x.rank() < 1 || w.rank() != 2 || x.dim(-1) != w.dim(1))
    fail(Kind::usage, "linear: x {} and w {}: expected x [.., I] and w [O, I]", to_string(x.shape()), to_string(w.shape()));
  const bool widened = x.dtype() == DType::f32 && w.dtype() == DType::bf16;
  if (x.dtype() == DType::i32 || (x.dtype() != w.dtype() && !widened))
    fail(Kind::usage, "linear: x is {}, w is {}: expected one floating dtype, or bf16 weights under f32; cast one of them",
         name_of(x.dtype()), name_of(w.dtype()));
}

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
    Tensor rows = x.get();
    View vx = as_rows(rows.view());
    if (!vx) vx = as_rows((rows = rows.dense()).view());
    for (size_t i = 0, n = 0; i < dy.size(); ++i) {
      if (!dy[i]) continue;
      if (dx[1 + i]) linear_dw(dys[n], vx, dx[1 + i].dst());
      ++n;
    }
  }
};

}  // namespace

pool_vector<Tensor> linear(const Tensor& x, std::span<const Tensor> w) {
  pool_vector<Tensor> y(w.size());
  pool_vector<View> weights;
  pool_vector<Out> outs;
  const View rows = x.rank() ? as_rows(x.view()) : View{};
  bool trains = false;
  for (size_t i = 0; i < w.size(); ++i) {
    check(x, w[i]);
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

#include "autograd/ops/linear_loss.h"

#include <algorithm>
#include <cmath>

#include "tensor/kernels/copy.h"
#include "tensor/kernels/gemm.h"
#include "tensor/kernels/logit_rows.h"
#include "tensor/profile.h"

namespace facet {
namespace {

template <class V>  // View or Out
V rows_of(V v, int64_t begin, int64_t end) {
  v.data = static_cast<const char*>(v.data) + begin * v.stride[0] * size_of(v.dtype);
  v.shape[0] = end - begin;
  return v;
}

Out collapsed(Out v, int64_t rows, int64_t columns) {  // sinks are dense
  v.shape = {rows, columns};
  v.stride = {columns, 1};
  return v;
}

/// Calls f(i, begin, end) for every run of consecutive rows: rows[i ...] = begin ... end - 1.
template <class F>
void for_each_run(std::span<const int64_t> rows, F f) {
  for (size_t i = 0; i < rows.size();) {
    size_t j = i + 1;
    while (j < rows.size() && rows[j] == rows[j - 1] + 1) ++j;
    f(static_cast<int64_t>(i), rows[i], rows[j - 1] + 1);
    i = j;
  }
}

void zero_other_rows(std::span<const int64_t> rows, const Out& dh) {
  int64_t next = 0;
  for_each_run(rows, [&](int64_t, int64_t begin, int64_t end) {
    if (begin > next) fill(rows_of(dh, next, begin), 0);
    next = end;
  });
  if (next < dh.shape[0]) fill(rows_of(dh, next, dh.shape[0]), 0);
}

template <class T>
void row_losses(std::span<const int64_t> rows, double scale, const LinearHead& head, RowLoss loss, const Tensor& stats,
                bool gradient) {
  T* s = stats.out().as<T>();
  for (size_t i = 0; i < rows.size(); ++i, s += 4) {
    const double max = s[0], sum = s[1];
    const RowGrad g = loss(rows[i], LogitRow{max + std::log(sum), s[2], s[3]});
    if (!gradient) continue;
    s[1] = static_cast<T>(scale * g.lse / sum);  // s becomes the coefficients of logit_grad; the maximum stays
    s[2] = static_cast<T>(scale * g.label);
    s[3] = static_cast<T>(scale * g.mean / static_cast<double>(head.V));
  }
}

}  // namespace

int64_t linear_loss_chunk(int64_t n, int64_t V) {
  constexpr int64_t block = 4 << 20;  // logits: below this size the block of rows costs less memory than anything around it
  // Every block reads w twice and adds to dw once, so many rows are faster (V 65,536, D 640: 256 rows 1.2-1.8 times as fast as
  // 64), but a twelfth of all rows is enough memory.
  const int64_t large = std::clamp<int64_t>(n / 12, 64, 256);
  const int64_t most = std::max(block / std::max<int64_t>(1, V), large);
  if (n <= most) return n;
  const int64_t chunks = (n + most - 1) / most, even = (n + chunks - 1) / chunks;  // no short last block
  return std::min(most, (even + 15) / 16 * 16);
}

LinearHead::LinearHead(const char* op, const Tensor& h_, const Tensor& w_, const Tensor& labels_, const LogitForm& form_)
    : form(form_) {
  if (!h_ || h_.rank() < 1 || !w_ || w_.rank() != 2 || w_.dim(1) != h_.dim(-1))
    fail(Kind::usage, "{}: h {} and w {}: expected h [.., D] and w [V, D]", op, to_string(h_.shape()), to_string(w_.shape()));
  D = h_.dim(-1), V = w_.dim(0), N = h_.shape().rows();
  Shape leading = h_.shape();
  --leading.rank;
  if (!labels_ || labels_.dtype() != DType::i32 || !(labels_.shape() == leading))
    fail(Kind::usage, "{}: labels {} {} for h {}: expected i32, one per row", op, name_of(labels_.dtype()),
         to_string(labels_.shape()), to_string(h_.shape()));
  acc = acc_dtype(h_.dtype());
  if (h_.dtype() == DType::i32 || !(w_.dtype() == h_.dtype() || (w_.dtype() == DType::bf16 && h_.dtype() == DType::f32)))
    fail(Kind::usage, "{}: h is {} and w is {}: expected the same floating dtype, or w bf16 under h f32", op,
         name_of(h_.dtype()), name_of(w_.dtype()));
  if (!(form.cap >= 0) || !(form.temperature > 0))
    fail(Kind::usage, "{}: cap {} and temperature {}: expected cap >= 0 and temperature > 0", op, form.cap, form.temperature);
  h = h_.detach().reshape({N, D}).view();
  w = w_.view();
  labels = labels_.data<int32_t>();
  for (int64_t n = 0; n < N; ++n)
    if (labels[n] >= V) fail(Kind::usage, "{}: label {} in row {}: the vocabulary has {} words", op, labels[n], n, V);
}

void LinearHead::run(std::span<const int64_t> rows, RowLoss loss, Out dh, Out dw) const {
  const KernelScope scope("linear_loss");
  if (dh) dh = collapsed(dh, N, D);
  if (dh && !dh.accumulate) zero_other_rows(rows, dh);
  const int64_t n = static_cast<int64_t>(rows.size());
  if (n == 0) return;
  const int64_t chunk = linear_loss_chunk(n, V);
  const double scale = 1 / form.temperature;
  const Tensor logits = Tensor::empty({chunk, V}, acc), stats = Tensor::empty({chunk, 4}, acc);
  const Tensor label = Tensor::empty({chunk}, DType::i32);
  Tensor some_h, some_dh;  // the chunk's rows side by side, when they are not so already
  for (int64_t begin = 0; begin < n; begin += chunk) {
    const std::span<const int64_t> r = rows.subspan(begin, std::min(chunk, n - begin));
    const int64_t c = static_cast<int64_t>(r.size()), first = r.front();
    const bool adjacent = r.back() - first == c - 1;

    View x = adjacent ? rows_of(h, first, first + c) : View{};
    if (!adjacent) {
      if (!some_h) some_h = Tensor::empty({chunk, D}, h.dtype);
      const Out to = some_h.out();
      for_each_run(r, [&](int64_t i, int64_t a, int64_t b) { copy(rows_of(h, a, b), rows_of(to, i, i + b - a)); });
      x = rows_of(some_h.view(), 0, c);
    }
    int32_t* y = label.out().as<int32_t>();
    for (int64_t i = 0; i < c; ++i) y[i] = labels[r[i]];

    const Out z = rows_of(logits.out(), 0, c), s = rows_of(stats.out(), 0, c);
    const View ys = rows_of(label.view(), 0, c);
    gemm(x, transposed(w), z, 1);  // [c, V]
    logit_stats(z, ys, form.cap, scale, form.mean, s);
    const bool gradient = dh || dw;
    if (acc == DType::f64) row_losses<double>(r, scale, *this, loss, stats, gradient);
    else row_losses<float>(r, scale, *this, loss, stats, gradient);
    if (!gradient) continue;
    logit_grad(z, ys, s, form.cap * scale);

    if (dw) {
      gemm(transposed(z), x, dw, 1);  // [V, D]
      dw.accumulate = true;
    }
    if (!dh) continue;
    if (adjacent && dh.dtype == acc) {
      gemm(z, w, rows_of(dh, first, first + c), 1);  // [c, D]
      continue;
    }
    if (!some_dh) some_dh = Tensor::empty({chunk, D}, acc);
    gemm(z, w, rows_of(some_dh.out(), 0, c), 1);
    const View from = some_dh.view();
    for_each_run(r, [&](int64_t i, int64_t a, int64_t b) { copy(rows_of(from, i, i + b - a), rows_of(dh, a, b)); });
  }
}

void LinearHead::run_sinks(std::span<const int64_t> rows, RowLoss loss, Sink& dh, Sink& dw) const {
  if (rows.empty() || (!dh && !dw)) return;
  run(rows, loss, dh.dst(h.dtype), dw.dst(acc));
}

void LinearHead::run_backward(const Tensor& h_, const Tensor& w_, std::span<const int64_t> rows, RowLoss loss) const {
  if (rows.empty()) return;
  if (!tracing(h_, w_)) return run(rows, loss);
  // A node whose backward is the whole computation: the tape lends it the sinks of h and w and goes on from h.
  struct Root {
    const LinearHead& head;
    std::span<const int64_t> rows;
    RowLoss loss;
    void operator()(Grads, Sinks dx) { head.run_sinks(rows, loss, dx[0], dx[1]); }
  };
  Tensor root = Tensor::empty({}, acc);
  attach("linear_loss", {&root}, {&h_, &w_}, Root{*this, rows, loss});
  backward(root);
}

}  // namespace facet

#include "autograd/ops/linear_loss.h"

#include <algorithm>
#include <bit>

#include "autograd/anomaly.h"
#include "tensor/gpu/runtime.h"
#include "tensor/gpu/waits.h"
#include "tensor/kernels/copy.h"
#include "tensor/kernels/gather.h"
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
void row_losses(std::span<const int64_t> rows, double scale, int64_t V, RowLoss loss, const Out& stats) {
  T* s = stats.as<T>();
  for (size_t i = 0; i < rows.size(); ++i, s += 4) write_coefficients(loss(rows[i], row_of_stats(s)), scale, V, s);
}

// A loss of the host's kind: the statistics come to the CPU and their coefficients go back. Those of rows that fill up are 0.
void on_host(std::span<const int64_t> rows, double scale, int64_t V, RowLoss loss, const Tensor& stats, bool gradient) {
  const Tensor here = stats.to(Device::cpu);
  if (const auto n = std::ssize(rows); n < stats.dim(0)) fill(here.slice(0, n, stats.dim(0)).out(), 0);
  if (stats.dtype() == DType::f64) row_losses<double>(rows, scale, V, loss, here.out());
  else row_losses<float>(rows, scale, V, loss, here.out());
  if (gradient && stats.device() == Device::gpu)
    gpu::copy_to_device(stats.out().as<char>(), here.view().data, static_cast<size_t>(stats.numel() * size_of(stats.dtype())));
}

// Every column of a row by the row's number.
View across(View numbers, int64_t columns) {
  numbers.shape.push(columns);
  numbers.stride.push(0);
  return numbers;
}

}  // namespace

int64_t linear_loss_chunk(int64_t n, int64_t V, Device device, int64_t bytes) {
  int64_t most, step = 16;
  if (device == Device::gpu) {
    const auto room = static_cast<int64_t>(gpu::device().total_bytes / 32);
    most = std::clamp<int64_t>(room / std::max<int64_t>(1, V * bytes), 256, 16384);
    step = 128;
  } else {
    constexpr int64_t block = 4 << 20;  // logits: below this size the block of rows costs less memory than anything around it
    // Every block reads w twice and adds to dw once, so many rows are faster (V 65,536, D 640: 256 rows 1.2-1.8 times as fast as
    // 64), but a twelfth of all rows is enough memory.
    const int64_t large = std::clamp<int64_t>(n / 12, 64, 256);
    most = std::max(block / std::max<int64_t>(1, V), large);
  }
  if (n <= most) return n;
  const int64_t chunks = (n + most - 1) / most, even = (n + chunks - 1) / chunks;  // no short last block
  return std::min(most, (even + step - 1) / step * step);
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
  if (labels_.device() != Device::cpu || !labels_.contiguous())
    fail(Kind::usage, "{}: labels {} are {}; expected dense and on the CPU, wherever h is: to(Device::cpu).dense()", op, to_string(labels_.shape()),
         labels_.device() == Device::cpu ? "strided" : "on the GPU");
  acc = acc_dtype(h_.dtype());
  if (h_.dtype() == DType::i32 || !(w_.dtype() == h_.dtype() || (w_.dtype() == DType::bf16 && h_.dtype() == DType::f32)))
    fail(Kind::usage, "{}: h is {} and w is {}: expected the same floating dtype, or w bf16 under h f32", op,
         name_of(h_.dtype()), name_of(w_.dtype()));
  if (!(form.cap >= 0) || !(form.temperature > 0))
    fail(Kind::usage, "{}: cap {} and temperature {}: expected cap >= 0 and temperature > 0", op, form.cap, form.temperature);
  device = h_.device();
  if (w_.device() != device) fail(Kind::usage, "{}: h is on the {} and w on the {}; move them to one device with to(Device)", op, name_of(device), name_of(w_.device()));
  h = h_.detach().reshape({N, D}).view();
  w = w_.view();
  labels = labels_.data<int32_t>();
  for (int64_t n = 0; n < N; ++n)
    if (labels[n] >= V) fail(Kind::usage, "{}: label {} in row {}: the vocabulary has {} words", op, labels[n], n, V);
}

int64_t LinearHead::count(int64_t n) const {
  if (device == Device::cpu || n == 0) return n;
  const auto step = std::max<int64_t>(16, static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(n))) / 16);
  return std::min(N, (n + step - 1) / step * step);
}

Tensor LinearHead::listed(std::span<const int64_t> rows) const {
  const int64_t all = count(std::ssize(rows));
  const Tensor list = Tensor::empty({3, all}, DType::i32);
  int32_t* to = list.out().as<int32_t>();
  for (int64_t i = 0; i < all; ++i) {
    const bool fills = i >= std::ssize(rows);
    const int64_t row = fills ? rows.back() : rows[static_cast<size_t>(i)];
    to[i] = static_cast<int32_t>(row);
    to[all + i] = labels[row];
    to[2 * all + i] = fills ? -1 : to[i];
  }
  return list;
}

void LinearHead::run(std::span<const int64_t> rows, RowLoss loss, Out dh, Out dw) const { run(rows, listed(rows).to(device), loss, dh, dw); }

void LinearHead::run(std::span<const int64_t> rows, const Tensor& list, RowLoss loss, Out dh, Out dw) const {
  const KernelScope scope("linear_loss");
  if (dh) dh = collapsed(dh, N, D);
  const int64_t n = list.dim(1);
  const bool on_gpu = device == Device::gpu, gradient = dh || dw, all_rows = std::ssize(rows) == N;
  if (dh && !dh.accumulate) {
    if (!on_gpu) zero_other_rows(rows, dh);
    else if (!all_rows) fill(dh, 0);
  }
  if (n == 0) return;
  const DType of_z = on_gpu && !form.exact ? h.dtype : acc, of_dz = on_gpu ? h.dtype : acc;
  const int64_t bytes = size_of(of_z) + (gradient && of_dz != of_z ? size_of(of_dz) : 0);
  // On the GPU a function of the shape alone, and so is what is done beside the products: other rows then take the same memory and kernels.
  const int64_t chunk = form.block > 0 ? std::min(n, form.block) : linear_loss_chunk(on_gpu ? N : n, V, device, bytes);
  const double scale = 1 / form.temperature;
  const Tensor logits = Tensor::empty({chunk, V}, of_z, device), all_stats = Tensor::empty({chunk, 4}, acc, device);
  Tensor dlogits;  // of their own only where they are narrower
  if (gradient && of_dz != of_z) dlogits = Tensor::empty({chunk, V}, of_dz, device);
  Tensor some_h, some_dh;  // the chunk's rows side by side, when they are not so already
  for (int64_t begin = 0; begin < n; begin += chunk) {
    const int64_t c = std::min(chunk, n - begin), own = std::clamp<int64_t>(std::ssize(rows) - begin, 0, c);  // without those that fill up
    const std::span<const int64_t> r = rows.subspan(static_cast<size_t>(std::min(begin, std::ssize(rows))), static_cast<size_t>(own));
    const int64_t first = r.empty() ? 0 : r.front();
    const bool adjacent = on_gpu ? all_rows : r.back() - first == c - 1;
    const auto part = [&](int64_t i) { return list.slice(0, i, i + 1).slice(1, begin, begin + c).reshape({c}); };
    const Tensor from_rows = part(0), ys = part(1), to_rows = part(2);

    View x = adjacent ? rows_of(h, first, first + c) : View{};
    if (!adjacent) {
      if (!some_h) some_h = Tensor::empty({chunk, D}, h.dtype, device);
      gather(h, 0, across(from_rows.view(), D), rows_of(some_h.out(), 0, c));
      x = rows_of(some_h.view(), 0, c);
    }

    const Out z = rows_of(logits.out(), 0, c), dz = dlogits ? rows_of(dlogits.out(), 0, c) : z;
    const Tensor stats = all_stats.slice(0, 0, c);
    gemm(x, transposed(w), z, 1);  // [c, V]
    logit_stats(z, ys.view(), form.cap, scale, form.mean, stats.out());
    if (loss.by_kernels()) loss(RowBlock{begin, c, to_rows.view(), scale}, stats.out());
    else on_host(r, scale, V, loss, stats, gradient);
    if (!gradient) continue;
    logit_grad(z, ys.view(), stats.view(), form.cap * scale, dz);

    if (dw) {
      gemm(transposed(dz), x, dw, 1);  // [V, D]
      dw.accumulate = true;
    }
    if (!dh) continue;
    if (adjacent && (on_gpu || dh.dtype == acc)) {
      gemm(dz, w, rows_of(dh, first, first + c), 1);  // [c, D]
      continue;
    }
    if (!some_dh) some_dh = Tensor::empty({chunk, D}, acc, device);
    gemm(dz, w, rows_of(some_dh.out(), 0, c), 1);
    const View from = rows_of(some_dh.view(), 0, c);
    if (on_gpu) scatter_add(from, 0, across(to_rows.view(), D), dh);  // its rows are 0, or something to add to
    else for_each_run(r, [&](int64_t i, int64_t a, int64_t b) { copy(rows_of(from, i, i + b - a), rows_of(dh, a, b)); });
  }
}

void LinearHead::run_sinks(std::span<const int64_t> rows, RowLoss loss, Sink& dh, Sink& dw) const {
  if (rows.empty() || (!dh && !dw)) return;
  run(rows, loss, dh.dst(h.dtype), dw.dst(acc));
}

void LinearHead::run_backward(const Tensor& h_, const Tensor& w_, std::span<const int64_t> rows, RowLoss loss) const {
  if (rows.empty()) return;
  if (!tracing(h_, w_)) {
    const OpScope scope("linear_loss");
    return run(rows, loss);
  }
  // A node whose backward is the whole computation: the tape lends it the sinks of h and w and goes on from h.
  struct Root {
    const LinearHead& head;
    std::span<const int64_t> rows;
    RowLoss loss;
    void operator()(Grads, Sinks dx) { head.run_sinks(rows, loss, dx[0], dx[1]); }
  };
  Tensor root = Tensor::empty({}, acc, device);
  if (anomaly_watch()) fill(root.out(), 0);  // nobody else reads it
  attach("linear_loss", {&root}, {&h_, &w_}, Root{*this, rows, loss});
  backward(root);
}

void HeadTask::run(const Tensor& list, const Tensor& side, Out dh, Out dw) const {
  head.run(rows, list, [&](const RowBlock& b, const Out& stats) { loss.kernel(loss.numbers, b, stats, b.of(side).out()); }, dh, dw);
}

Tensor HeadTask::run_backward(const Tensor& h, const Tensor& w) const {
  const Tensor side = loss.side.to(head.device);
  head.run_backward(h, w, rows, [&](const RowBlock& b, const Out& stats) { loss.kernel(loss.numbers, b, stats, b.of(side).out()); });
  return answers(side);
}

Tensor HeadTask::values() const {
  const OpScope scope("linear_loss");
  const Tensor side = loss.side.to(head.device);
  run(head.listed(rows).to(head.device), side, {}, {});
  return answers(side);
}

Tensor HeadTask::answers(const Tensor& side) const {
  if (!loss.answers) return {};
  const gpu::MaySync wait;  // once for a micro-batch: its loss is among them
  return side.to(Device::cpu);
}

}  // namespace facet

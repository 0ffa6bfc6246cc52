#include "tensor/kernels/gather.h"

#include "autograd/ops.h"
#include "autograd/ops/check.h"
#include "tensor/kernels/copy.h"

namespace facet {
namespace {

// Indices on the GPU are not fetched to be checked: there one out of range reads NaN and adds nothing.
void check_range(const char* op, const Tensor& index, int64_t n) {
  if (index.device() == Device::gpu) return;
  const Tensor dense = index.detach().dense();
  for (int32_t i : dense.data<int32_t>())
    if (i < 0 || i >= n) fail(Kind::usage, "{}: index {} is out of range, the dimension has {} elements", op, i, n);
}

/// index agrees with x outside `dim`.
void check_index(const char* op, const Tensor& x, int dim, const Tensor& index) {
  check_i32(op, "index", index);
  Shape a = x.shape(), b = index.shape();
  if (a.rank == b.rank) a[dim] = b[dim] = 0;
  if (!(a == b))
    fail(Kind::usage, "{}: x {} and index {} must agree outside dimension {}", op, to_string(x.shape()), to_string(index.shape()), dim);
  check_range(op, index, x.dim(dim));
}

struct GatherGrad {
  Saved index;
  int dim;
  Shape shape;  ///< of dy as the kernel wants it: index's
  void operator()(Grads dy, Sinks dx) {
    if (dx[0]) scatter_add(dy[0].reshape(shape).view(), dim, index.view(), dx[0].zeroed());
  }
};

struct ScatterAddGrad {
  Saved index;
  int dim;
  void operator()(Grads dy, Sinks dx) {
    dx[0].pass(dy[0]);
    if (!dx[1]) return;
    const Tensor d = Tensor::empty(index.get().shape(), dy[0].dtype(), dy[0].device());
    gather(dy[0].view(), dim, index.view(), d.out());
    dx[1].pass(d);
  }
};

}  // namespace

Tensor gather(const Tensor& x, int dim, const Tensor& index) {
  const OpScope scope("gather");
  if (!x) fail(Kind::usage, "gather: x is absent");
  dim = normal_dim("gather", dim, x.rank());
  check_index("gather", x, dim, index);
  Tensor y = Tensor::empty(index.shape(), x.dtype(), x.device());
  gather(x.view(), dim, index.view(), y.out());
  if (tracing(x)) attach("gather", {&y}, {&x}, GatherGrad{index, dim, index.shape()});
  return y;
}

Tensor take(const Tensor& x, const Tensor& index, int dim) {
  const OpScope scope("take");
  if (!x) fail(Kind::usage, "take: x is absent");
  check_i32("take", "index", index);
  dim = normal_dim("take", dim, x.rank());
  check_range("take", index, x.dim(dim));
  if (x.rank() - 1 + index.rank() > max_rank)
    fail(Kind::usage, "take: x {} by index {} would have more than {} dimensions", to_string(x.shape()), to_string(index.shape()), max_rank);
  // A gather whose index is the same for all elements of a slice: stride 0 everywhere but in `dim`.
  Shape result, flat = x.shape(), line;
  for (int i = 0; i < x.rank(); ++i) {
    if (i != dim) result.push(x.dim(i));
    else for (int64_t n : index.shape()) result.push(n);
    line.push(i == dim ? index.numel() : 1);
  }
  flat[dim] = index.numel();
  const Tensor spread = index.detach().dense().reshape(line).expand(flat);
  const Tensor full = Tensor::empty(flat, x.dtype(), x.device());
  gather(x.view(), dim, spread.view(), full.out());
  Tensor y = full.reshape(result);
  if (tracing(x)) attach("take", {&y}, {&x}, GatherGrad{spread, dim, flat});
  return y;
}

Tensor scatter_add(const Tensor& x, int dim, const Tensor& index, const Tensor& source) {
  const OpScope scope("scatter_add");
  check_same_dtype("scatter_add", "x", x, "source", source);
  check_floating("scatter_add", "x", x);
  dim = normal_dim("scatter_add", dim, x.rank());
  check_index("scatter_add", x, dim, index);
  if (!(index.shape() == source.shape()))
    fail(Kind::usage, "scatter_add: index {} and source {} must have one shape", to_string(index.shape()), to_string(source.shape()));
  Tensor y = x.detach().clone();
  scatter_add(source.view(), dim, index.view(), y.out(true));
  if (tracing(x, source)) attach("scatter_add", {&y}, {&x, &source}, ScatterAddGrad{index, dim});
  return y;
}

}  // namespace facet

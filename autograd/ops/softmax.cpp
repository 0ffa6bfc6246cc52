#include "tensor/kernels/softmax.h"

#include <algorithm>

#include "autograd/ops.h"
#include "autograd/ops/along.h"
#include "autograd/ops/check.h"

namespace facet {
namespace {

struct SoftmaxGrad {
  Saved y;
  int dim;
  void operator()(Grads dy, Sinks dx) {
    softmax_grad(moved_last(dy[0].view(), dim), moved_last(y.view(), dim), moved_last(dx[0].dst(dy[0].dtype()), dim));
  }
};

struct LogSoftmaxGrad {
  Saved x, lse;
  int dim;
  void operator()(Grads dy, Sinks dx) {
    log_softmax_grad(moved_last(dy[0].view(), dim), moved_last(x.view(), dim), moved_last(lse.view(), dim),
                     moved_last(dx[0].dst(dy[0].dtype()), dim));
  }
};

struct LogsumexpGrad {
  Saved x, lse;
  int dim;
  void operator()(Grads dy, Sinks dx) {
    logsumexp_grad(moved_last(dy[0].reshape(lse.get().shape()).view(), dim), moved_last(x.view(), dim), moved_last(lse.view(), dim),
                   moved_last(dx[0].dst(dy[0].dtype()), dim));
  }
};

}  // namespace

Tensor softmax(const Tensor& x, int dim) {
  const OpScope scope("softmax");
  check_floating("softmax", "x", x);
  dim = along_dim("softmax", dim, x);
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  softmax(moved_last(x.view(), dim), moved_last(y.out(), dim));
  if (tracing(x)) attach("softmax", {&y}, {&x}, SoftmaxGrad{y, dim});
  return y;
}

Tensor log_softmax(const Tensor& x, int dim) {
  const OpScope scope("log_softmax");
  check_floating("log_softmax", "x", x);
  dim = along_dim("log_softmax", dim, x);
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  const Tensor lse = Tensor::empty(kept_shape(x.shape(), dim), acc_dtype(x.dtype()), x.device());
  log_softmax(moved_last(x.view(), dim), moved_last(y.out(), dim), moved_last(lse.out(), dim));
  if (tracing(x)) attach("log_softmax", {&y}, {&x}, LogSoftmaxGrad{x, lse, dim});
  return y;
}

Tensor logsumexp(const Tensor& x, int dim, bool keep) {
  const OpScope scope("logsumexp");
  check_floating("logsumexp", "x", x);
  dim = along_dim("logsumexp", dim, x);
  const Tensor lse = Tensor::empty(kept_shape(x.shape(), dim), acc_dtype(x.dtype()), x.device());
  logsumexp(moved_last(x.view(), dim), moved_last(lse.out(), dim));
  Tensor y = dropped(lse.to(x.dtype()), dim, keep);
  if (tracing(x)) attach("logsumexp", {&y}, {&x}, LogsumexpGrad{x, lse, dim});
  return y;
}

}  // namespace facet

#include <algorithm>

#include "autograd/ops.h"
#include "autograd/ops/along.h"
#include "autograd/ops/check.h"
#include "tensor/kernels/copy.h"
#include "tensor/kernels/elementwise.h"
#include "tensor/kernels/gather.h"
#include "tensor/kernels/select.h"
#include "tensor/kernels/sum_to.h"

namespace facet {
namespace {

// ---- sum, mean, var

/// x's shape with size 1 in the reduced dimensions (none named: all), and without them.
struct Reduced {
  Shape kept, result;
  int64_t count = 1;  ///< elements per sum
  Reduced(const char* op, const Tensor& x, const std::vector<int>& dims, bool keep) : kept(x.shape()) {
    unsigned mask = dims.empty() ? ~0u : 0;
    for (int d : dims) {
      const unsigned bit = 1u << normal_dim(op, d, x.rank());
      if (mask & bit) fail(Kind::usage, "{}: dimension {} is named twice", op, d);
      mask |= bit;
    }
    for (int i = 0; i < x.rank(); ++i) {
      if (mask & (1u << i)) {
        count *= x.dim(i);
        kept[i] = 1;
      }
      if (keep || !(mask & (1u << i))) result.push(kept[i]);
    }
  }
};

struct SumGrad {
  Shape kept, full;
  double scale;
  void operator()(Grads dy, Sinks dx) {
    if (!dx[0]) return;
    Tensor d = dy[0].reshape(kept);
    if (scale != 1) {
      d = Tensor::empty(kept, dy[0].dtype(), dy[0].device());
      unary(Unary::mul, dy[0].reshape(kept).view(), scale, d.out());
    }
    copy(d.expand(full).view(), dx[0].dst());
  }
};

/// sum(x) * scale in x's accumulation type: rounded once, whatever follows.
Tensor scaled_sum(const Tensor& x, const Shape& kept, double scale) {
  Tensor s = Tensor::empty(kept, acc_dtype(x.dtype()), x.device());
  sum_to(x.view(), s.out());
  if (scale != 1) unary(Unary::mul, s.view(), scale, s.out());
  return s;
}

Tensor sum_scaled(const char* op, const Tensor& x, const Reduced& r, double scale) {
  const OpScope scope(op);
  Tensor y = scaled_sum(x.detach(), r.kept, scale).to(x.dtype()).reshape(r.result);
  if (tracing(x)) attach(op, {&y}, {&x}, SumGrad{r.kept, x.shape(), scale});
  return y;
}

/// x - mean in the accumulation type.
Tensor centred(const Tensor& x, const Tensor& mean) {
  const Tensor wide = x.to(mean.dtype());
  Tensor c = Tensor::empty(x.shape(), mean.dtype(), x.device());
  binary(Binary::sub, wide.view(), mean.view(), c.out());
  return c;
}

struct VarGrad {
  Saved x, mean;
  double scale;  // 2 / n
  void operator()(Grads dy, Sinks dx) {
    if (!dx[0]) return;
    Tensor d = Tensor::empty(mean.get().shape(), mean.get().dtype(), mean.get().device());
    unary(Unary::mul, dy[0].to(d.dtype()).reshape(d.shape()).view(), scale, d.out());
    const Tensor c = centred(x.get(), mean.get());
    binary(Binary::mul, c.view(), d.view(), c.out());
    dx[0].pass(c);
  }
};

// ---- max, top_k, cumsum

struct MaxGrad {
  Saved x, y;
  int dim;
  void operator()(Grads dy, Sinks dx) {
    if (!dx[0]) return;
    max_grad(moved_last(dy[0].reshape(y.get().shape()).view(), dim), moved_last(x.view(), dim), moved_last(y.view(), dim),
             moved_last(dx[0].dst(dy[0].dtype()), dim));
  }
};

struct TopKGrad {
  Saved indices;
  void operator()(Grads dy, Sinks dx) {
    if (dx[0] && dy[0]) scatter_add(dy[0].view(), indices.get().rank() - 1, indices.view(), dx[0].zeroed());
  }
};

struct CumsumGrad {
  int dim;
  void operator()(Grads dy, Sinks dx) {
    cumsum(moved_last(dy[0].view(), dim), true, moved_last(dx[0].dst(dy[0].dtype()), dim));
  }
};

void check_not_empty(const char* op, const Tensor& x, int dim) {
  if (x.rank() && x.dim(dim) == 0)
    fail(Kind::usage, "{}: dimension {} of {} is empty and has no largest element", op, dim, to_string(x.shape()));
}

}  // namespace

Tensor sum(const Tensor& x, std::vector<int> dims, bool keep) {
  check_floating("sum", "x", x);
  return sum_scaled("sum", x, Reduced("sum", x, dims, keep), 1);
}

Tensor mean(const Tensor& x, std::vector<int> dims, bool keep) {
  check_floating("mean", "x", x);
  const Reduced r("mean", x, dims, keep);
  return sum_scaled("mean", x, r, 1.0 / static_cast<double>(r.count));
}

Tensor var(const Tensor& x, int dim, bool keep) {
  const OpScope scope("var");
  check_floating("var", "x", x);
  dim = along_dim("var", dim, x);
  const Shape kept = kept_shape(x.shape(), dim);
  const double n = x.rank() ? static_cast<double>(x.dim(dim)) : 1;
  const Tensor mean = scaled_sum(x.detach(), kept, 1 / n), c = centred(x.detach(), mean);
  unary(Unary::square, c.view(), 0, c.out());
  Tensor y = dropped(scaled_sum(c, kept, 1 / n).to(x.dtype()), dim, keep);
  if (tracing(x)) attach("var", {&y}, {&x}, VarGrad{x, mean, 2 / n});
  return y;
}

Tensor max(const Tensor& x, int dim, bool keep) {
  const OpScope scope("max");
  check_floating("max", "x", x);
  dim = along_dim("max", dim, x);
  check_not_empty("max", x, dim);
  const Tensor full = Tensor::empty(kept_shape(x.shape(), dim), x.dtype(), x.device());
  max(moved_last(x.view(), dim), moved_last(full.out(), dim));
  Tensor y = dropped(full, dim, keep);
  if (tracing(x)) attach("max", {&y}, {&x}, MaxGrad{x, full, dim});
  return y;
}

Tensor argmax(const Tensor& x, int dim, bool keep) {
  const OpScope scope("argmax");
  check_floating("argmax", "x", x);
  dim = along_dim("argmax", dim, x);
  check_not_empty("argmax", x, dim);
  const Tensor y = Tensor::empty(kept_shape(x.shape(), dim), DType::i32, x.device());
  argmax(moved_last(x.view(), dim), moved_last(y.out(), dim));
  return dropped(y, dim, keep);
}

Tensor cumsum(const Tensor& x, int dim) {
  const OpScope scope("cumsum");
  check_floating("cumsum", "x", x);
  dim = along_dim("cumsum", dim, x);
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  cumsum(moved_last(x.view(), dim), false, moved_last(y.out(), dim));
  if (tracing(x)) attach("cumsum", {&y}, {&x}, CumsumGrad{dim});
  return y;
}

TopK top_k(const Tensor& x, int k) {
  const OpScope scope("top_k");
  check_floating("top_k", "x", x);
  if (x.rank() == 0 || k < 0 || k > x.dim(-1))
    fail(Kind::usage, "top_k: k = {} of the last dimension of {}", k, to_string(x.shape()));
  Shape shape = x.shape();
  shape[-1] = k;
  TopK y{Tensor::empty(shape, x.dtype(), x.device()), Tensor::empty(shape, DType::i32, x.device())};
  top_k(x.view(), y.values.out(), y.indices.out());
  if (tracing(x)) attach("top_k", {&y.values}, {&x}, TopKGrad{y.indices});
  return y;
}

}  // namespace facet

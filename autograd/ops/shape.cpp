// Views where the layout allows; their gradients are views too, or a copy into the right region of the input's.
#include <algorithm>
#include <array>
#include <numeric>

#include "autograd/ops.h"
#include "autograd/ops/check.h"
#include "tensor/kernels/copy.h"

namespace facet {
namespace {

void check_present(const char* op, const Tensor& x) {
  if (!x) fail(Kind::usage, "{}: x is absent", op);
}

/// Positions [begin, begin + n * step) of dimension d of a destination.
Out window(Out o, int d, int64_t begin, int64_t n, int64_t step = 1) {
  o.data = o.as<char>() + begin * o.stride[d] * size_of(o.dtype);
  o.shape[d] = n;
  o.stride[d] *= step;
  return o;
}

struct ReshapeGrad {
  Shape shape;  // of x
  bool in_place = false;

  bool placed() const { return in_place; }
  Tensor place(uint16_t, const Node& n) {
    const Edge& x = n.inputs[0];
    const Shape& y = n.outputs[0].shape;
    const Tensor of_x = static_cast<Node&>(*x.node).place(x.output);
    in_place = of_x && of_x.reshapes(y);
    return in_place ? of_x.reshape(y) : Tensor{};
  }
  void operator()(Grads dy, Sinks dx) { dx[0].pass(dy[0].reshape(shape)); }
};

struct PermuteGrad {
  std::array<int, max_rank> inverse;
  int rank;
  void operator()(Grads dy, Sinks dx) {
    dx[0].pass(dy[0].permute(std::span<const int>(inverse.data(), static_cast<size_t>(rank))));
  }
};

struct SliceGrad {
  int dim;
  int64_t begin, step;
  void operator()(Grads dy, Sinks dx) {
    if (!dx[0]) return;
    copy(dy[0].view(), window(dx[0].zeroed(), dim, begin, dy[0].dim(dim), step));
  }
};

struct ExpandGrad {
  void operator()(Grads dy, Sinks dx) { dx[0].pass_sum(dy[0]); }
};

struct ConcatGrad {
  int dim;
  pool_vector<int64_t> sizes;
  void operator()(Grads dy, Sinks dx) {
    int64_t begin = 0;
    for (size_t i = 0; i < sizes.size(); ++i) {
      if (dx[i]) copy(dy[0].slice(dim, begin, begin + sizes[i]).view(), dx[i].dst());
      begin += sizes[i];
    }
  }
};

struct SplitGrad {
  int dim;
  pool_vector<int64_t> sizes;
  Tensor whole = {};                 // dx, once somebody writes a part of it in place
  pool_vector<uint16_t> given = {};  // those parts; one that is read in two ways has one place, and a gradient of its own for the other way

  bool placed() const { return static_cast<bool>(whole); }
  Tensor place(uint16_t output, const Node& n) {
    const GradSlot& x = n.inputs[0].slot();
    if (x.dtype != n.outputs[output].dtype || std::find(given.begin(), given.end(), output) != given.end()) return {};
    if (!whole) whole = static_cast<Node&>(*n.inputs[0].node).place(n.inputs[0].output);  // which may want more behind each row
    if (!whole) whole = Tensor::empty(x.shape, x.dtype, x.device);
    given.push_back(output);
    const int64_t begin = std::accumulate(sizes.begin(), sizes.begin() + output, int64_t{0});
    return whole.slice(dim, begin, begin + sizes[output]);
  }
  void operator()(Grads dy, Sinks dx) {
    if (!dx[0]) return;
    const Tensor made = std::move(whole);
    const Out to = made ? made.out() : dx[0].dst();
    int64_t begin = 0;
    for (size_t i = 0; i < sizes.size(); ++i) {  // the parts cover everything, so nothing is zeroed that is written anyway
      const Out part = window(to, dim, begin, sizes[i]);
      if (!dy[i] && !part.accumulate) fill(part, 0);
      if (dy[i] && dy[i].view().data != part.data) copy(dy[i].view(), part);
      begin += sizes[i];
    }
    if (made) dx[0].pass(made);
  }
};

Tensor permuted(const char* name, const Tensor& x, std::span<const int> order) {
  const OpScope scope(name);
  Tensor y = x.detach().permute(order);
  if (tracing(x)) {
    PermuteGrad g{{}, x.rank()};
    for (int i = 0; i < x.rank(); ++i) g.inverse[normal_dim(name, order[i], x.rank())] = i;
    attach(name, {&y}, {&x}, g);
  }
  return y;
}

}  // namespace

Tensor reshape(const Tensor& x, const Shape& shape) {
  const OpScope scope("reshape");
  check_present("reshape", x);
  const Tensor plain = x.detach();
  Tensor y = (plain.reshapes(shape) ? plain : plain.dense()).reshape(shape);
  if (tracing(x)) attach("reshape", {&y}, {&x}, ReshapeGrad{x.shape()});
  return y;
}

Tensor permute(const Tensor& x, std::vector<int> order) {
  check_present("permute", x);
  return permuted("permute", x, order);
}

Tensor transpose(const Tensor& x, int a, int b) {
  check_present("transpose", x);
  std::array<int, max_rank> order;
  std::iota(order.begin(), order.end(), 0);
  std::swap(order[normal_dim("transpose", a, x.rank())], order[normal_dim("transpose", b, x.rank())]);
  return permuted("transpose", x, std::span<const int>(order.data(), static_cast<size_t>(x.rank())));
}

Tensor slice(const Tensor& x, int dim, int64_t begin, int64_t end, int64_t step) {
  const OpScope scope("slice");
  check_present("slice", x);
  dim = normal_dim("slice", dim, x.rank());
  Tensor y = x.detach().slice(dim, begin, end, step);
  if (tracing(x)) attach("slice", {&y}, {&x}, SliceGrad{dim, begin < 0 ? begin + x.dim(dim) : begin, step});
  return y;
}

Tensor expand(const Tensor& x, const Shape& shape) {
  const OpScope scope("expand");
  check_present("expand", x);
  Tensor y = x.detach().expand(shape);
  if (tracing(x)) attach("expand", {&y}, {&x}, ExpandGrad{});
  return y;
}

Tensor concat(const std::vector<Tensor>& x, int dim) {
  const OpScope scope("concat");
  if (x.empty()) fail(Kind::usage, "concat: no tensors given");
  for (const Tensor& t : x) check_same_dtype("concat", "x[0]", x[0], "x[i]", t);
  dim = normal_dim("concat", dim, x[0].rank());
  Shape shape = x[0].shape();
  shape[dim] = 0;
  bool traced = false;
  for (const Tensor& t : x) {
    Shape other = t.shape();
    if (other.rank == shape.rank) other[dim] = 0;
    Shape same = shape;
    same[dim] = 0;
    if (!(other == same))
      fail(Kind::usage, "concat: shapes {} and {} differ outside dimension {}", to_string(x[0].shape()), to_string(t.shape()), dim);
    shape[dim] += t.dim(dim);
    traced |= tracing(t);
  }
  Tensor y = Tensor::empty(shape, x[0].dtype(), x[0].device());
  int64_t begin = 0;
  for (const Tensor& t : x) {
    copy(t.view(), window(y.out(), dim, begin, t.dim(dim)));
    begin += t.dim(dim);
  }
  if (traced) {
    ConcatGrad g{dim, {}};
    pool_vector<const Tensor*> inputs;
    for (const Tensor& t : x) {
      g.sizes.push_back(t.dim(dim));
      inputs.push_back(&t);
    }
    Tensor* outputs[] = {&y};
    attach("concat", std::span<Tensor* const>(outputs), std::span<const Tensor* const>(inputs), std::move(g));
  }
  return y;
}

std::vector<Tensor> split(const Tensor& x, const std::vector<int64_t>& sizes, int dim) {
  const OpScope scope("split");
  check_present("split", x);
  dim = normal_dim("split", dim, x.rank());
  int64_t total = 0;
  for (int64_t n : sizes) {
    if (n < 0) fail(Kind::usage, "split: negative size {}", n);
    total += n;
  }
  if (total != x.dim(dim))
    fail(Kind::usage, "split: sizes [{}] add to {}, but dimension {} of {} has {}", fmt::join(sizes, ", "), total, dim,
         to_string(x.shape()), x.dim(dim));
  std::vector<Tensor> y;
  int64_t begin = 0;
  for (int64_t n : sizes) {
    y.push_back(x.detach().slice(dim, begin, begin + n));
    begin += n;
  }
  if (tracing(x)) {
    pool_vector<Tensor*> outputs;
    for (Tensor& t : y) outputs.push_back(&t);
    const Tensor* inputs[] = {&x};
    attach("split", std::span<Tensor* const>(outputs), std::span<const Tensor* const>(inputs),
           SplitGrad{dim, pool_vector<int64_t>(sizes.begin(), sizes.end())});
  }
  return y;
}

}  // namespace facet

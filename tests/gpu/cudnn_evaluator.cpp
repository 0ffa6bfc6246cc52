#include "tests/gpu/cudnn_evaluator.h"

#ifdef FACET_HAS_CUDNN
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "tensor/cpu/bf16.h"

namespace facet::test {
namespace {

using namespace gpu::cudnn;
using Index = std::array<int64_t, 4>;

[[noreturn]] void wrong(const std::string& what) { throw std::runtime_error("evaluator: " + what); }

/// One tensor descriptor, read back.
struct Form {
  int64_t id = 0;
  cudnnDataType_t type{};
  Index sizes{}, strides{};
  bool is_virtual = false, by_value = false;

  explicit Form(const Descriptor& d) {
    d.get(CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &id);
    d.get(CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    if (d.get(CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, sizes.data()) != 4 ||
        d.get(CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, strides.data()) != 4)
      wrong("a tensor has not four dimensions");
    d.get(CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &is_virtual);
    d.get(CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &by_value);
  }
  int64_t count() const { return sizes[0] * sizes[1] * sizes[2] * sizes[3]; }
  int64_t offset(const Index& i) const { return i[0] * strides[0] + i[1] * strides[1] + i[2] * strides[2] + i[3] * strides[3]; }
};
/// f(index) over all of `sizes`, in order.
template <class F>
void each(const Index& sizes, F&& f) {
  Index i{};
  for (i[0] = 0; i[0] < sizes[0]; ++i[0])
    for (i[1] = 0; i[1] < sizes[1]; ++i[1])
      for (i[2] = 0; i[2] < sizes[2]; ++i[2])
        for (i[3] = 0; i[3] < sizes[3]; ++i[3]) f(i);
}

double rounded(double x, cudnnDataType_t type) {
  switch (type) {
    case CUDNN_DATA_FLOAT: return static_cast<float>(x);
    case CUDNN_DATA_BFLOAT16: return cpu::widen(cpu::narrow(static_cast<float>(x)));
    case CUDNN_DATA_INT32: return static_cast<int32_t>(x);
    case CUDNN_DATA_BOOLEAN: return x != 0;
    default: wrong(fmt::format("data type {}", static_cast<int>(type)));
  }
}

class Evaluation {
 public:
  Evaluation(const Graph& graph, const std::map<int64_t, void*>& memory) : graph_(graph), memory_(memory) {
    for (const auto& [id, value] : graph.scalars()) scalars_[id] = value;
    for (const Graph::Node& n : graph.nodes()) run(n);
  }

 private:
  static Form form(const Descriptor& op, cudnnBackendAttributeName_t name) {
    Descriptor place(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    cudnnBackendDescriptor_t raw = place.raw();
    if (op.get(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &raw) != 1) wrong("an operation lacks an operand");
    return Form(place);
  }
  void* place_of(const Form& f) const {
    const auto at = memory_.find(f.id);
    if (at == memory_.end() || !at->second) wrong(fmt::format("tensor {} has no memory", f.id));
    return at->second;
  }
  double read(const Form& f, const Index& i) {
    if (f.by_value) return scalars_.at(f.id);
    if (!f.is_virtual) {
      const void* const p = place_of(f);
      if (f.type == CUDNN_DATA_BFLOAT16) return cpu::widen(static_cast<const bf16*>(p)[f.offset(i)]);
      if (f.type == CUDNN_DATA_FLOAT) return static_cast<const float*>(p)[f.offset(i)];
      wrong("a type that is not kept in memory");
    }
    const auto at = between_.find(f.id);
    if (at == between_.end()) wrong(fmt::format("tensor {} is read before it is written", f.id));
    return at->second[static_cast<size_t>(((i[0] * f.sizes[1] + i[1]) * f.sizes[2] + i[2]) * f.sizes[3] + i[3])];
  }
  /// All of it, in the order of each().
  void write(const Form& f, const std::vector<double>& values) {
    if (f.by_value) wrong("a scalar is written");
    if (f.is_virtual) {
      std::vector<double>& to = between_[f.id];
      to.clear();
      for (double v : values) to.push_back(rounded(v, f.type));
      return;
    }
    size_t n = 0;
    each(f.sizes, [&](const Index& i) {
      const double v = values[n++];
      if (f.type == CUDNN_DATA_BFLOAT16) static_cast<bf16*>(place_of(f))[f.offset(i)] = cpu::narrow(static_cast<float>(v));
      else static_cast<float*>(place_of(f))[f.offset(i)] = static_cast<float>(v);
    });
  }
  /// Sizes of 1 are spread.
  static Index spread(const Form& f, Index i) {
    for (int d = 0; d < 4; ++d)
      if (f.sizes[d] == 1) i[d] = 0;
    return i;
  }

  void run(const Graph::Node& n) {
    switch (n.type) {
      case CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR: return matmul(n.operation);
      case CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR: return pointwise(*n.elementwise);
      case CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR: return reduction(n.operation, *n.how);
      case CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR: return reshape(n.operation);
      default: wrong(fmt::format("operation {}", static_cast<int>(n.type)));
    }
  }

  void matmul(const Descriptor& op) {
    const Form a = form(op, CUDNN_ATTR_OPERATION_MATMUL_ADESC), b = form(op, CUDNN_ATTR_OPERATION_MATMUL_BDESC),
               c = form(op, CUDNN_ATTR_OPERATION_MATMUL_CDESC);
    if (a.sizes[3] != b.sizes[2] || a.sizes[2] != c.sizes[2] || b.sizes[3] != c.sizes[3] || a.sizes[0] != c.sizes[0] || b.sizes[0] != c.sizes[0] ||
        c.sizes[1] % a.sizes[1] || c.sizes[1] % b.sizes[1])
      wrong("sizes of a product do not fit");
    std::vector<double> values;
    each(c.sizes, [&](const Index& i) {
      const int64_t ha = i[1] / (c.sizes[1] / a.sizes[1]), hb = i[1] / (c.sizes[1] / b.sizes[1]);
      double sum = 0;
      for (int64_t t = 0; t < a.sizes[3]; ++t) sum += read(a, {i[0], ha, i[2], t}) * read(b, {i[0], hb, t, i[3]});
      values.push_back(sum);
    });
    write(c, values);
  }

  void pointwise(const Graph::Elementwise& e) {
    std::vector<Form> in;
    for (int id : e.inputs) in.emplace_back(graph_.at(id));
    const Form y(graph_.at(e.y));
    const auto input = [&](size_t n, const Index& i) { return n < in.size() ? read(in[n], spread(in[n], i)) : NAN; };
    std::vector<double> values;
    each(y.sizes, [&](const Index& i) {
      const double u = e.mode == CUDNN_POINTWISE_GEN_INDEX ? 0 : input(0, i), v = input(1, i);
      values.push_back([&]() -> double {
        switch (e.mode) {
          case CUDNN_POINTWISE_ADD: return u + v;
          case CUDNN_POINTWISE_SUB: return u - v;
          case CUDNN_POINTWISE_MUL: return u * v;
          case CUDNN_POINTWISE_DIV: return u / v;
          case CUDNN_POINTWISE_EXP: return std::exp(u);
          case CUDNN_POINTWISE_LOG: return std::log(u);
          case CUDNN_POINTWISE_IDENTITY: return u;
          case CUDNN_POINTWISE_CMP_GE: return u >= v;
          case CUDNN_POINTWISE_CMP_GT: return u > v;
          case CUDNN_POINTWISE_GEN_INDEX: return static_cast<double>(i[static_cast<size_t>(e.axis)]);
          case CUDNN_POINTWISE_BINARY_SELECT: return input(2, i) != 0 ? u : v;
          default: wrong(fmt::format("elementwise mode {}", static_cast<int>(e.mode)));
        }
      }());
    });
    write(y, values);
  }

  void reduction(const Descriptor& op, const Descriptor& how) {
    cudnnReduceTensorOp_t what{};
    how.get(CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &what);
    if (what != CUDNN_REDUCE_TENSOR_ADD && what != CUDNN_REDUCE_TENSOR_MAX) wrong(fmt::format("reduction {}", static_cast<int>(what)));
    const Form x = form(op, CUDNN_ATTR_OPERATION_REDUCTION_XDESC), y = form(op, CUDNN_ATTR_OPERATION_REDUCTION_YDESC);
    std::vector<double> values(static_cast<size_t>(y.count()), what == CUDNN_REDUCE_TENSOR_ADD ? 0 : -INFINITY);
    each(x.sizes, [&](const Index& i) {
      int64_t at = 0;
      for (int d = 0; d < 4; ++d) {
        if (x.sizes[d] % y.sizes[d]) wrong("sizes of a reduction do not fit");
        at = at * y.sizes[d] + i[d] / (x.sizes[d] / y.sizes[d]);
      }
      double& to = values[static_cast<size_t>(at)];
      to = what == CUDNN_REDUCE_TENSOR_ADD ? to + read(x, i) : std::max(to, read(x, i));
    });
    write(y, values);
  }

  /// The elements where x's strides put them, read as y's strides say.
  void reshape(const Descriptor& op) {
    const Form x = form(op, CUDNN_ATTR_OPERATION_RESHAPE_XDESC), y = form(op, CUDNN_ATTR_OPERATION_RESHAPE_YDESC);
    if (x.count() != y.count()) wrong("sizes of a reshape do not fit");
    std::map<int64_t, double> laid;
    each(x.sizes, [&](const Index& i) { laid[x.offset(i)] = read(x, i); });
    std::vector<double> values;
    each(y.sizes, [&](const Index& i) {
      const auto at = laid.find(y.offset(i));
      if (at == laid.end()) wrong("a reshape reads where nothing lies");
      values.push_back(at->second);
    });
    write(y, values);
  }

  const Graph& graph_;
  const std::map<int64_t, void*>& memory_;
  std::map<int64_t, double> scalars_;
  std::map<int64_t, std::vector<double>> between_;
};

}  // namespace

void evaluate(const Graph& graph, const std::map<int64_t, void*>& memory) { Evaluation(graph, memory); }

}  // namespace facet::test
#endif

#include "autograd/anomaly.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "tensor/gpu/waits.h"

namespace facet {
namespace {

thread_local Anomaly* watching = nullptr;

// Without the folder that the sources were compiled in.
std::string short_name(const char* file) {
  constexpr std::string_view here = __FILE__, inside = "autograd/anomaly.cpp";
  constexpr size_t root = here.size() - inside.size();
  return std::strncmp(file, here.data(), root) == 0 ? file + root : file;
}

std::string place_of_now() {
  ModulePlace& place = module_place();
  if (!place.module) return {};
  const ModuleName& m = *place.module;
  return fmt::format(" in {} ({}:{}, operation {}{})", m.path, short_name(m.where.file_name()), m.where.line(), ++place.operations,
                     place.again ? " of what backward computes again" : "");
}

std::string described(const Range& r, const Shape& shape) {
  return fmt::format("{} {:.3g} to {:.3g}{}", to_string(shape), r.least, r.greatest, r.bad > 0 ? fmt::format(", {} of {} not finite", r.bad, r.count) : "");
}

// Floating-point numbers by their bits: flipping the lower ones of what is negative makes integers of the same order, which a compiler knows
// how to look through fast, and NaN and infinity are those whose exponent is all ones.
template <class Int>
Int ordered(Int bits) {
  constexpr int shift = 8 * sizeof(Int) - 1;
  return static_cast<Int>(bits ^ ((bits >> shift) & std::numeric_limits<Int>::max()));
}

template <class Int, class Value>
Range range_of_bits(const Int* x, int64_t n, Int exponent, Value value) {
  Int least = std::numeric_limits<Int>::max(), greatest = std::numeric_limits<Int>::min();
  int64_t bad = 0;
  for (int64_t i = 0; i < n; ++i) {
    const Int k = ordered(x[i]);
    least = k < least ? k : least;
    greatest = k > greatest ? k : greatest;
    bad += (x[i] & exponent) == exponent;
  }
  if (bad > 0) {
    least = std::numeric_limits<Int>::max(), greatest = std::numeric_limits<Int>::min();
    for (int64_t i = 0; i < n; ++i)
      if ((x[i] & exponent) != exponent) least = std::min(least, ordered(x[i])), greatest = std::max(greatest, ordered(x[i]));
  }
  if (bad == n) return {std::nan(""), std::nan(""), bad, n};
  return {value(ordered(least)), value(ordered(greatest)), bad, n};
}

}  // namespace

Range range_of(const Tensor& given) {
  const gpu::MaySync wait;  // who looks for a NaN has time
  const Tensor t = given.detach().to(Device::cpu).dense();
  const void* data = t.view().data;
  const int64_t n = t.numel();
  switch (t.dtype()) {
    case DType::f32:
      return range_of_bits(static_cast<const int32_t*>(data), n, int32_t{0x7f800000}, [](int32_t b) {
        float f;
        std::memcpy(&f, &b, sizeof f);
        return static_cast<double>(f);
      });
    case DType::f64:
      return range_of_bits(static_cast<const int64_t*>(data), n, int64_t{0x7ff0000000000000}, [](int64_t b) {
        double d;
        std::memcpy(&d, &b, sizeof d);
        return d;
      });
    case DType::bf16:
      return range_of_bits(static_cast<const int16_t*>(data), n, int16_t{0x7f80}, [](int16_t b) {
        const int32_t wide = static_cast<int32_t>(static_cast<uint32_t>(static_cast<uint16_t>(b)) << 16);
        float f;
        std::memcpy(&f, &wide, sizeof f);
        return static_cast<double>(f);
      });
    default: return {0, 0, 0, n};
  }
}

Anomaly::Anomaly(std::span<Parameter* const> named) : before_(std::exchange(watching, this)) {
  for (const Parameter* p : named)
    if (p->trains()) names_[p->value().slot().get()] = p->name;
}

Anomaly::~Anomaly() { watching = before_; }

Anomaly* anomaly_watch() { return watching; }

std::string Anomaly::name_of_input(const Tensor& x) const {
  if (!x.slot()) return "a constant";
  const auto known = names_.find(x.slot().get());
  return known != names_.end() ? known->second : static_cast<const Node&>(*x.slot()).op;
}

void Anomaly::made(const Node& n, std::span<Tensor* const> y, std::span<const Tensor* const> x) {
  if (!found_.empty()) return;
  Made m{place_of_now(), {}};
  int64_t bad = 0;
  for (const Tensor* t : y) {
    const Range r = range_of(*t);
    bad += r.bad;
    m.outputs.push_back(described(r, t->shape()));
  }
  if (bad == 0 || n.inputs.empty()) {  // a leaf was not made; who reads it is told of it
    made_[n.sequence] = std::move(m);
    return;
  }
  found_ = fmt::format("forward, {} made {}{}", n.op, fmt::join(m.outputs, "; "), m.place);
  const char* from = ", from ";
  for (const Tensor* t : x) {
    if (!*t) continue;
    found_ += fmt::format("{}{} {}", from, name_of_input(*t), described(range_of(*t), t->shape()));
    from = ", ";
  }
}

void Anomaly::begins(const Node& root, uint16_t output, const Tensor& dy) {
  if (!found_.empty()) return;
  const Range r = range_of(dy);
  const std::string text = described(r, dy.shape());
  gradients_[{root.sequence, output}] = text;
  if (r.bad == 0) return;
  const auto known = made_.find(root.sequence);
  found_ = fmt::format("the loss gave a gradient {} of {}", text, root.op);
  if (known != made_.end()) found_ += fmt::format(" {}{}", known->second.outputs[output], known->second.place);
}

void Anomaly::passed(const Node& n) {
  if (!found_.empty()) return;
  for (const Edge& e : n.inputs) {
    if (!e.node) continue;
    const Node& producer = static_cast<const Node&>(*e.node);
    const Tensor& grad = producer.outputs[e.output].grad;
    if (!grad) continue;
    const Range r = range_of(grad);
    const std::string text = described(r, grad.shape());
    if (r.bad == 0) {
      if (!producer.inputs.empty()) gradients_[{producer.sequence, e.output}] = text;
      continue;
    }
    const auto name = names_.find(e.node.get());
    const auto made = made_.find(n.sequence);
    found_ = fmt::format("backward, {} gave {} a gradient {}", n.op, name != names_.end() ? name->second : producer.op, text);
    if (made != made_.end()) found_ += fmt::format("; it made {}{}", fmt::join(made->second.outputs, "; "), made->second.place);
    for (size_t i = 0; i < n.outputs.size(); ++i)
      if (const auto dy = gradients_.find({n.sequence, static_cast<uint16_t>(i)}); dy != gradients_.end()) found_ += ", from a gradient " + dy->second;
    return;
  }
  for (size_t i = 0; i < n.outputs.size(); ++i) gradients_.erase({n.sequence, static_cast<uint16_t>(i)});
  made_.erase(n.sequence);
}

void Anomaly::dropped(uint64_t after) {
  std::erase_if(made_, [after](const auto& m) { return m.first > after; });
}

}  // namespace facet

#include "optim/optimizer.h"

#include <algorithm>
#include <map>

#include "tensor/gpu/graph.h"

namespace facet {

struct Optimizer::Graphs {
  gpu::RepeatedWork norm, update;
  Tensor squares;                  // sums over blocks of the gradients
  Tensor constants;                // of the step, parameter by parameter
  std::vector<char> staged;        // the same on the host
  std::vector<const void*> where;  // values, and gradients of those that have one
};

Optimizer::Optimizer(const char* kind, const std::vector<ParameterGroup>& groups, std::initializer_list<const char*> names)
    : kind_(kind), names_(names), graphs_(std::make_unique<Graphs>()) {
  for (const ParameterGroup& g : groups) {
    for (Parameter* p : g.parameters) {
      if (!p || !p->value()) fail(Kind::usage, "{}: a parameter in the list is absent", kind);
      if (!p->trains()) continue;
      if (std::find(parameters_.begin(), parameters_.end(), p) != parameters_.end())
        fail(Kind::usage, "{}: parameter \"{}\" {} is listed twice", kind, p->name, to_string(p->value().shape()));
      if (!p->value().contiguous())
        fail(Kind::usage, "{}: parameter \"{}\" {} is strided; expected dense values{}", kind, p->name, to_string(p->value().shape()),
             p->value().room() ? " (it lies among its adapters, frozen: set_trains() what is to train, then move the model with to(Device::gpu))" : "");
      parameters_.push_back(p);
      items_.push_back({p, g.lr_scale, g.weight_decay, p->value().shape(), p->value().dtype(), {}});
    }
  }
}

Optimizer::~Optimizer() = default;

bool Optimizer::on_gpu() const {
  // f64 is for the CPU: kernels of updates say so.
  return !items_.empty() && std::ranges::all_of(items_, [](const Item& i) { return i.parameter->value().device() == Device::gpu && i.dtype != DType::f64; });
}

std::span<const void* const> Optimizer::addresses() {
  std::vector<const void*>& where = graphs_->where;
  where.clear();
  for (const Item& i : items_) {
    const Tensor g = i.parameter->grad();
    where.insert(where.end(), {i.parameter->value().view().data, g ? g.view().data : nullptr});
  }
  return where;
}

Clip Optimizer::clip(double max_norm) {
  if (!keep_gradients_ || !on_gpu()) return clip_global_norm(parameters_, max_norm);
  Tensor& sums = graphs_->squares;
  graphs_->norm.run(addresses(), [&] {
    if (!gpu::capturing()) sums = room_for_squares(parameters_);  // gradients that are new here; what is recorded then finds it
    sum_squares(parameters_, sums);
  });
  return clip_of_squares(sums, max_norm);
}

const char* Optimizer::upload_constants(double lr, double grad_scale) {
  const size_t each = constants_bytes();
  Graphs& g = *graphs_;
  if (!g.constants) {
    g.staged.resize(items_.size() * each);
    g.constants = Tensor::empty({static_cast<int64_t>(g.staged.size() / sizeof(int32_t))}, DType::i32, Device::gpu);
  }
  for (size_t k = 0; k < items_.size(); ++k) write_constants(items_[k], lr * items_[k].lr_scale, grad_scale, g.staged.data() + k * each);
  const Out to = g.constants.out();
  gpu::copy_to_device(to.as<char>(), g.staged.data(), g.staged.size());
  return to.as<char>();
}

void Optimizer::step(double lr, double grad_scale) {
  for (const Item& i : items_) {
    const Tensor& value = i.parameter->value();
    if (!(value.shape() == i.shape) || value.dtype() != i.dtype || !value.contiguous())
      fail(Kind::usage, "{}: parameter \"{}\" was {} {} when the optimizer was built and is {} {}{} now", kind_, i.parameter->name,
           name_of(i.dtype), to_string(i.shape), name_of(value.dtype()), to_string(value.shape()), value.contiguous() ? "" : ", not dense");
  }
  ++steps_;
  const char* const constants = on_gpu() ? upload_constants(lr, grad_scale) : nullptr;
  const auto work = [&] {
    for (size_t k = 0; k < items_.size(); ++k) {
      Item& i = items_[k];
      Tensor g = i.parameter->grad();
      if (!g) continue;
      update_by(i, g.dense().view(), lr * i.lr_scale, grad_scale, constants ? constants + k * constants_bytes() : nullptr);
      g = {};  // its own memory again
      forget(*i.parameter);
    }
  };
  if (!constants || !keep_gradients_) return work();
  replays_ += graphs_->update.run(addresses(), work);
  for (const Item& i : items_)
    if (i.parameter->grad()) {  // what was launched has forgotten it
      i.parameter->value().out();  // what was saved of the value notices that it changed
      i.parameter->set_grad_written(false);
    }
}

void Optimizer::drop_gradients() {
  for (Parameter* p : parameters_) forget(*p);
}

void Optimizer::forget(Parameter& p) const {
  if (!keep_gradients_) p.clear_grad();
  else if (p.grad()) p.zero_grad();
}

Tensor Optimizer::master_of(const Item& i) {
  const DType t = acc_dtype(i.dtype);
  return t == i.dtype ? Tensor() : i.parameter->value().detach().to(t);
}

size_t Optimizer::state_bytes() const {
  size_t bytes = 0;
  for (const Item& i : items_)
    for (const Tensor& b : i.buffers)
      if (b) bytes += static_cast<size_t>(b.numel() * size_of(b.dtype()));
  return bytes;
}

NamedTensors Optimizer::state() const {
  NamedTensors list;
  list.emplace_back("step", Tensor::scalar(static_cast<double>(steps_), DType::i32));
  std::map<std::string, int> seen;
  for (const Item& i : items_) {
    const std::string& name = i.parameter->name;
    if (name.empty())
      fail(Kind::usage, "{}: a parameter {} has no name, so its state cannot be stored", kind_, to_string(i.shape));
    if (seen[name]++) fail(Kind::usage, "{}: two parameters are named \"{}\", so their state cannot be stored", kind_, name);
    for (size_t k = 0; k < names_.size(); ++k)
      if (i.buffers[k]) list.emplace_back(std::string(names_[k]) + "." + name, i.buffers[k]);
  }
  return list;
}

void Optimizer::load_state(const NamedTensors& given) {
  std::map<std::string, const Tensor*> from;
  for (const auto& [name, t] : given)
    if (!from.emplace(name, &t).second) fail(Kind::file, "{} state: \"{}\" appears twice", kind_, name);
  const NamedTensors own = state();
  std::map<std::string, const Tensor*> unknown = from;
  for (const auto& [name, t] : own) {
    const auto found = from.find(name);
    if (found == from.end()) fail(Kind::file, "{} state: \"{}\" is missing", kind_, name);
    unknown.erase(name);
    const Tensor& f = *found->second;
    if (!f || f.dtype() != t.dtype() || !(f.shape() == t.shape()))
      fail(Kind::file, "{} state: \"{}\" is {} {}, expected {} {}", kind_, name, name_of(f.dtype()), to_string(f.shape()),
           name_of(t.dtype()), to_string(t.shape()));
  }
  if (!unknown.empty())
    fail(Kind::file, "{} state: \"{}\" belongs to no parameter of this run", kind_, unknown.begin()->first);
  const double steps = from.at("step")->item();
  if (steps < 0) fail(Kind::file, "{} state: step is {}, expected a count", kind_, steps);
  for (const auto& [name, t] : own)
    if (name != "step") t.set(*from.at(name));
  steps_ = static_cast<int64_t>(steps);
}

}  // namespace facet

#include "nn/lora_weight.h"

#include <algorithm>
#include <map>
#include <set>

#include "autograd/joined_ops.h"
#include "autograd/ops.h"
#include "nn/dropout.h"
#include "nn/layers.h"

namespace facet {
namespace {

// What is left of x.
Tensor masked(const Tensor& x, const LoraFactors& f) { return dropout(x, f.dropout, *dropout_key(), f.salt); }

}  // namespace

bool LoraFactors::sees_all() const { return !(dropout > 0 && dropout_key()); }
Tensor LoraFactors::narrowed(const Tensor& x) const { return linear(sees_all() ? x : masked(x, *this), a.value()); }

void LoraFactors::visit(Visitor& v) {
  v(of_table ? "lora_embedding_A" : "lora_A.weight", a);
  v(of_table ? "lora_embedding_B" : "lora_B.weight", b);
  if (magnitude.value()) v("lora_magnitude_vector", magnitude);
}

LoraFactors* LoraSlot::find(const std::string& adapter) const {
  const auto at = std::find_if(all_.begin(), all_.end(), [&](const auto& entry) { return entry.first == adapter; });
  return at == all_.end() ? nullptr : at->second.get();
}

LoraFactors& LoraSlot::add(const std::string& adapter, std::unique_ptr<LoraFactors> f) {
  return *all_.emplace_back(adapter, std::move(f)).second;
}

void LoraSlot::use(const std::string& adapter) { active_ = find(adapter); }

void LoraSlot::visit(Visitor& v) {
  if (active_) active_->visit(v);
}

LoraSlot* adapters_at(Module& m) {
  if (auto* table = dynamic_cast<Embedding*>(&m)) return &table->adapters;
  auto* linear = dynamic_cast<Linear*>(&m);
  auto* wrapped = linear ? dynamic_cast<LoraWeight*>(linear->weight.get()) : nullptr;
  return wrapped ? &wrapped->adapters : nullptr;
}

Tensor beside_weights(const Tensor& value, DType weights, Device device) {
  const Tensor v = value.detach();
  return (device == Device::gpu && weights == DType::bf16 ? v.to(DType::bf16) : v).to(device);
}

void settle_beside_weights(std::span<LoraFactors* const> adapter, DType weights, Device device) {
  pool_vector<Parameter*> a;
  for (LoraFactors* f : adapter) {
    for (Parameter* p : {&f->a, &f->b, &f->magnitude})
      if (p->value()) p->reset(beside_weights(p->value(), weights, device), p->trains());
    if (f->row_squares) f->row_squares = f->row_squares.to(device);
    a.push_back(&f->a);
  }
  move_side_by_side(a, device);
}

void settle_in_panel(std::span<Linear* const> layers, Device device) {
  pool_vector<Parameter*> matrices;
  pool_vector<Tensor> values;
  pool_vector<LoraWeight*> adapted;
  std::map<std::string, int64_t> ranks;  // of an adapter, all layers together
  int64_t outputs = 0, most = 0;
  bool fit = device == Device::gpu;
  for (Linear* l : layers) {
    auto* wrap = dynamic_cast<LoraWeight*>(l->weight.get());
    auto* dense = dynamic_cast<DenseWeight*>(wrap ? wrap->base.get() : l->weight.get());
    if (wrap) {
      adapted.push_back(wrap);
      for (const auto& [name, f] : wrap->adapters.all()) most = std::max(most, ranks[name] += f->rank());
    }
    if (dense && dense->weight.trains() && dense->weight.value().room())  // it was frozen when it came into a panel
      dense->weight.reset(dense->weight.value().detach().clone(), true);
    fit = fit && dense && !dense->weight.trains() && dense->weight.value().dtype() != DType::f64;
    if (!fit) continue;
    matrices.push_back(&dense->weight);
    values.push_back(dense->weight.value());
    fit = values.back().dim(1) == values[0].dim(1) && values.back().dtype() == values[0].dtype();
    outputs += values.back().dim(0);
  }
  if (most == 0) return;
  Tensor panel = adapted[0]->in_panel;
  const bool settled = fit && panel && panel.dim(0) >= outputs + most && side_by_side(values) && values[0].shares_storage(panel);
  if (!settled) {
    panel = fit ? panel_for(outputs, values[0].dim(1), most, values[0].dtype(), device) : Tensor{};
    int64_t row = 0;
    for (size_t i = 0; fit && i < matrices.size(); ++i) {
      const Tensor there = panel.slice(0, row, row + values[i].dim(0));
      there.set(values[i]);
      matrices[i]->reset(there, false);
      row += there.dim(0);
    }
  }
  for (LoraWeight* w : adapted) w->in_panel = panel;
}

void settle_in_panels(Module& model, Device device) {
  struct Find : Visitor {
    std::vector<std::vector<Linear*>> groups;
    std::vector<Linear*> all;
    std::set<const Linear*> grouped;
    void parameter(const std::string&, Parameter&) override {}
    void enter(const std::string&, Module& m) override {
      if (auto* l = dynamic_cast<Linear*>(&m)) all.push_back(l);
    }
    void together(std::initializer_list<Module*> list) override {
      groups.emplace_back();
      for (Module* m : list)
        if (auto* l = dynamic_cast<Linear*>(m)) groups.back().push_back(l), grouped.insert(l);
    }
  } find;
  find("", model);
  for (Linear* l : find.all)
    if (!find.grouped.count(l)) find.groups.push_back({l});
  for (const auto& group : find.groups) settle_in_panel(group, device);
}

void LoraWeight::factors(pool_vector<Tensor>& list) const {
  base->factors(list);
  const LoraFactors* f = adapters.active();
  if (f && f->sees_all()) list.push_back(f->a.value());
}

Tensor LoraWeight::combine(const Tensor& x, std::span<Tensor> products) const {
  const LoraFactors* f = adapters.active();
  if (!f) return base->combine(x, products);
  const bool all = f->sees_all();
  Tensor y = base->combine(x, all ? products.first(products.size() - 1) : products);
  if (!f->magnitude.value()) return add_linear(std::move(y), all ? std::move(products.back()) : f->narrowed(x), f->b.value(), f->scale);
  pool_vector<Tensor> w;
  base->factors(w);
  const Tensor c = row_factors(w[0], *f, y.dtype());
  if (all) return mul(add_linear(std::move(y), products.back(), f->b.value(), f->scale), c);
  // The adapted part sees what is left of x, the base all of it (PEFT): W x + (c (W + s B A) - W) dropout(x).
  w.push_back(f->a.value());
  const pool_vector<Tensor> left = linear(masked(x, *f), w);
  return add(sub(y, left[0]), mul(add_linear(left[0], left[1], f->b.value(), f->scale), c));
}

void LoraWeight::visit(Visitor& v) {
  base->visit(v);
  adapters.visit(v);
}

Tensor row_squares(const Tensor& w) {
  const NoGrad constant;
  constexpr int64_t rows = 64;  // at a time: a bf16 matrix is never there as a whole in f32
  std::vector<Tensor> parts;
  for (int64_t i = 0; i < w.dim(0); i += rows)
    parts.push_back(sum(square(w.detach().slice(0, i, std::min(i + rows, w.dim(0))).to(acc_dtype(w.dtype()))), {1}));
  return concat(parts, 0);
}

// ||w_o + s b_o A||^2 = ||w_o||^2 + 2 s b_o . (A w_o) + s^2 b_o . (A A^T b_o) for row o.
Tensor adapted_row_norms(const Tensor& w, const LoraFactors& f) {
  const DType t = f.row_squares.dtype();
  const Tensor a = f.a.value().detach().to(t), b = f.b.value().detach().to(t);
  const Tensor wa = linear(a, w.detach()).permute({1, 0});  // [O, r]
  const Tensor gram = linear(a, a);                         // [r, r]
  const Tensor cross = sum(mul(add(mul(wa, 2 * f.scale), mul(linear(b, gram), f.scale * f.scale)), b), {1});
  return sqrt(maximum(add(f.row_squares, cross), Tensor::zeros({1}, cross.dtype(), cross.device())));
}

Tensor row_factors(const Tensor& w, const LoraFactors& f, DType d) {
  const Tensor norms = [&] {
    const NoGrad constant;
    return adapted_row_norms(w, f);
  }();
  return cast(div(cast(f.magnitude.value(), norms.dtype()), norms), d);
}

}  // namespace facet

#include "nn/lora.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "nn/layers.h"
#include "tensor/io/crc32c.h"
#include "tensor/io/text.h"
#include "tensor/kernels/copy.h"

namespace facet {

// ---- options

int64_t LoraOptions::rank_at(const std::string& path) const {
  const auto at = ranks.find(path);
  return at == ranks.end() ? rank : at->second;
}
double LoraOptions::alpha_at(const std::string& path) const {
  const auto at = alphas.find(path);
  return at == alphas.end() ? alpha : at->second;
}
double LoraOptions::scale(const std::string& path) const {
  const auto r = static_cast<double>(rank_at(path));
  return alpha_at(path) / (rslora ? std::sqrt(r) : r);
}

// ---- places

struct Adapters::Place {
  std::string path;
  Linear* linear = nullptr;
  Embedding* table = nullptr;

  std::string name() const { return path.substr(path.rfind('.') + 1); }
  LoraSlot* slot() const { return table ? adapters_at(*table) : adapters_at(*linear); }
  bool hit_by(const std::string& target) const {
    if (target == "all-linear") return linear;
    if (target == "embedding") return table;
    if (matches(target, path)) return true;
    const std::string last = name();
    return last == target || last == target + "_proj";
  }
};

std::vector<Adapters::Place> Adapters::places() const {
  struct Find : Visitor {
    std::vector<Place> list;
    void parameter(const std::string&, Parameter&) override {}
    void enter(const std::string& path, Module& m) override {
      auto* linear = dynamic_cast<Linear*>(&m);
      auto* table = dynamic_cast<Embedding*>(&m);
      if (linear || table) list.push_back({path, linear, table});
    }
  } find;
  find("", model_);
  return std::move(find.list);
}

namespace {

void check(const LoraOptions& o) {
  if (o.rank < 1 || o.rank > 65'536) fail(Kind::usage, "lora: rank {}: expected 1 to 65536", o.rank);
  if (!(o.alpha > 0) || !std::isfinite(o.alpha)) fail(Kind::usage, "lora: alpha {}: expected a number above 0", o.alpha);
  if (!(o.dropout >= 0 && o.dropout < 1)) fail(Kind::usage, "lora: dropout {}: expected 0 <= dropout < 1", o.dropout);
  if (o.targets.empty()) fail(Kind::usage, "lora: no targets; try all-linear");
}

[[noreturn]] void unknown_target(const std::string& target, const std::vector<std::string>& paths) {
  std::set<std::string> names{"all-linear", "embedding"}, candidates = names;
  for (const std::string& path : paths) {
    const std::string last = path.substr(path.rfind('.') + 1);
    names.insert(last.ends_with("_proj") ? last.substr(0, last.size() - 5) : last);
    candidates.insert(target.find('.') == target.npos ? last : path);
  }
  candidates.insert(names.begin(), names.end());
  const std::string close = nearest(target, {candidates.begin(), candidates.end()});
  fail(Kind::usage, "lora: target \"{}\" fits no module of the model{}; there are {} and paths such as {}", printable(target),
       close.empty() ? "" : ", did you mean " + close + "?", fmt::join(names, ", "), paths.empty() ? "" : paths.back());
}

}  // namespace

// ---- adapters

Adapters::Adapters(LanguageModel& m) : model_(m) {
  for (const Place& p : places())
    if (p.linear && p.slot()) fail(Kind::usage, "lora: \"{}\" has adapters already; one Adapters object serves a model", p.path);
}

void Adapters::add(const std::string& name, const LoraOptions& o, Key key) {
  check(o);
  if (name.empty() || options_.count(name)) fail(Kind::usage, "lora: adapter name \"{}\" is {}", printable(name), name.empty() ? "empty" : "taken");
  const std::vector<Place> all = places();
  std::vector<bool> chosen(all.size());
  for (const std::string& target : o.targets) {
    bool any = false;
    for (size_t i = 0; i < all.size(); ++i)
      if (all[i].hit_by(target)) chosen[i] = any = true;
    if (!any) unknown_target(target, modules());
  }
  if (o.dora)
    for (size_t i = 0; i < all.size(); ++i)
      if (chosen[i] && all[i].table) fail(Kind::usage, "lora: DoRA is for linear layers; leave \"{}\" out of the targets", all[i].path);

  // Numbers are drawn on the CPU, and rounded to what the device keeps when all is made of them.
  const Device device = model_.device();
  const DType weights = model_.head().value().dtype();
  pool_vector<LoraFactors*> added;
  for (size_t i = 0; i < all.size(); ++i) {
    if (!chosen[i]) continue;
    const Place& p = all[i];
    auto f = std::make_unique<LoraFactors>();
    const int64_t r = o.rank_at(p.path);
    f->scale = o.scale(p.path);
    f->salt = crc32c(p.path.data(), p.path.size());
    if (p.table) {
      const Tensor& w = p.table->weight.value();
      const DType t = acc_dtype(w.dtype());
      f->of_table = true;
      f->a = Parameter(Tensor::zeros({w.dim(0), r}, t));
      f->b = Parameter(normal(fold_in(key, f->salt), {w.dim(1), r}).to(t));
      added.push_back(&p.table->adapters.add(name, std::move(f)));
      continue;
    }
    if (!p.slot()) p.linear->weight = std::make_unique<LoraWeight>(std::move(p.linear->weight));
    auto& weight = static_cast<LoraWeight&>(*p.linear->weight);
    const DType t = weight.compute();
    const double bound = 1 / std::sqrt(static_cast<double>(weight.inputs()));
    f->dropout = o.dropout;
    f->a = Parameter(uniform(fold_in(key, f->salt), {r, weight.inputs()}, -bound, bound).to(t).to(device));
    f->b = Parameter(Tensor::zeros({weight.outputs(), r}, t, device));
    if (o.dora) {
      pool_vector<Tensor> w;
      weight.base->factors(w);
      if (w.size() != 1 || !(w[0].shape() == Shape{weight.outputs(), weight.inputs()}))
        fail(Kind::usage, "lora: DoRA needs \"{}\" as one plain matrix", p.path);
      f->row_squares = row_squares(w[0]);
      f->magnitude = Parameter(adapted_row_norms(w[0], *f).detach());
    }
    added.push_back(&weight.adapters.add(name, std::move(f)));
  }
  settle_beside_weights(added, weights, device);
  options_[name] = o;
  use(name);
  for (Parameter* p : parameters(model_))
    if (!is_adapter(p->name)) p->set_trains(false);
  settle_in_panels(model_, device);
}

void Adapters::use(const std::string& name) {
  if (!name.empty()) options(name);
  for (const Place& p : places())
    if (LoraSlot* slot = p.slot()) slot->use(name);
  active_ = name;
}

std::vector<std::string> Adapters::names() const {
  std::vector<std::string> list;
  for (const auto& [name, o] : options_) list.push_back(name);
  return list;
}

const LoraOptions& Adapters::options(const std::string& name) const {
  const auto at = options_.find(name);
  if (at == options_.end()) fail(Kind::usage, "lora: no adapter \"{}\"; there are {}", printable(name), fmt::join(names(), ", "));
  return at->second;
}

std::vector<std::pair<std::string, LoraFactors*>> Adapters::factors(const std::string& name) const {
  options(name);
  std::vector<std::pair<std::string, LoraFactors*>> list;
  for (const Place& p : places())
    if (LoraSlot* slot = p.slot())
      if (LoraFactors* f = slot->find(name)) list.emplace_back(p.path, f);
  return list;
}

std::vector<std::string> Adapters::modules() const {
  std::vector<std::string> list;
  for (const Place& p : places()) list.push_back(p.path);
  return list;
}

// ---- hashes

bool is_adapter(const std::string& path) {
  const std::string last = path.substr(std::min(path.size(), path.rfind(".lora_") + 1));
  return last.starts_with("lora_");
}

void WeightHash::add(const std::string& name, const Tensor& t) {
  const std::string head = name + to_string(t.shape());
  uint32_t crc = crc32c(head.data(), head.size());
  const Tensor rows = t.detach().dense().reshape({-1});
  constexpr int64_t most = 1 << 18;
  for (int64_t i = 0; i < rows.numel(); i += most) {
    Tensor part = rows.slice(0, i, std::min(i + most, rows.numel())).to(Device::cpu);
    if (of_ == Of::bf16) part = part.dtype() == DType::bf16 ? part : part.to(DType::f32).to(DType::bf16);
    else if (part.dtype() == DType::bf16) part = part.to(DType::f32);
    crc = crc32c(part.view().data, static_cast<size_t>(part.numel() * size_of(part.dtype())), crc);
  }
  sum_ += crc;
}

uint32_t base_hash(Module& m, WeightHash::Of of) {
  WeightHash h(of);
  for (const auto& [name, value] : named_values(m))
    if (!is_adapter(name)) h.add(name, value);
  return h.value();
}

std::string hash_text(uint32_t h) { return fmt::format("{:08x}", h); }

}  // namespace facet

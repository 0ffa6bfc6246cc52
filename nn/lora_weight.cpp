#include "nn/lora_weight.h"

#include <algorithm>

#include "autograd/ops.h"
#include "nn/dropout.h"
#include "nn/layers.h"

namespace facet {
namespace {

// The key of the mask of what A sees; absent when A sees all of x.
std::optional<Key> mask_key(const LoraFactors& f) {
  const auto key = f.dropout > 0 ? dropout_key() : std::nullopt;
  return key ? std::optional(fold_in(*key, f.salt)) : std::nullopt;
}

}  // namespace

void LoraFactors::visit(Visitor& v) {
  v(of_table ? "lora_embedding_A" : "lora_A.weight", a);
  v(of_table ? "lora_embedding_B" : "lora_B.weight", b);
  if (magnitude.value()) v("lora_magnitude_vector", magnitude);
  if (row_squares) v.buffer(row_squares);
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

void LoraSlot::visit_idle(Visitor& v) {
  for (const auto& [name, factors] : all_)
    if (factors.get() != active_) factors->visit(v);
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

void LoraWeight::factors(pool_vector<Tensor>& list) const {
  base->factors(list);
  const LoraFactors* f = adapters.active();
  if (f && !mask_key(*f)) list.push_back(f->a.value());
}

Tensor LoraWeight::combine(const Tensor& x, std::span<Tensor> products) const {
  const LoraFactors* f = adapters.active();
  if (!f) return base->combine(x, products);
  const auto key = mask_key(*f);
  Tensor y = base->combine(x, key ? products : products.first(products.size() - 1));
  if (!f->magnitude.value()) {
    const Tensor t = key ? linear(dropout(x, f->dropout, *key), f->a.value()) : std::move(products.back());  // [.., r]
    return add_linear(std::move(y), t, f->b.value(), f->scale);
  }
  pool_vector<Tensor> w;
  base->factors(w);
  const Tensor norms = [&] {
    const NoGrad constant;
    return adapted_row_norms(w[0], *f);
  }();
  // The norms' f32 is kept until the factor is one number: on a GPU m and y may be bf16.
  const Tensor c = cast(div(cast(f->magnitude.value(), norms.dtype()), norms), y.dtype());  // [O]
  if (!key) return mul(add_linear(std::move(y), products.back(), f->b.value(), f->scale), c);
  // The adapted part sees what is left of x, the base all of it (PEFT): W x + (c (W + s B A) - W) dropout(x).
  w.push_back(f->a.value());
  const pool_vector<Tensor> left = linear(dropout(x, f->dropout, *key), w);
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

}  // namespace facet

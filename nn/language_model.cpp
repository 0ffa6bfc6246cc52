#include "nn/language_model.h"

#include <map>

#include "autograd/ops.h"
#include "nn/lora.h"
#include "nn/tap.h"
#include "tensor/pool_vector.h"

namespace facet {

Tokens plain_tokens(const Tensor& ids) {
  return {ids, Tensor::arange(ids.dim(1)).expand(ids.shape()).clone(), {}, true};
}

Tokens masked_tokens(const Tensor& ids, const Tensor& mask) {
  if (!(ids.shape() == mask.shape()))
    fail(Kind::usage, "masked_tokens: ids {} and mask {} differ in shape", to_string(ids.shape()), to_string(mask.shape()));
  Tensor positions = Tensor::empty(ids.shape(), DType::i32);
  int32_t* p = positions.out().as<int32_t>();
  for (int64_t b = 0; b < ids.dim(0); ++b) {
    int32_t next = 0;
    for (int64_t t = 0; t < ids.dim(1); ++t) *p++ = mask.at({b, t}) != 0 ? next++ : -1;
  }
  return {ids, positions, {}};
}

void Tokens::check(int64_t vocab) const {
  const Tensor dense = ids.dense();
  int64_t at = 0;
  for (int32_t id : dense.data<int32_t>()) {
    if (id < 0 || id >= vocab) fail(Kind::usage, "tokens: id {} at position {} is not in a table of {} rows", id, at, vocab);
    ++at;
  }
}

bool Tokens::is_plain() const {
  if (plain || segments || positions.device() == Device::gpu) return plain && !segments;
  const Tensor dense = positions.dense();
  const int64_t T = dense.dim(1);
  const auto p = dense.data<int32_t>();
  for (size_t i = 0; i < p.size(); ++i)
    if (p[i] != static_cast<int64_t>(i) % T) return false;
  return true;
}

Tokens Tokens::on(Device device, int64_t vocab) const {
  if (device == Device::gpu && ids.device() == Device::cpu) check(vocab);
  return {ids.to(device), positions.to(device), segments ? segments.to(device) : Tensor{}, device == Device::gpu && is_plain()};
}

void LanguageModel::to(Device device) {
  const DType weights = head().value().dtype();
  if (device == Device::gpu && weights == DType::f64) fail(Kind::usage, "--dtype f64: f64 is for the CPU (it checks gradients there); use f32 or bf16");
  struct Find : Visitor {
    pool_vector<Parameter*> base;
    std::map<std::string, pool_vector<LoraFactors*>> adapters;
    void parameter(const std::string& path, Parameter& p) override {
      if (!is_adapter(path)) base.push_back(&p);
    }
    void enter(const std::string&, Module& m) override {
      if (LoraSlot* slot = adapters_at(m))
        for (const auto& [name, factors] : slot->all()) adapters[name].push_back(factors.get());
    }
  } find;
  find("", *this);
  move_side_by_side(find.base, device);
  for (const auto& [name, factors] : find.adapters) settle_beside_weights(factors, weights, device);
  settle_in_panels(*this, device);
}

DType LanguageModel::compute() const {
  const Tensor& w = head().value();
  return w.device() == Device::gpu ? w.dtype() : acc_dtype(w.dtype());
}

Tensor LanguageModel::logits(const Tensor& hidden) const {
  Tensor y = linear(hidden, head().value());  // [.., V]
  tap("logits_before_cap", y);
  if (final_cap() > 0) y = softcap(y, final_cap());
  tap("logits", y);
  return y;
}

}  // namespace facet

// What a Linear multiplies with. Wrapping weights, not layers, is how quantisation and LoRA come in: Linear is written once.
#pragma once
#include "nn/module.h"

namespace facet {

struct Weight : Module {
  virtual Tensor apply(const Tensor& x) const = 0;  ///< y = x W^T, [.., I] -> [.., O]
  virtual int64_t inputs() const = 0;
  virtual int64_t outputs() const = 0;
  /// The plain [O, I] tensor when the weight is nothing else: lets several projections share one pass over x.
  virtual const Tensor* plain() const { return nullptr; }
};

struct DenseWeight final : Weight {
  Parameter weight;  ///< [O, I]
  explicit DenseWeight(Tensor value) : weight(std::move(value)) {}
  Tensor apply(const Tensor& x) const override;
  int64_t inputs() const override { return weight.value().dim(1); }
  int64_t outputs() const override { return weight.value().dim(0); }
  const Tensor* plain() const override { return &weight.value(); }
  void visit(Visitor& v) override { v("weight", weight); }
};

}  // namespace facet

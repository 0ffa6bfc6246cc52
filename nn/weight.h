// What a Linear multiplies with. Wrapping weights, not layers, is how quantisation and LoRA come in: Linear is written once.
#pragma once
#include <span>

#include "nn/module.h"
#include "tensor/pool_vector.h"

namespace facet {

struct LoraFactors;

struct Weight : Module {
  /// The matrices [.., I] that x is multiplied with, appended: layers that read the same x do it in one pass (apply_together).
  virtual void factors(pool_vector<Tensor>&) const = 0;
  /// y = x W^T [.., O] from x [.., I] and its products with factors(), in their order. Takes the products.
  virtual Tensor combine(const Tensor& x, std::span<Tensor> products) const = 0;
  /// The matrix [O, I] that it is, but for an adapter; null: it is no such thing.
  virtual const Tensor* matrix() const { return nullptr; }
  /// The adapter in use, or null.
  virtual const LoraFactors* adapter() const { return nullptr; }
  /// Memory for the products of an adapted matrix on a GPU, which lies in it (panel_for, autograd/joined_ops.h); else absent.
  virtual Tensor panel() const { return {}; }
  /// The matrix, where y = x W^T is all there is to it; else null.
  const Tensor* plain() const { return adapter() ? nullptr : matrix(); }
  virtual int64_t inputs() const = 0;
  virtual int64_t outputs() const = 0;
  virtual DType compute() const = 0;  ///< of activations: f32 for bf16 weights
  Tensor apply(const Tensor& x) const;  ///< y = x W^T, [.., I] -> [.., O]
};

/// Several weights times the same x in one pass over it, adapters included.
pool_vector<Tensor> apply_together(const Tensor& x, std::span<const Weight* const>);
/// The same results in one row [.., O_0 + O_1 + ...], where a GPU makes them by one product and they are not changed afterwards one by one (DoRA
/// does); else absent.
Tensor apply_joined(const Tensor& x, std::span<const Weight* const>);
/// Whether a GPU makes them by one product, but for what adapters add: their matrices lie side by side.
bool joined(std::span<const Weight* const>);
/// How many elements behind each row of an x, made a RowRoom for (autograd/joined_ops.h), would save a pass over what they make of it.
int64_t room_for(std::span<const Weight* const>);
/// Moves parameters. On a GPU matrices that follow one another and have rows of one length, such as q, k and v, come to lie side by side.
void move_side_by_side(std::span<Parameter* const>, Device);

struct DenseWeight final : Weight {
  Parameter weight;  ///< [O, I]
  explicit DenseWeight(Tensor value) : weight(std::move(value)) {}
  void factors(pool_vector<Tensor>& list) const override { list.push_back(weight.value()); }
  Tensor combine(const Tensor&, std::span<Tensor> products) const override { return std::move(products[0]); }
  const Tensor* matrix() const override { return &weight.value(); }
  int64_t inputs() const override { return weight.value().dim(1); }
  int64_t outputs() const override { return weight.value().dim(0); }
  DType compute() const override { return acc_dtype(weight.value().dtype()); }
  void visit(Visitor& v) override { v("weight", weight); }
};

}  // namespace facet

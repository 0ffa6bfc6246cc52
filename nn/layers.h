// The small layers: Linear, Embedding, RMSNorm, and the gated feed-forward block made of them.
#pragma once
#include "nn/lora_weight.h"

namespace facet {

struct SumNorm;  // autograd/ops.h

/// y = x W^T, no bias. x [.., I] -> [.., O].
struct Linear final : Module {
  std::unique_ptr<Weight> weight;
  Linear(int64_t inputs, int64_t outputs, DType dtype = DType::f32);
  Tensor operator()(const Tensor& x) const { return weight->apply(x); }
  void visit(Visitor& v) override { weight->visit(v); }
  std::string describe() const override;
};

/// Several projections of the same x in one pass over it, adapters included.
pool_vector<Tensor> apply_together(const Tensor& x, std::initializer_list<const Linear*> layers);

/// What to make room for behind each row of an x that they read (RowRoom of autograd/joined_ops.h).
int64_t room_for(std::initializer_list<const Linear*> layers);

/// Rows of a table, scaled; the same table serves as the tied head. ids [..] -> [.., D].
struct Embedding final : Module {
  Parameter weight;    ///< [V, D]
  LoraSlot adapters;   ///< of the rows that go in; the head multiplies with `weight` alone
  Embedding(int64_t vocab, int64_t width, DType dtype = DType::f32);
  Tensor operator()(const Tensor& ids, double scale, DType compute) const;
  void visit(Visitor& v) override;
  std::string describe() const override;
};

/// y = x * rsqrt(mean(x^2) + eps) * (1 + w); w starts at zero. Gemma's spelling: checkpoints store w.
struct RmsNorm final : Module {
  Parameter weight;  ///< [D]
  double eps;
  RmsNorm(int64_t width, double eps, DType dtype = DType::f32);
  Tensor operator()(const Tensor& x) const;
  /// x + h and its norm, in one pass; with `of_h`, a norm of the same eps, x + of_h(h).
  SumNorm of_sum(const Tensor& x, const Tensor& h, const RmsNorm* of_h = nullptr) const;
  void visit(Visitor& v) override { v("weight", weight); }
  std::string describe() const override;
};

/// down(gelu_tanh(gate(x)) * up(x)). x [.., D] -> [.., D], F in between.
struct GatedMlp final : Module {
  Linear gate_proj, up_proj, down_proj;
  GatedMlp(int64_t width, int64_t hidden, DType dtype = DType::f32);
  Tensor operator()(const Tensor& x) const;
  int64_t room() const { return room_for({&gate_proj, &up_proj}); }  ///< behind each row of x
  void visit(Visitor& v) override;
};

}  // namespace facet

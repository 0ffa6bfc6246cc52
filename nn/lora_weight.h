// LoRA (Hu et al. 2021): W + s B A in place of W, with A [r, I], B [O, r] and the base W frozen. The product B A is never formed:
//   y = x W^T + s (x A^T) B^T
// DoRA (Liu et al. 2024) also learns the length of every row: y = c (x W^T + s (x A^T) B^T), c = m / ||W + s B A||_row, where the
// norm counts as a constant (section 4.3), as in PEFT.
#pragma once
#include "nn/weight.h"

namespace facet {

struct Linear;

/// One adapter at one weight. Of an embedding: a is [V, r], as rows are looked up in it (PEFT's files hold [r, V]).
struct LoraFactors final : Module {
  Parameter a;          ///< [r, I]
  Parameter b;          ///< [O, r]
  Parameter magnitude;  ///< [O], DoRA only; else absent
  Tensor row_squares;   ///< [O], DoRA only: ||W||^2 of the base's rows
  double scale = 1;     ///< s
  double dropout = 0;   ///< share of x's elements that A does not see, inside a DropoutScope
  uint32_t salt = 0;    ///< tells this weight's mask from the others'
  bool of_table = false;
  void visit(Visitor&) override;
  int64_t rank() const { return b.value().dim(1); }
  bool sees_all() const;                   ///< no dropout is in force
  Tensor narrowed(const Tensor& x) const;  ///< A's product with what it sees of x, [.., r]
};

/// The adapters at one place; at most one is in use.
class LoraSlot {
 public:
  const LoraFactors* active() const { return active_; }
  LoraFactors* find(const std::string& adapter) const;
  LoraFactors& add(const std::string& adapter, std::unique_ptr<LoraFactors>);
  void use(const std::string& adapter);  ///< none of that name here: the base alone
  void visit(Visitor&);                  ///< the active one
  const auto& all() const { return all_; }

 private:
  std::vector<std::pair<std::string, std::unique_ptr<LoraFactors>>> all_;
  LoraFactors* active_ = nullptr;
};

/// Any weight with adapters. Lists the base's parameters under the base's names, then those of the active adapter.
struct LoraWeight final : Weight {
  std::unique_ptr<Weight> base;
  LoraSlot adapters;
  Tensor in_panel;  ///< of this base's matrix and its neighbours'; absent: there is none (settle_in_panel)
  explicit LoraWeight(std::unique_ptr<Weight> b) : base(std::move(b)) {}

  void factors(pool_vector<Tensor>&) const override;
  Tensor combine(const Tensor& x, std::span<Tensor> products) const override;
  const Tensor* matrix() const override { return base->plain(); }
  Tensor panel() const override { return in_panel; }
  const LoraFactors* adapter() const override { return adapters.active(); }
  int64_t inputs() const override { return base->inputs(); }
  int64_t outputs() const override { return base->outputs(); }
  DType compute() const override { return base->compute(); }
  void visit(Visitor&) override;
};

/// The adapters at a Linear or an Embedding; null: there are none, or it is another module.
LoraSlot* adapters_at(Module&);
/// What an adapter's parameter is kept in beside weights of such a dtype: on the GPU in what the products there read (an optimizer keeps the
/// f32 values), else as it is.
Tensor beside_weights(const Tensor& value, DType weights, Device);
/// Moves an adapter's parts there, given in the model's order. The A that follow one another and read rows of one length, as q's, k's and v's, come
/// to lie side by side.
void settle_beside_weights(std::span<LoraFactors* const>, DType weights, Device);

/// On a GPU: moves the matrices of layers that read one x, some of them adapted, into a panel with room for the largest of their adapters, unless
/// they are in one; elsewhere they have none. Frozen matrices only: what an optimizer changes is dense, and leaves the panel it was in.
void settle_in_panel(std::span<Linear* const>, Device);
/// The same for all layers of a model.
void settle_in_panels(Module&, Device);

/// ||W||^2 of every row, and ||W + s B A||_row [O] from it without forming the sum: W A^T is [O, r].
Tensor row_squares(const Tensor& w);
Tensor adapted_row_norms(const Tensor& w, const LoraFactors&);
/// DoRA's c = m / ||W + s B A||_row [O]; the norms' f32 is kept until it is one number: on a GPU m and the outputs may be bf16.
Tensor row_factors(const Tensor& w, const LoraFactors&, DType);

}  // namespace facet

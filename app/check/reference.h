// Numbers from elsewhere: safetensors or .npz files in the spelling of the reference sets, merged.
//   [SET.]input_ids, attention_mask, position_ids        what went in
//   [SET.]embed, layers.I.TAP, final_norm, logits, loss  what came out
//   [SET.]grad.NAME                                      gradients by parameter
// Names of the flax library's modules ("SET.layer_0/attn/_query_norm") are understood as well. What came out of a model with an adapter
// may stand beside what came out of its base, as lora/SET.logits, lora/SET.loss and, of the first set, lora/grad/base_model.model.NAME.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "nn/language_model.h"
#include "tensor/io/tensor_files.h"

namespace facet::app {

struct ReferenceTensor {
  std::string name;   ///< as the file spells it
  std::string label;  ///< for the report: the name, with the file where two files hold it
  std::string tap;    ///< our name without the set: "layers.0.q_normed", "grad.layers.0....", "logits"; empty: no counterpart
  const TensorFiles* file = nullptr;
  Tensor load() const { return file->load(name); }
};

class Reference {
 public:
  /// `adapted`: the model has an adapter; of files with names below lora/ those are compared, the others give the inputs.
  explicit Reference(const std::vector<std::string>& paths, bool adapted = false);

  /// Names of the sets that have input_ids; "" for a file without sets.
  const std::vector<std::string>& sets() const { return sets_; }
  /// Everything of one set but its inputs, in forward order; of the files' order otherwise.
  std::vector<ReferenceTensor> tensors(const std::string& set) const;
  /// Tensors that belong to no set.
  std::vector<ReferenceTensor> strays() const;
  /// An input or other tensor of a set from whichever file holds it; absent when none does.
  Tensor find(const std::string& set, const std::string& name) const;
  Tokens tokens(const std::string& set) const;
  /// i32 [B, T] of ones where the set gives none.
  Tensor mask(const std::string& set) const;

 private:
  std::vector<std::unique_ptr<TensorFiles>> files_;
  std::vector<std::string> sets_;
  std::string prefix_;  ///< of the names that are compared
};

/// Our tap for a flax module path ("layer_0/attn/_query_norm" -> "layers.0.q_normed"); "" when there is none.
std::string tap_of_flax(const std::string& path);

}  // namespace facet::app

// Adapters in the folders of PEFT (Hugging Face), both ways: adapter_config.json and adapter_model.safetensors with tensors such as
//   base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight [r, I]
//   base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight [O, r]
//   base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector [O]                       DoRA
//   base_model.model.model.embed_tokens.lora_embedding_A [r, V], .lora_embedding_B [D, r], .base_layer.weight [V, D]
// Which modules are adapted follows from the tensors; a list in target_modules tells whether some are missing. What the base was is
// kept in the safetensors header ("facet.base_hash", "facet.base_width"), which PEFT does not read.
// Checked against PEFT 0.21.2.
#pragma once
#include <map>
#include <string>

#include "models/gemma/config.h"
#include "nn/lora.h"

namespace facet {

/// One adapted module, as the file has it: W + scale b a, and with a magnitude its rows brought to that length.
struct AdapterModule {
  Tensor a;          ///< [r, I]; of the embedding [r, V]
  Tensor b;          ///< [O, r]; of the embedding [D, r], its table being W + scale (b a)^T
  Tensor magnitude;  ///< [O], DoRA only
  double scale = 1;
};

struct AdapterFile {
  std::string path;         ///< the folder, for messages
  LoraOptions options;      ///< targets are module paths
  std::string base;         ///< base_model_name_or_path
  std::string base_hash;    ///< hash_text of WeightHash::Of::bf16 over the base; empty when another program wrote the adapter
  int64_t base_width = 0;   ///< its hidden size, as recorded or as the shapes have it
  std::vector<std::string> targets;  ///< the names in target_modules of which every module is adapted; empty: not known
  std::map<std::string, AdapterModule> modules;  ///< by our path: "layers.0.self_attn.q_proj", "embed_tokens"
  int64_t aside = 0;        ///< tensors for an image tower, which text has no use for
  Tensor table;             ///< the base's embedding, which PEFT stores beside an adapted one; else absent
};

/// Whether there is an adapter_config.json in it.
bool is_adapter_folder(const std::string& folder);

/// Throws Error(Kind::file) naming the key or tensor that is missing, wrong, or asks for what is not computed here.
AdapterFile read_adapter(const std::string& folder);

/// Names, shapes and base fit a model of this config. `base_hash`: that of the model (hash_text of WeightHash::Of::bf16); empty: not
/// compared. Throws Error(Kind::file).
void check_adapter(const AdapterFile&, const GemmaConfig&, const std::string& base_hash);

/// PEFT puts the table of the file in place of the base's: it must be the same one. Where it is not, the embedding was resized or
/// trained. Throws Error(Kind::file).
void check_adapter_table(const AdapterFile&, const Tensor& table);

/// Adds the adapter to a Gemma, checked, and makes it the active one.
void load_adapter(Adapters&, const std::string& name, const AdapterFile&);

/// Writes a folder that PEFT and read_adapter() read; it appears complete or not at all. `base`: path or name of the base model; a
/// folder with an image tower in its config.json has its decoder at model.language_model, and so have the names written here.
/// Throws Error(Kind::environment) when the folder exists and is not empty, unless `replace`.
void save_adapter(const std::string& folder, Adapters&, const std::string& name, const std::string& base, bool replace = false);

}  // namespace facet

// The names of weights in a file, brought to one of two forms. Files are spelled by whoever wrote them:
//   Hugging Face    model.layers.3.self_attn.q_proj.weight       and, with images, language_model.model. or model.language_model.
//   gemma_pytorch   model.layers.3.self_attn.qkv_proj.weight     q, k and v in one, embedder.weight, query_norm
//   DeepMind FLAT   transformer/layer_3/mlp/gating_einsum/w      released checkpoints
//   NESTED          layer_3/mlp/gating_einsum                    what the library computes with; the mlp has no leaf
//   KAULDRON        params/layer_3/mlp/gating_einsum             a trainer's state, beside opt_state, step, collections
//   STACKED         transformer/stacked_layers/attention_type_0/mlp/gating_einsum/w [2, ..]    layers of one kind in one tensor
// and trainers put more in front: state_dict., model_state_dict., module., _orig_mod., rlx_networks/policy_network/.
// Sources: google-deepmind/gemma gm/ckpts/_checkpoint.py, _compat.py; google/gemma_pytorch gemma/model.py, gemma3_model.py.
#pragma once
#include <map>
#include <string>

#include "models/gemma/names.h"

namespace facet {

struct SpelledNames {
  enum class Form { hugging_face, flax };
  Form form = Form::hugging_face;
  std::string spelling = "Hugging Face";  ///< for people
  /// By Hugging Face's name, where gemma_pytorch's fused ...qkv_proj.weight is one more; or by DeepMind's flat name.
  std::map<std::string, WeightPlace> places;
  int64_t aside = 0;  ///< tensors that belong to a trainer, not to the model
};

/// Throws Error(Kind::file) when two tensors come to one name, or the file holds more than one model.
SpelledNames spelled_names(const TensorFiles&);

/// Whether a flat name of DeepMind's belongs to the images.
bool is_flax_vision(std::string_view flat);

}  // namespace facet

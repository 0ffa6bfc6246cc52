// config.json and generation_config.json of Hugging Face folders.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "models/gemma/config.h"
#include "tensor/view.h"

namespace facet {

/// Reads config.json of a folder (and the stop tokens of generation_config.json when there is one). Both schemas are understood,
/// as are nested text_config and keys left out because they equal the class default. What we do not compute (other
/// architectures, biases, other RoPE scalings, bidirectional attention) is refused with Error(Kind::file).
GemmaConfig read_hf_config(const std::string& folder);
/// The same for the text of a config.json; `where` names it in messages.
GemmaConfig parse_hf_config(std::string_view json, const std::string& where);
/// The newest schema, as transformers 5.23 writes it; a text-only architecture.
std::string hf_config_json(const GemmaConfig&, DType stored);

struct GenerationConfig {
  bool do_sample = true;
  double temperature = 1;
  int64_t top_k = 64;
  double top_p = 0.95;
  std::vector<int32_t> stop;  ///< eos_token_id: one or several
};
/// Defaults when the folder has no generation_config.json; then `stop` is empty.
GenerationConfig read_generation_config(const std::string& folder);
std::string generation_config_json(const GemmaConfig&, const GenerationConfig&);

}  // namespace facet

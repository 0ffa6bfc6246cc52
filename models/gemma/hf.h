// Hugging Face folders of Gemma: written here, read by weights.h.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "models/gemma/hf_config.h"
#include "models/gemma/weights.h"
#include "tensor/io/safetensors.h"

namespace facet {

struct SaveOptions {
  uint64_t shard_bytes = 5'000'000'000;
  std::string tokenizer_from;  ///< folder whose tokenizer files are copied; empty: none
  bool replace = false;        ///< an existing folder is replaced as a whole
  std::function<void(const std::string& folder)> more;  ///< writes or removes further files before the folder appears
  GenerationConfig generation;
};
/// Writes a folder that transformers and load_weights() read: config, weights under HF names, generation config, tokenizer files. It
/// appears complete or not at all. The dtype of config.json is that of the embedding.
void save_hf(const std::string& folder, const GemmaConfig&, const NamedTensors&, const SaveOptions& = {});

/// The tokenizer files that a folder may hold, by name.
const std::vector<std::string>& tokenizer_files();
/// The files in a model folder that hold no weights, by name: config, tokenizer, chat template, licence. Not hidden ones.
std::vector<std::string> companion_files(const std::string& folder);

}  // namespace facet

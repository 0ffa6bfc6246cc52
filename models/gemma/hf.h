// Gemma weights in Hugging Face folders: every name and shape is checked against the config before anything is read.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "models/gemma/hf_config.h"
#include "models/gemma/names.h"
#include "tensor/io/safetensors.h"

namespace facet {

struct LoadReport {
  int64_t tensors = 0;         ///< read into the model
  int64_t vision_skipped = 0;  ///< image tower and projector: this is a text model
  int64_t buffers_skipped = 0;
  bool has_head = false;       ///< the file repeats the embedding as lm_head, equal to it
};

/// What the weights are stored in: bf16 or f64 when the embedding is, else f32 (F16 is read as f32).
DType stored_dtype(const Safetensors&);

/// Compares the files with the config: every weight present once with the right shape, nothing unknown, a head that equals the
/// embedding. Throws one Error(Kind::file) that names the first difference and counts the others.
LoadReport check_weights(const Safetensors&, const GemmaConfig&);

/// Reads the weights (a folder or a file) into tensors of our names, shaped and typed already: named_values(model). Values are
/// converted to the dtype of each destination.
LoadReport load_hf(const std::string& path, const GemmaConfig&, const NamedTensors& destinations);

enum class LoadDType : uint8_t { keep, f32, bf16 };
/// The same into fresh tensors; `keep`: as stored, tensor by tensor.
NamedTensors load_hf(const std::string& path, const GemmaConfig&, LoadDType = LoadDType::keep);

struct SaveOptions {
  uint64_t shard_bytes = 5'000'000'000;
  std::string tokenizer_from;  ///< folder whose tokenizer files are copied; empty: none
  bool replace = false;        ///< an existing folder is replaced as a whole
  std::function<void(const std::string& folder)> more;  ///< writes or removes further files before the folder appears
  GenerationConfig generation;
};
/// Writes a folder that transformers and load_hf() read: config, weights under HF names, generation config, tokenizer files. It
/// appears complete or not at all. The dtype of config.json is that of the embedding.
void save_hf(const std::string& folder, const GemmaConfig&, const NamedTensors&, const SaveOptions& = {});

/// The tokenizer files that a folder may hold, by name.
const std::vector<std::string>& tokenizer_files();
/// The files in a model folder that hold no weights, by name: config, tokenizer, chat template, licence. Not hidden ones.
std::vector<std::string> companion_files(const std::string& folder);

}  // namespace facet

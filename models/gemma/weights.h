// Gemma's weights out of a file of any format and spelling: every name and shape is checked against the config before anything is
// read, and values go from the file into their tensors, whose axes may lie otherwise, by way of a few MiB.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "models/gemma/names.h"

namespace facet {

struct LoadReport {
  std::string spelling;        ///< "Hugging Face", "gemma_pytorch", "DeepMind, flat", ...
  int64_t tensors = 0;         ///< read into the model
  int64_t vision_skipped = 0;  ///< image tower and projector: this is a text model
  int64_t buffers_skipped = 0; ///< and what belongs to a trainer
  bool has_head = false;       ///< the file repeats the embedding as lm_head, equal to it
};

/// What a file holds of a model, and what speaks against it.
struct WeightMap {
  std::map<std::string, WeightPlace> places;  ///< by our names
  std::string head;                           ///< the file's name of a head that repeats the table
  LoadReport report;
  std::vector<std::string> problems;          ///< the first is the one to tell
};
WeightMap find_weights(const TensorFiles&, const GemmaConfig&);

/// The weights of a model at `path`, a folder or a file. Throws Error(Kind::file) for what is none and says what it is: an adapter, a run.
TensorFiles open_weights(const std::string& path);

/// What the weights are stored in: bf16 or f64 when the embedding is, else f32 (F16 is read as f32).
DType stored_dtype(const TensorFiles&);

/// Compares the file with the config: every weight present once with the right shape, nothing unknown, a head that equals the
/// embedding. Throws one Error(Kind::file) that names the first difference and counts the others; gives what load_weights reads by.
WeightMap check_weights(const TensorFiles&, const GemmaConfig&);

/// The config of a folder, or of the folder a file lies in; where there is no config.json, the released size whose shapes the
/// weights have. Throws Error(Kind::file) when there is none.
GemmaConfig read_config(const std::string& path, const TensorFiles&);

/// Reads the weights into tensors of our names, shaped and typed already: named_values(model). Values are converted to the dtype
/// of each destination.
LoadReport load_weights(const TensorFiles&, const WeightMap&, const GemmaConfig&, const NamedTensors& destinations);
LoadReport load_weights(const std::string& path, const GemmaConfig&, const NamedTensors& destinations);

enum class LoadDType : uint8_t { keep, f32, bf16 };
/// The same into fresh tensors; `keep`: as stored, tensor by tensor.
NamedTensors load_weights(const std::string& path, const GemmaConfig&, LoadDType = LoadDType::keep);
/// One of them as it is stored.
Tensor load_weight(const TensorFiles&, const WeightPlace&, const WeightShape&, const GemmaConfig&);

/// What became of a partial load; each entry a name, and behind it what was wrong if something was.
struct Restored {
  std::vector<std::string> loaded;   ///< our names
  std::vector<std::string> skipped;  ///< tensors of the file that were not asked for or are none of this model's
  std::vector<std::string> missing;  ///< our names that were asked for and not found, or not with this shape
};
/// Reads those of the destinations whose name matches one of the patterns (as of a shell: * ? [0-3]); the others stay as they are.
Restored restore_weights(const TensorFiles&, const GemmaConfig&, const NamedTensors& destinations, const std::vector<std::string>& patterns);

}  // namespace facet

#include "models/gemma/load.h"

#include "nn/module.h"
#include "tensor/io/tensor_files.h"

namespace facet {

std::unique_ptr<Gemma> load_gemma(const TensorFiles& files, const GemmaConfig& config, DType storage) {
  const WeightMap places = check_weights(files, config);
  auto model = std::make_unique<Gemma>(config, storage);
  load_weights(files, places, config, named_values(*model));
  return model;
}

std::unique_ptr<Gemma> load_gemma(const std::string& path, DType storage) {
  const TensorFiles files(path);
  return load_gemma(files, read_config(path, files), storage);
}

}  // namespace facet

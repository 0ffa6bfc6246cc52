#include "models/gemma/hf.h"

#include <algorithm>
#include <filesystem>
#include <map>

#include "tensor/io/durable.h"
#include "tensor/io/text.h"

namespace facet {

namespace fs = std::filesystem;

const std::vector<std::string>& tokenizer_files() {
  static const std::vector<std::string> names = {"tokenizer.model",         "tokenizer.json",    "tokenizer_config.json",
                                                 "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"};
  return names;
}

std::vector<std::string> companion_files(const std::string& folder) {
  const auto holds_weights = [](const std::string& name) {
    const auto ends = [&](const char* end) { return name.ends_with(end); };
    const auto endings = {".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pt", ".pth", ".ckpt", ".npz", ".npy", ".gguf"};
    return std::any_of(endings.begin(), endings.end(), ends);
  };
  std::vector<std::string> names;
  for (const fs::directory_entry& e : fs::directory_iterator(folder))
    if (const std::string name = e.path().filename().string(); e.is_regular_file() && name[0] != '.' && !holds_weights(name)) names.push_back(name);
  std::sort(names.begin(), names.end());
  return names;
}

void save_hf(const std::string& folder, const GemmaConfig& c, const NamedTensors& tensors, const SaveOptions& options) {
  std::map<std::string, Tensor> by_name;
  for (const auto& [name, tensor] : tensors) by_name[hf_name(name)] = tensor;
  std::vector<TensorSpec> specs;
  DType stored = DType::f32;
  for (const WeightShape& w : weights_of(c)) {
    const auto at = by_name.find(hf_name(w.name));
    if (at == by_name.end()) fail(Kind::usage, "save_hf: no tensor for \"{}\" {}", w.name, to_string(w.shape));
    if (!(at->second.shape() == w.shape))
      fail(Kind::usage, "save_hf: \"{}\": the config asks for {}, found {}", w.name, to_string(w.shape), to_string(at->second.shape()));
    if (specs.empty()) stored = at->second.dtype();
    specs.push_back({at->first, at->second.dtype(), w.shape});
  }
  if (specs.size() != tensors.size())
    fail(Kind::usage, "save_hf: {} tensors for the {} weights of this config", tensors.size(), specs.size());

  StagedFolder staged(folder);
  const auto at = [&](const std::string& name) { return (fs::path(staged.path()) / name).string(); };
  write_file_atomically(at("config.json"), hf_config_json(c, stored));
  write_file_atomically(at("generation_config.json"), generation_config_json(c, options.generation));
  if (!options.tokenizer_from.empty())
    for (const std::string& name : tokenizer_files()) {
      const fs::path source = fs::path(options.tokenizer_from) / name;
      std::error_code ignored;
      if (fs::exists(source, ignored)) write_file_atomically(at(name), read_file(source.string(), uint64_t{256} << 20));
    }
  save_sharded(staged.path(), "model", specs, [&](const std::string& name) { return by_name.at(name); }, {{"format", "pt"}},
               options.shard_bytes);
  if (options.more) options.more(staged.path());
  staged.commit(options.replace);
}

}  // namespace facet

#include "app/model_folder.h"

#include <filesystem>

#include "app/command.h"
#include "data/chat.h"
#include "models/gemma/hf.h"
#include "models/gemma/load.h"
#include "models/gemma/peft.h"
#include "nn/module.h"
#include "tensor/io/durable.h"
#include "tensor/io/json.h"

namespace facet::app {
namespace fs = std::filesystem;
namespace {

constexpr const char* template_file = "chat_template.jinja";

bool has_chat_template(const std::string& folder) {
  if (fs::exists(folder + "/" + template_file)) return true;
  const std::string config = folder + "/tokenizer_config.json";
  return fs::exists(config) && read_json(config).contains("chat_template");
}

void check_exists(const std::string& path) {
  if (!fs::exists(path))
    fail(Kind::file,
         "{}: no such folder or file. Expected a model folder as Hugging Face lays it out (config.json, model.safetensors, tokenizer.model), or "
         "a file of weights. Nothing is downloaded: copy one here, or make one with facet init",
         path);
  if (path.ends_with("config.json")) fail(Kind::file, "{}: is a file; expected the folder that holds config.json and the weights", path);
}

}  // namespace

ModelFolder open_model(const std::string& path, const std::map<std::string, std::string>& overrides, const std::string& dtype,
                       TokenizerNeed need, const std::string& adapter, Device device) {
  check_exists(path);
  ModelFolder folder;
  folder.path = path;
  folder.home = fs::is_directory(path) ? path : fs::absolute(path).parent_path().string();
  const TensorFiles weights = open_weights(path);
  GemmaConfig config = read_config(path, weights);
  for (const auto& [key, value] : overrides) set_field(config, key, value);
  const DType storage = dtype == "auto" && device == Device::gpu ? stored_dtype(weights) : weight_dtype(dtype);
  folder.model = load_gemma(weights, config, storage);
  if (need == TokenizerNeed::required || fs::exists(folder.home + "/tokenizer.model")) {
    folder.tokenizer = Tokenizer::load(folder.home);
    if (folder.tokenizer.vocab_size() > config.vocab)
      fail(Kind::file, "{}: the tokenizer has {} pieces, the embedding {} rows; they do not belong together", path,
           folder.tokenizer.vocab_size(), config.vocab);
  }
  folder.chat = has_chat_template(folder.home);
  if (!adapter.empty()) {
    folder.adapters = std::make_unique<Adapters>(*folder.model);
    load_adapter(*folder.adapters, "adapter", read_adapter(adapter));
  }
  folder.model->to(device);
  return folder;
}

void save_model(const std::string& path, Gemma& model, const Tokenizer& tokenizer, bool chat, const std::string& tokenizer_from) {
  const bool copy = !tokenizer_from.empty() && fs::exists(tokenizer_from + "/tokenizer.model");
  SaveOptions o;
  o.replace = true;
  if (copy) o.tokenizer_from = tokenizer_from;
  o.generation.stop = model.config.stop;
  o.more = [&](const std::string& folder) {
    if (!copy) tokenizer.save(folder);
    const std::string file = folder + "/" + template_file;
    if (chat && !has_chat_template(folder)) write_file_atomically(file, chat_template_jinja());
    if (!chat && fs::exists(file)) remove_durably(file);  // came with the tokenizer
  };
  save_hf(path, model.config, named_values(model), o);
}

}  // namespace facet::app

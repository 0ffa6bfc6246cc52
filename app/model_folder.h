// A model on disk as the program uses it: a folder with weights, config and tokenizer, as Hugging Face lays it out; or a file of weights
// of any format we read, with config and tokenizer beside it.
#pragma once
#include <map>
#include <memory>
#include <string>

#include "data/tokenizer.h"
#include "models/gemma/model.h"
#include "nn/lora.h"

namespace facet::app {

struct ModelFolder {
  std::string path;  ///< as given
  std::string home;  ///< the folder of its config and tokenizer: the same, or where the file lies
  std::unique_ptr<Gemma> model;
  Tokenizer tokenizer;  ///< absent when the folder has none and it was not asked for
  std::unique_ptr<Adapters> adapters = nullptr;  ///< those over the model, if there are any
  bool chat = false;    ///< the folder comes with a chat template: the model was taught to take turns
};

enum class TokenizerNeed { required, optional };

/// Opens a folder or a file. `overrides` are config fields ("sliding_window" -> "9"); `dtype`: f32, bf16, f64, or auto: on the CPU f32,
/// on the GPU as stored; it is how weights are kept.
/// `adapter`: a folder as PEFT writes it, put over the model; empty: none. Throws Error(Kind::file) naming what is missing and how to
/// get a model, or why the adapter does not fit.
ModelFolder open_model(const std::string& path, const std::map<std::string, std::string>& overrides = {}, const std::string& dtype = "auto",
                       TokenizerNeed = TokenizerNeed::required, const std::string& adapter = "", Device = Device::cpu);

/// Writes a folder that transformers loads. Tokenizer files are copied from `tokenizer_from` if it is a folder that holds them, else
/// written from the tokenizer. `chat`: a chat template belongs in it.
void save_model(const std::string& path, Gemma&, const Tokenizer&, bool chat, const std::string& tokenizer_from = "");

}  // namespace facet::app

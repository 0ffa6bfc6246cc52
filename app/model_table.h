// What a model of some config is: its layers, how many parameters, and the memory it takes. No weights are read.
#pragma once
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "app/console.h"
#include "models/gemma/config.h"

namespace facet::app {

struct ModelTable {
  GemmaConfig config;
  int64_t tokens = 0;  ///< in the cache; 0: all the model was made for
  int64_t rank = 8;    ///< of the LoRA row

  /// Every layer: its kind, what it sees, its parameters, and the bytes of keys and values it keeps.
  void print_layers(Console&) const;
  /// Parameters by kind of weight; `each`: every weight with its shape, too.
  void print_parameters(Console&, bool each) const;
  /// Of keys and values, and of training without activations.
  void print_memory(Console&) const;
  nlohmann::ordered_json json(bool layers, bool each_weight) const;
};

/// The config of a folder, of a preset's name, or beside a file of weights; with overrides ("sliding_window" -> "9"). Throws
/// Error(Kind::file or usage).
GemmaConfig config_of(const std::string& model, const std::map<std::string, std::string>& overrides);
/// "L L L L L G  L L": local and global layers, with a gap after every global one.
std::string layer_row(const GemmaConfig&);

}  // namespace facet::app

// What a model on disk is: its tensors, or its layers, and what it takes to run and to train it. No weights are read.
#include <nlohmann/json.hpp>

#include <filesystem>

#include "app/command.h"
#include "app/model_table.h"
#include "app/tensor_table.h"

namespace facet::app {
namespace {

struct Settings : Common {
  std::string model, match;
  std::map<std::string, std::string> overrides;
  bool all = false, layers = false;
  int64_t tokens = 0;
  void declare(Options& o) {
    o.add("model", &model, "model folder, .index.json, or a safetensors, .npz, .npy or PyTorch file; with --layers also a name such as gemma3-1b").metavar("DIR|FILE").positional().required();
    o.add("layers", &layers, "what each layer is, its parameters, the bytes of its keys and values; instead of the tensors");
    o.add("context", &tokens, "--layers: tokens in the cache; 0: all the model was made for").range(0, 1 << 24).metavar("N");
    o.add("match", &match, "only tensors whose name holds this text").metavar("TEXT");
    o.add("all", &all, "every tensor on its own line instead of one line for equal layers");
    o.pass_through("model", overrides);
  }
};

int run(Settings& s, Options&, Console& console) {
  if (s.layers) {
    const ModelTable table{config_of(s.model, s.overrides), s.tokens};
    if (console.json()) console.line("{}", table.json(true, false).dump(2));
    else table.print_layers(console);
    return 0;
  }
  const TensorFiles file(s.model);
  const TensorTable tensors{file, s.match, s.all};
  if (console.json()) {
    console.line("{}", tensors.json().dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
    return 0;
  }
  tensors.print(console);
  if (!s.match.empty() || !std::filesystem::exists(std::filesystem::path(s.model) / "config.json")) return 0;
  try {
    const ModelTable table{config_of(s.model, s.overrides)};
    console.line("\n{}\n", layer_row(table.config));
    table.print_parameters(console, false);
    console.line();
    table.print_memory(console);
  } catch (const Error& e) {
    console.warn("{}", e.what());  // tensors of another family can be listed all the same
  }
  return 0;
}

}  // namespace

Command inspect_model_command() {
  return command<Settings>("inspect model", "List the tensors or the layers of a model, its parameters, and the memory it takes",
                           "Reads headers only, so it is quick for a model of any size.\n\n"
                           "  facet inspect model runs/radicals/final --layers\n"
                           "  facet inspect model model.safetensors --match layers.0. --all",
                           run);
}

}  // namespace facet::app

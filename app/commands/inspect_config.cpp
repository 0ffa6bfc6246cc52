// What a model of some config would be: exact parameter counts, its layers, and the memory it takes. No weights are read.
#include <nlohmann/json.hpp>

#include <algorithm>

#include "app/command.h"
#include "app/model_table.h"
#include "tensor/io/text.h"

namespace facet::app {
namespace {

struct Settings : Common {
  std::string model;
  std::map<std::string, std::string> overrides;
  bool params = false;
  int64_t tokens = 0, rank = 8;
  void declare(Options& o) {
    o.add("model", &model, "model folder, or a name such as gemma3-270m").metavar("NAME|DIR").positional().required();
    o.add("params", &params, "every kind of weight with its shape and count");
    o.add("context", &tokens, "tokens in the cache; 0: all the model was made for").range(0, 1 << 24).metavar("N");
    o.add("lora-rank", &rank, "rank the LoRA row assumes").range(1, 4096).alias({"rank"});
    o.pass_through("model", overrides);
  }
};

int run(Settings& s, Options&, Console& console) {
  const ModelTable table{config_of(s.model, s.overrides), s.tokens, s.rank};
  const GemmaConfig& c = table.config;
  if (console.json()) {
    console.line("{}", table.json(false, s.params).dump(2));
    return 0;
  }
  const auto g = [](double v) { return grouped(static_cast<uint64_t>(v)); };
  console.line("{}: Gemma {}, {} layers, width {}, {} query and {} key heads of {}, feed-forward {}, vocabulary {}, context {}", s.model, c.generation,
               c.layers, c.width, c.heads, c.kv_heads, c.head_dim, c.hidden, g(static_cast<double>(c.vocab)), g(static_cast<double>(c.context)));
  console.line("\nlayers      {}", layer_row(c));
  if (std::find(c.kinds.begin(), c.kinds.end(), LayerKind::local) != c.kinds.end())
    console.line("            L sees {} tokens, rope base {}", g(static_cast<double>(c.window)), g(c.rope_base_local));
  console.line("            G sees all of them, rope base {}{}\n", g(c.rope_base_global),
               c.rope_factor_global == 1 ? "" : fmt::format(", positions divided by {:g}", c.rope_factor_global));
  table.print_parameters(console, s.params);
  console.line();
  table.print_memory(console);
  return 0;
}

}  // namespace

Command inspect_config_command() {
  return command<Settings>("inspect config", "Count the parameters, layers and memory of a model size, without weights",
                           "  facet inspect config gemma3-1b --params\n  facet inspect config gemma-3-270m-it --set model.sliding_window=1024", run);
}

}  // namespace facet::app

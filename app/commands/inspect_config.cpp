// What a model of some config would be: exact parameter counts, its layers, and the memory it takes. No weights are read.
#include <nlohmann/json.hpp>

#include <algorithm>
#include <filesystem>

#include "app/command.h"
#include "models/gemma/hf_config.h"
#include "models/gemma/names.h"
#include "tensor/io/durable.h"
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

GemmaConfig config_of(const Settings& s) {
  GemmaConfig c = std::filesystem::exists(s.model) || s.model.find('/') != std::string::npos ? read_hf_config(s.model) : preset(s.model);
  for (const auto& [key, value] : s.overrides) set_field(c, key, value);
  c.check();
  return c;
}

struct Counts {
  int64_t embedding = 0, attention = 0, feed_forward = 0, norms = 0, lora = 0;
  int64_t total() const { return embedding + attention + feed_forward + norms; }
};

Counts count(const std::vector<WeightShape>& weights, int64_t rank) {
  Counts c;
  for (const WeightShape& w : weights) {
    const int64_t n = w.shape.numel();
    const bool matrix = w.shape.rank == 2;
    const bool table = w.name.find("embed") != std::string::npos || w.name.starts_with("lm_head");
    if (table) c.embedding += n;
    else if (!matrix) c.norms += n;
    else if (w.name.find(".mlp.") != std::string::npos) c.feed_forward += n;
    else c.attention += n;
    if (matrix && !table) c.lora += rank * (w.shape[0] + w.shape[1]);
  }
  return c;
}

// Bytes of keys and values for so many tokens: local layers keep a window of them.
uint64_t cache_bytes(const GemmaConfig& c, int64_t tokens, int64_t element) {
  int64_t positions = 0;
  for (const LayerKind kind : c.kinds) positions += kind == LayerKind::local ? std::min(tokens, c.window) : tokens;
  return static_cast<uint64_t>(positions * 2 * c.kv_heads * c.head_dim * element);
}

// "L L L L L G  L L ..." with a gap after every global layer.
std::string layer_row(const GemmaConfig& c) {
  std::string out;
  for (const LayerKind kind : c.kinds) out += kind == LayerKind::local ? "L " : "G  ";
  return out.substr(0, out.find_last_not_of(' ') + 1);
}

int run(Settings& s, Options&, Console& console) {
  const GemmaConfig c = config_of(s);
  const std::vector<WeightShape> weights = weights_of(c);
  const Counts n = count(weights, s.rank);
  const int64_t tokens = s.tokens ? s.tokens : c.context, total = n.total();
  const auto g = [](int64_t v) { return grouped(static_cast<uint64_t>(v)); };
  const auto bytes = [](int64_t v) { return human_bytes(static_cast<uint64_t>(v)); };
  const int64_t cache = static_cast<int64_t>(cache_bytes(c, tokens, 2));

  if (console.json()) {
    nlohmann::ordered_json out{{"layers", c.layers}, {"kinds", layer_row(c)}, {"parameters", total}, {"embedding", n.embedding},
                               {"attention", n.attention}, {"feed_forward", n.feed_forward}, {"norms", n.norms},
                               {"kv_bytes_per_token", c.kv_bytes_per_token(2)}, {"context", tokens}, {"cache_bytes", cache},
                               {"lora_parameters", n.lora}};
    if (s.params)
      for (const WeightShape& w : weights) out["weights"].push_back({{"name", w.name}, {"shape", std::vector<int64_t>(w.shape.begin(), w.shape.end())}});
    console.line("{}", out.dump(2));
    return 0;
  }

  console.line("{}: Gemma {}, {} layers, width {}, {} query and {} key heads of {}, feed-forward {}, vocabulary {}, context {}", s.model, c.generation,
               c.layers, c.width, c.heads, c.kv_heads, c.head_dim, c.hidden, g(c.vocab), g(c.context));
  console.line("\nlayers      {}", layer_row(c));
  const bool has_local = std::find(c.kinds.begin(), c.kinds.end(), LayerKind::local) != c.kinds.end();
  if (has_local) console.line("            L sees {} tokens, rope base {}", g(c.window), g(static_cast<int64_t>(c.rope_base_local)));
  console.line("            G sees all of them, rope base {}{}", g(static_cast<int64_t>(c.rope_base_global)),
               c.rope_factor_global == 1 ? "" : fmt::format(", positions divided by {:g}", c.rope_factor_global));

  console.line();
  const auto row = [&](const char* name, int64_t v) { console.line("{:<24} {:>16} {:>6.1f} %", name, g(v), 100.0 * static_cast<double>(v) / static_cast<double>(total)); };
  row("embedding (and head)", n.embedding);
  row("attention", n.attention);
  row("feed-forward", n.feed_forward);
  row("norms", n.norms);
  row("parameters", total);
  if (s.params) {
    console.line();
    std::vector<std::pair<std::string, std::pair<Shape, int64_t>>> kinds;  // layers folded
    for (const WeightShape& w : weights) {
      std::string name = w.name;
      if (name.rfind("layers.", 0) == 0) name = "layers.*" + name.substr(name.find('.', 7));
      const auto it = std::find_if(kinds.begin(), kinds.end(), [&](const auto& k) { return k.first == name && k.second.first == w.shape; });
      if (it == kinds.end()) kinds.push_back({name, {w.shape, 1}});
      else ++it->second.second;
    }
    for (const auto& [name, k] : kinds)
      console.line("{:<44} {:<16} x {:<3} {:>14}", name, to_string(k.first), k.second, g(k.first.numel() * k.second));
  }

  console.line("\nkeys and values: {} per token in bf16; {} for {} tokens{}", bytes(c.kv_bytes_per_token(2)), bytes(cache), g(tokens),
               has_local ? " (local layers keep their window)" : "");
  console.line("\nmemory without activations       f32 weights   bf16 weights");
  const auto memory = [&](const char* name, int64_t f32, int64_t bf16) { console.line("{:<32} {:>11} {:>14}", name, bytes(f32), bytes(bf16)); };
  memory("inference, with that cache", 4 * total + cache, 2 * total + cache);
  // Gradients and both moments of AdamW are f32 whatever the weights are; bf16 weights add an f32 master copy.
  memory("full training, AdamW", 16 * total, 18 * total);
  memory(fmt::format("LoRA rank {}, {} values", s.rank, g(n.lora)).c_str(), 4 * total + 16 * n.lora, 2 * total + 16 * n.lora);
  return 0;
}

}  // namespace

Command inspect_config_command() {
  return command<Settings>("inspect config", "Count the parameters, layers and memory of a model size, without weights",
                           "  facet inspect config gemma3-1b --params\n  facet inspect config gemma-3-270m-it --set model.sliding_window=1024", run);
}

}  // namespace facet::app

#include "app/model_table.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <vector>

#include "models/gemma/hf_config.h"
#include "models/gemma/names.h"
#include "tensor/io/durable.h"
#include "tensor/io/text.h"

namespace facet::app {
namespace {
namespace fs = std::filesystem;

std::string count_text(int64_t v) { return grouped(static_cast<uint64_t>(v)); }
std::string bytes_text(int64_t v) { return human_bytes(static_cast<uint64_t>(v)); }

constexpr int64_t cache_element_bytes = 2;  // bf16

// 12 of "layers.12.mlp.up_proj.weight"; -1: outside of the layers.
int64_t layer_of(const std::string& name) {
  int64_t layer = -1;
  if (name.starts_with("layers.")) std::from_chars(name.data() + 7, name.data() + name.size(), layer);
  return layer;
}

struct Counts {
  int64_t embedding = 0, attention = 0, feed_forward = 0, norms = 0, lora = 0;
  std::vector<int64_t> layers;  // parameters of each
  int64_t total() const { return embedding + attention + feed_forward + norms; }

  Counts(const GemmaConfig& config, int64_t rank) : layers(static_cast<size_t>(config.layers)) {
    for (const WeightShape& w : weights_of(config)) {
      const int64_t n = w.shape.numel(), layer = layer_of(w.name);
      const bool matrix = w.shape.rank == 2;
      const bool table = w.name.find("embed") != std::string::npos || w.name.starts_with("lm_head");
      if (table) embedding += n;
      else if (!matrix) norms += n;
      else if (w.name.find(".mlp.") != std::string::npos) feed_forward += n;
      else attention += n;
      if (matrix && !table) lora += rank * (w.shape[0] + w.shape[1]);
      if (layer >= 0) layers[static_cast<size_t>(layer)] += n;
    }
  }
};

int64_t tokens_of(const ModelTable& t) { return t.tokens ? t.tokens : t.config.context; }

int64_t cache_bytes_per_token(const GemmaConfig& c) { return 2 * c.kv_heads * c.head_dim * cache_element_bytes; }  // of one layer

// Local layers keep their window.
int64_t cache_bytes(const GemmaConfig& c, LayerKind kind, int64_t tokens) {
  return cache_bytes_per_token(c) * (kind == LayerKind::local ? std::min(tokens, c.window) : tokens);
}

int64_t cache_bytes(const GemmaConfig& c, int64_t tokens) {
  int64_t bytes = 0;
  for (const LayerKind kind : c.kinds) bytes += cache_bytes(c, kind, tokens);
  return bytes;
}

const char* letter(LayerKind kind) { return kind == LayerKind::local ? "L" : "G"; }

}  // namespace

GemmaConfig config_of(const std::string& model, const std::map<std::string, std::string>& overrides) {
  const bool on_disk = fs::exists(model) || model.find('/') != std::string::npos;
  const std::string folder = fs::is_regular_file(model) ? fs::absolute(model).parent_path().string() : model;
  GemmaConfig c = on_disk ? read_hf_config(folder) : preset(model);
  for (const auto& [key, value] : overrides) set_field(c, key, value);
  c.check();
  return c;
}

std::string layer_row(const GemmaConfig& c) {
  std::string out;
  for (const LayerKind kind : c.kinds) out += kind == LayerKind::local ? "L " : "G  ";
  return out.substr(0, out.find_last_not_of(' ') + 1);
}

void ModelTable::print_layers(Console& console) const {
  const Counts n(config, rank);
  const int64_t length = tokens_of(*this);
  console.line("{}\n", layer_row(config));
  console.line("{:>5}  {:<4} {:>9} {:>12} {:>14} {:>12} {:>18}", "layer", "kind", "sees", "rope base", "parameters", "KV / token", fmt::format("KV of {}", count_text(length)));
  for (size_t i = 0; i < config.kinds.size(); ++i) {
    const bool local = config.kinds[i] == LayerKind::local;
    console.line("{:>5}  {:<4} {:>9} {:>12} {:>14} {:>12} {:>18}", i, letter(config.kinds[i]), local ? count_text(config.window) : "all",
                 count_text(static_cast<int64_t>(local ? config.rope_base_local : config.rope_base_global)), count_text(n.layers[i]),
                 bytes_text(cache_bytes_per_token(config)), bytes_text(cache_bytes(config, config.kinds[i], length)));
  }
  console.line("{:>5}  {:<4} {:>9} {:>12} {:>14} {:>12} {:>18}", "all", "", "", "", count_text(n.total()),
               bytes_text(config.kv_bytes_per_token(cache_element_bytes)), bytes_text(cache_bytes(config, length)));
}

void ModelTable::print_parameters(Console& console, bool each) const {
  const Counts n(config, rank);
  const auto row = [&](const char* name, int64_t v) {
    console.line("{:<24} {:>16} {:>6.1f} %", name, count_text(v), 100.0 * static_cast<double>(v) / static_cast<double>(n.total()));
  };
  row("embedding (and head)", n.embedding);
  row("attention", n.attention);
  row("feed-forward", n.feed_forward);
  row("norms", n.norms);
  row("parameters", n.total());
  if (!each) return;
  console.line();
  std::vector<std::pair<std::string, std::pair<Shape, int64_t>>> kinds;  // layers folded
  for (const WeightShape& w : weights_of(config)) {
    std::string name = w.name;
    if (layer_of(name) >= 0) name = "layers.*" + name.substr(name.find('.', 7));
    const auto it = std::find_if(kinds.begin(), kinds.end(), [&](const auto& k) { return k.first == name && k.second.first == w.shape; });
    if (it == kinds.end()) kinds.push_back({name, {w.shape, 1}});
    else ++it->second.second;
  }
  for (const auto& [name, k] : kinds)
    console.line("{:<44} {:<16} x {:<3} {:>14}", name, to_string(k.first), k.second, count_text(k.first.numel() * k.second));
}

void ModelTable::print_memory(Console& console) const {
  const Counts n(config, rank);
  const int64_t length = tokens_of(*this), cache = cache_bytes(config, length), total = n.total();
  const bool has_local = std::find(config.kinds.begin(), config.kinds.end(), LayerKind::local) != config.kinds.end();
  console.line("keys and values: {} per token in bf16; {} for {} tokens{}", bytes_text(config.kv_bytes_per_token(cache_element_bytes)), bytes_text(cache),
               count_text(length), has_local ? " (local layers keep their window)" : "");
  console.line("\nmemory without activations       f32 weights   bf16 weights");
  const auto memory = [&](const std::string& name, int64_t f32, int64_t bf16) { console.line("{:<32} {:>11} {:>14}", name, bytes_text(f32), bytes_text(bf16)); };
  memory("inference, with that cache", 4 * total + cache, 2 * total + cache);
  // Gradients and both moments of AdamW are f32 whatever the weights are; bf16 weights add an f32 master copy.
  memory("full training, AdamW", 16 * total, 18 * total);
  memory(fmt::format("LoRA rank {}, {} values", rank, count_text(n.lora)), 4 * total + 16 * n.lora, 2 * total + 16 * n.lora);
}

nlohmann::ordered_json ModelTable::json(bool layers, bool each_weight) const {
  const Counts n(config, rank);
  const int64_t length = tokens_of(*this);
  nlohmann::ordered_json out{{"layers", config.layers}, {"kinds", layer_row(config)}, {"parameters", n.total()}, {"embedding", n.embedding},
                             {"attention", n.attention}, {"feed_forward", n.feed_forward}, {"norms", n.norms},
                             {"kv_bytes_per_token", config.kv_bytes_per_token(cache_element_bytes)}, {"context", length},
                             {"cache_bytes", cache_bytes(config, length)}, {"lora_parameters", n.lora}};
  if (layers)
    for (size_t i = 0; i < config.kinds.size(); ++i) {
      const bool local = config.kinds[i] == LayerKind::local;
      out["table"].push_back({{"layer", i}, {"kind", letter(config.kinds[i])}, {"sees", local ? nlohmann::ordered_json(config.window) : nlohmann::ordered_json("all")},
                              {"rope_base", local ? config.rope_base_local : config.rope_base_global}, {"parameters", n.layers[i]},
                              {"kv_bytes_per_token", cache_bytes_per_token(config)}, {"cache_bytes", cache_bytes(config, config.kinds[i], length)}});
    }
  if (each_weight)
    for (const WeightShape& w : weights_of(config)) out["weights"].push_back({{"name", w.name}, {"shape", std::vector<int64_t>(w.shape.begin(), w.shape.end())}});
  return out;
}

}  // namespace facet::app

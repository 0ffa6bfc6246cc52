// What distinguishes one Gemma from another. A size is a constant; Gemma 1, 2 and 3 are settings of the same block.
// Sources: google-deepmind/gemma gm/nn/_gemma.py, _config.py; transformers configuration_gemma3.py.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace facet {

enum class LayerKind : uint8_t { local, global };

struct GemmaConfig {
  std::string name;      ///< "gemma3-270m"; empty when read from a file
  int generation = 3;    ///< 1, 2 or 3: decides names and defaults in checkpoint files, never the arithmetic
  int64_t vocab = 0;     ///< V
  int64_t width = 0;     ///< D
  int64_t layers = 0;    ///< L
  int64_t heads = 0;     ///< H
  int64_t kv_heads = 0;  ///< K
  int64_t head_dim = 0;  ///< Dh; never derived as D / H
  int64_t hidden = 0;    ///< F
  int64_t window = 0;    ///< W of local layers: a token sees W positions including its own
  std::vector<LayerKind> kinds;      ///< one per layer
  double rope_base_local = 10'000;
  double rope_base_global = 1'000'000;
  double rope_factor_global = 1;     ///< linear scaling: positions are divided by it, on global layers only
  double query_scale_denominator = 256;  ///< scores are multiplied by its inverse square root
  double attention_cap = 0;          ///< cap * tanh(score / cap); 0: none (Gemma 2: 50)
  double final_cap = 0;              ///< the same for the logits (Gemma 2: 30)
  bool qk_norm = true;               ///< RMSNorm on each query and key head (Gemma 3)
  bool tied_head = true;             ///< logits are products with the embedding table; false: with a table of their own
  bool post_norms = true;            ///< norms after attention and feed-forward too (Gemma 2, 3)
  double norm_eps = 1e-6;
  int64_t context = 32768;           ///< positions the model was made for
  double init_std = 0.02;
  int32_t pad = 0, eos = 1, bos = 2;
  std::vector<int32_t> stop = {1, 106};  ///< tokens that end a generation

  double query_scale() const;                ///< query_scale_denominator^-0.5
  int64_t count_parameters() const;          ///< a tied table once
  int64_t kv_bytes_per_token(int64_t bytes_per_element) const;
  /// Throws Error(Kind::usage) naming the field, what was expected and what was found.
  void check() const;
};

/// Layer kinds of a repeating pattern: every `period`-th layer (counting from 1) is global; 0: all global.
std::vector<LayerKind> pattern(int64_t layers, int64_t period);
/// The period of such a pattern, more than the layers when none is global; 0 when the layers follow no pattern.
int64_t period_of(const std::vector<LayerKind>&);

/// "gemma3-270m", "gemma3-1b", ..., "tiny"; throws naming the nearest when unknown.
const GemmaConfig& preset(const std::string& name);
std::vector<std::string> preset_names();

/// Overrides one field by its name ("sliding_window", "rms_norm_eps": the spelling of config.json), as `--set model.KEY=VALUE`
/// does; throws naming the nearest key.
void set_field(GemmaConfig&, const std::string& key, const std::string& value);

}  // namespace facet

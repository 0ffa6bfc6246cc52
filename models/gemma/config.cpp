#include "models/gemma/config.h"

#include <charconv>
#include <cmath>

#include "tensor/error.h"
#include "tensor/io/text.h"

namespace facet {

std::vector<LayerKind> pattern(int64_t layers, int64_t period) {
  std::vector<LayerKind> kinds(static_cast<size_t>(layers), LayerKind::local);
  for (int64_t i = 0; i < layers; ++i)
    if (period <= 0 || (i + 1) % period == 0) kinds[static_cast<size_t>(i)] = LayerKind::global;
  return kinds;
}

int64_t period_of(const std::vector<LayerKind>& kinds) {
  const int64_t n = static_cast<int64_t>(kinds.size());
  for (int64_t period = 1; period <= n; ++period)
    if (kinds[static_cast<size_t>(period - 1)] == LayerKind::global) return pattern(n, period) == kinds ? period : 0;
  return n + 1;  // no global layer among these
}

double GemmaConfig::query_scale() const { return 1 / std::sqrt(query_scale_denominator); }

int64_t GemmaConfig::count_parameters() const {
  const int64_t attention = 2 * width * head_dim * (heads + kv_heads) + (qk_norm ? 2 * head_dim : 0);
  const int64_t block = attention + 3 * width * hidden + (post_norms ? 4 : 2) * width;
  return (tied_head ? 1 : 2) * vocab * width + layers * block + width;
}

int64_t GemmaConfig::kv_bytes_per_token(int64_t bytes_per_element) const {
  return 2 * layers * kv_heads * head_dim * bytes_per_element;
}

// ---- sizes

namespace {

struct Size {
  const char* name;
  int64_t layers, width, heads, kv_heads, head_dim, hidden;
};

GemmaConfig sized(const Size& s) {
  GemmaConfig c;
  c.name = s.name;
  c.layers = s.layers;
  c.width = s.width;
  c.heads = s.heads;
  c.kv_heads = s.kv_heads;
  c.head_dim = s.head_dim;
  c.hidden = s.hidden;
  return c;
}

GemmaConfig gemma1(const Size& s) {
  GemmaConfig c = sized(s);
  c.generation = 1;
  c.vocab = 256'000;
  c.kinds = pattern(s.layers, 0);
  c.rope_base_global = 10'000;
  c.qk_norm = c.post_norms = false;
  c.context = 8192;
  c.stop = {1, 107};
  return c;
}

GemmaConfig gemma2(const Size& s, double denominator = 256) {
  GemmaConfig c = gemma1(s);
  c.generation = 2;
  c.kinds = pattern(s.layers, 2);
  c.window = 4096;
  c.query_scale_denominator = denominator;
  c.attention_cap = 50;
  c.final_cap = 30;
  c.post_norms = true;
  return c;
}

GemmaConfig gemma3(const Size& s, int64_t window, double factor, int64_t context, double denominator = 256) {
  GemmaConfig c = sized(s);
  c.vocab = 262'144;
  c.kinds = pattern(s.layers, 6);
  c.window = window;
  c.rope_factor_global = factor;
  c.context = context;
  c.query_scale_denominator = denominator;
  return c;
}

// Sizes for models made here: a vocabulary of one's own, one global layer in three. The tiny one learns a small task in minutes on two
// cores and has every feature of Gemma 3 in three layers.
GemmaConfig own(GemmaConfig c) {
  c.vocab = 512;
  c.kinds = pattern(c.layers, 3);
  c.stop = {1};
  return c;
}

const std::vector<GemmaConfig>& presets() {
  static const std::vector<GemmaConfig> list = {
      own(gemma3({"tiny", 3, 96, 4, 1, 24, 256}, 64, 1, 512, 24)),
      own(gemma3({"small", 6, 256, 4, 1, 64, 1024}, 128, 1, 1024, 64)),
      gemma3({"gemma3-270m", 18, 640, 4, 1, 256, 2048}, 512, 1, 32'768),
      gemma3({"gemma3-1b", 26, 1152, 4, 1, 256, 6912}, 512, 1, 32'768),
      gemma3({"gemma3-4b", 34, 2560, 8, 4, 256, 10'240}, 1024, 8, 131'072),
      gemma3({"gemma3-12b", 48, 3840, 16, 8, 256, 15'360}, 1024, 8, 131'072),
      gemma3({"gemma3-27b", 62, 5376, 32, 16, 128, 21'504}, 1024, 8, 131'072, 168),  // 168 = 5376 / 32
      gemma2({"gemma2-2b", 26, 2304, 8, 4, 256, 9216}),
      gemma2({"gemma2-9b", 42, 3584, 16, 8, 256, 14'336}),
      gemma2({"gemma2-27b", 46, 4608, 32, 16, 128, 36'864}, 144),  // 144 = 4608 / 32
      gemma1({"gemma1-2b", 18, 2048, 8, 1, 256, 16'384}),
      gemma1({"gemma1-7b", 28, 3072, 16, 16, 256, 24'576}),
  };
  return list;
}

[[noreturn]] void unknown(const char* what, const std::string& name, const std::vector<std::string>& names) {
  const std::string close = nearest(name, names);
  fail(Kind::usage, "{} \"{}\" is unknown{}; there are {}", what, printable(name), close.empty() ? "" : ", did you mean " + close + "?",
       fmt::join(names, ", "));
}

}  // namespace

std::vector<std::string> preset_names() {
  std::vector<std::string> names;
  for (const GemmaConfig& c : presets()) names.push_back(c.name);
  return names;
}

const GemmaConfig& preset(const std::string& name) {
  for (const GemmaConfig& c : presets())
    if (c.name == name) return c;
  unknown("preset", name, preset_names());
}

// ---- fields

namespace {

// A number of the config under its key in config.json, with the range we accept.
struct Field {
  const char* key;
  int64_t GemmaConfig::*whole = nullptr;
  double GemmaConfig::*real = nullptr;
  int32_t GemmaConfig::*id = nullptr;
  double least = 0, most = 0;
};

constexpr double million = 1e6;
const Field fields[] = {
    {.key = "vocab_size", .whole = &GemmaConfig::vocab, .least = 2, .most = million},
    {.key = "hidden_size", .whole = &GemmaConfig::width, .least = 1, .most = 65'536},
    {.key = "num_hidden_layers", .whole = &GemmaConfig::layers, .least = 1, .most = 512},
    {.key = "num_attention_heads", .whole = &GemmaConfig::heads, .least = 1, .most = 1024},
    {.key = "num_key_value_heads", .whole = &GemmaConfig::kv_heads, .least = 1, .most = 1024},
    {.key = "head_dim", .whole = &GemmaConfig::head_dim, .least = 2, .most = 512},
    {.key = "intermediate_size", .whole = &GemmaConfig::hidden, .least = 1, .most = million},
    {.key = "sliding_window", .whole = &GemmaConfig::window, .least = 0, .most = 1e8},
    {.key = "max_position_embeddings", .whole = &GemmaConfig::context, .least = 1, .most = 1e8},
    {.key = "rope_local_base_freq", .real = &GemmaConfig::rope_base_local, .least = 1, .most = 1e12},
    {.key = "rope_theta", .real = &GemmaConfig::rope_base_global, .least = 1, .most = 1e12},
    {.key = "rope_factor", .real = &GemmaConfig::rope_factor_global, .least = 1, .most = 1e4},
    {.key = "query_pre_attn_scalar", .real = &GemmaConfig::query_scale_denominator, .least = 1e-3, .most = 1e6},
    {.key = "attn_logit_softcapping", .real = &GemmaConfig::attention_cap, .least = 0, .most = 1e6},
    {.key = "final_logit_softcapping", .real = &GemmaConfig::final_cap, .least = 0, .most = 1e6},
    {.key = "rms_norm_eps", .real = &GemmaConfig::norm_eps, .least = 1e-12, .most = 1e-2},
    {.key = "initializer_range", .real = &GemmaConfig::init_std, .least = 0, .most = 10},
    {.key = "pad_token_id", .id = &GemmaConfig::pad, .least = -1, .most = million},
    {.key = "eos_token_id", .id = &GemmaConfig::eos, .least = -1, .most = million},
    {.key = "bos_token_id", .id = &GemmaConfig::bos, .least = -1, .most = million},
};

double get(const GemmaConfig& c, const Field& f) {
  return f.whole ? static_cast<double>(c.*f.whole) : f.id ? c.*f.id : c.*f.real;
}

}  // namespace

void set_field(GemmaConfig& c, const std::string& key, const std::string& value) {
  std::vector<std::string> names = {"sliding_window_pattern"};
  double v = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), v);
  const bool number = error == std::errc() && end == value.data() + value.size() && std::isfinite(v);
  const auto whole = [&](double least, double most) {
    if (!number || v != std::floor(v) || v < least || v > most)
      fail(Kind::usage, "config: {}: expected a whole number from {} to {}, found \"{}\"", key, least, most, printable(value));
    return static_cast<int64_t>(v);
  };
  if (key == "sliding_window_pattern") {
    c.kinds = pattern(c.layers, whole(0, 513));
    return;
  }
  for (const Field& f : fields) {
    names.push_back(f.key);
    if (key != f.key) continue;
    if (f.real) {
      if (!number || v < f.least || v > f.most)
        fail(Kind::usage, "config: {}: expected a number from {} to {}, found \"{}\"", key, f.least, f.most, printable(value));
      c.*f.real = v;
      return;
    }
    const int64_t n = whole(f.least, f.most);
    if (f.id) {
      c.*f.id = static_cast<int32_t>(n);
      return;
    }
    if (f.whole == &GemmaConfig::layers) {
      const int64_t period = period_of(c.kinds);
      if (period == 0 && n > c.layers)
        fail(Kind::usage, "config: {}: the {} layers follow no pattern that could be continued to {}", key, c.layers, n);
      if (period == 0) c.kinds.resize(static_cast<size_t>(n));
      else c.kinds = pattern(n, period);
    }
    c.*f.whole = n;
    return;
  }
  unknown("config field", key, names);
}

void GemmaConfig::check() const {
  for (const Field& f : fields) {
    const double v = get(*this, f);
    if (!(v >= f.least && v <= f.most)) fail(Kind::usage, "config: {}: expected {} to {}, found {}", f.key, f.least, f.most, v);
  }
  // What a file says so is taken for a mistake: no released Gemma 3 has one, and it would be another model.
  for (const auto& [key, cap] : {std::pair("attn_logit_softcapping", attention_cap), std::pair("final_logit_softcapping", final_cap)})
    if (generation == 3 && cap > 0)
      fail(Kind::usage, "config: {} {}: Gemma 3 has no soft-caps, it norms queries and keys instead; leave it out (Gemma 2 has them)", key, cap);
  if (heads % kv_heads != 0)
    fail(Kind::usage, "config: num_attention_heads {} must be a multiple of num_key_value_heads {}", heads, kv_heads);
  if (head_dim % 2 != 0) fail(Kind::usage, "config: head_dim must be even for RoPE, found {}", head_dim);
  if (static_cast<int64_t>(kinds.size()) != layers)
    fail(Kind::usage, "config: layer_types lists {} layers, num_hidden_layers is {}", kinds.size(), layers);
  for (LayerKind k : kinds)
    if (k == LayerKind::local && window < 1) fail(Kind::usage, "config: sliding_window: expected at least 1, found {}", window);
  for (int32_t id : {pad, eos, bos})
    if (id >= vocab) fail(Kind::usage, "config: token id {} is outside the vocabulary of {}", id, vocab);
}

}  // namespace facet

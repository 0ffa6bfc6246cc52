#include "models/gemma/hf_config.h"

#include <cmath>
#include <filesystem>

#include "tensor/io/file.h"
#include "tensor/io/json.h"
#include "tensor/io/text.h"

namespace facet {

namespace {

// What a released config.json may leave out: the defaults of the configuration class, which are those of no released Gemma 3.
GemmaConfig class_defaults(int generation) {
  GemmaConfig c = preset(generation == 1 ? "gemma1-7b" : "gemma2-2b");
  c.name.clear();
  if (generation < 3) return c;
  c.generation = 3;
  c.vocab = 262'208;
  c.rope_base_global = 1'000'000;
  c.attention_cap = c.final_cap = 0;
  c.qk_norm = true;
  c.context = 131'072;
  c.kinds = pattern(c.layers, 6);
  return c;
}

struct Architecture {
  const char* model_type;
  const char* name;
  int generation;
};
constexpr Architecture architectures[] = {{"gemma", "GemmaForCausalLM", 1},
                                          {"gemma2", "Gemma2ForCausalLM", 2},
                                          {"gemma3_text", "Gemma3ForCausalLM", 3},
                                          {"gemma3", "Gemma3ForConditionalGeneration", 3}};

class Reader {
 public:
  Reader(const Json& root, const std::string& where) : root_(root), where_(where) {}

  GemmaConfig run() {
    if (!root_.is_object()) fail(Kind::file, "{}: expected an object, found {}", where_, type_name(root_));
    const int generation = find_generation();
    if (root_.contains("text_config")) {
      if (!root_["text_config"].is_object()) wrong("text_config", "an object");
      json_ = &root_["text_config"];
    } else {
      json_ = &root_;
    }
    c_ = class_defaults(generation);
    number("vocab_size", c_.vocab);
    number("hidden_size", c_.width);
    number("num_hidden_layers", c_.layers);
    number("num_attention_heads", c_.heads);
    number("num_key_value_heads", c_.kv_heads);
    number("head_dim", c_.head_dim);
    number("intermediate_size", c_.hidden);
    number("max_position_embeddings", c_.context);
    number("rms_norm_eps", c_.norm_eps);
    number("initializer_range", c_.init_std);
    number("pad_token_id", c_.pad);
    number("bos_token_id", c_.bos);
    if (generation > 1) {
      number("sliding_window", c_.window);
      number("query_pre_attn_scalar", c_.query_scale_denominator);
      cap("attn_logit_softcapping", c_.attention_cap);
      cap("final_logit_softcapping", c_.final_cap);
    } else {
      c_.query_scale_denominator = static_cast<double>(c_.head_dim);
    }
    // The converter wrote 3584 / 16 into Gemma 2 9B; the model was trained with 256 (transformers issue 31891).
    if (generation == 2 && c_.width == 3584 && c_.query_scale_denominator == 224) c_.query_scale_denominator = 256;
    tie();
    stop_tokens();
    layer_kinds();
    rope();
    refuse_what_is_not_computed();
    try {
      c_.check();
    } catch (const Error& e) {
      fail(Kind::file, "{}: {}", where_, e.what());
    }
    return c_;
  }

 private:
  [[noreturn]] void wrong(const char* key, const char* expected) const {
    const Json& v = json_ && json_->contains(key) ? (*json_)[key] : root_[key];
    fail(Kind::file, "{}: \"{}\" must be {}, found {}", where_, key, expected, printable(v.dump(-1, ' ', false, Json::error_handler_t::replace), 60));
  }
  // The value under a key; null when it is absent. An explicit null counts as absent except where a caller looks.
  const Json* find(const char* key) const {
    const auto at = json_->find(key);
    return at == json_->end() || at->is_null() ? nullptr : &*at;
  }
  template <class T>
  void number(const char* key, T& to) const {
    const Json* v = find(key);
    if (!v) return;
    if constexpr (std::is_floating_point_v<T>) {
      if (!v->is_number()) wrong(key, "a number");
      to = v->get<T>();
    } else {
      // Some files hold whole numbers as 256.0.
      const double d = v->is_number() ? v->get<double>() : 0.5;
      if (d != std::floor(d) || std::abs(d) > 1e9) wrong(key, "a whole number");
      to = static_cast<T>(d);
    }
  }
  void cap(const char* key, double& to) const {
    if (json_->contains(key) && (*json_)[key].is_null()) to = 0;
    else number(key, to);
  }
  std::string text(const Json& at, const char* key) const {
    const auto v = at.find(key);
    return v != at.end() && v->is_string() ? v->get<std::string>() : std::string();
  }

  int find_generation() const {
    const std::string type = text(root_, "model_type");
    std::string architecture;
    if (const auto v = root_.find("architectures"); v != root_.end() && v->is_array() && v->size() == 1 && v->front().is_string())
      architecture = v->front().get<std::string>();
    for (const Architecture& a : architectures)
      if (type == a.model_type && (architecture.empty() || architecture == a.name)) return a.generation;
    for (const Architecture& a : architectures)
      if (type.empty() && architecture == a.name) return a.generation;
    std::vector<std::string> names;
    for (const Architecture& a : architectures) names.push_back(fmt::format("{} ({})", a.name, a.model_type));
    fail(Kind::file, "{}: architecture \"{}\" with model_type \"{}\" is not supported; supported: {}", where_, printable(architecture),
         printable(type), fmt::join(names, ", "));
  }

  // Models with an image tower say it outside of text_config.
  void tie() {
    for (const Json* at : {json_, &root_})
      if (const auto v = at->find("tie_word_embeddings"); v != at->end() && !v->is_null()) {
        if (!v->is_boolean()) wrong("tie_word_embeddings", "true or false");
        c_.tied_head = v->get<bool>();
      }
  }

  void stop_tokens() {
    const Json* v = find("eos_token_id");
    std::vector<int32_t> ids = {c_.eos};
    if (v) {
      const Json list = v->is_array() ? *v : Json::array({*v});
      ids.clear();
      for (const Json& id : list) {
        if (!id.is_number_integer() || id.get<double>() < 0 || id.get<double>() > 1e6) wrong("eos_token_id", "a token id or a list of them");
        ids.push_back(id.get<int32_t>());
      }
      if (ids.empty()) wrong("eos_token_id", "a token id or a list of them");
    }
    c_.eos = ids.front();
    // Chat models end a turn with <end_of_turn>, which config.json does not mention; small vocabularies are not Gemma's own.
    const int32_t end_of_turn = c_.generation == 3 ? 106 : 107;
    if (ids.size() == 1 && c_.vocab >= 256'000) ids.push_back(end_of_turn);
    c_.stop = ids;
  }

  void layer_kinds() {
    const Json* types = find("layer_types");
    if (!types) {
      int64_t period = c_.generation == 1 ? 0 : c_.generation == 2 ? 2 : 6;
      if (c_.generation == 3) number("sliding_window_pattern", period), number("_sliding_window_pattern", period);
      if (c_.layers < 1 || c_.layers > 512 || period < 0) return;  // check() names the field
      c_.kinds = pattern(c_.layers, period);
      return;
    }
    if (!types->is_array() || types->size() > 512) wrong("layer_types", "a list of at most 512 layer types");
    c_.kinds.clear();
    for (const Json& t : *types) {
      if (t == "sliding_attention") c_.kinds.push_back(LayerKind::local);
      else if (t == "full_attention") c_.kinds.push_back(LayerKind::global);
      else fail(Kind::file, "{}: layer_types: expected \"sliding_attention\" or \"full_attention\", found {}", where_, printable(t.dump(), 60));
    }
  }

  // One entry of rope_parameters, or the old rope_scaling.
  void rope_entry(const Json& r, const char* key, double& base, double* factor) const {
    if (!r.is_object()) wrong(key, "an object");
    if (const auto v = r.find("rope_theta"); v != r.end()) {
      if (!v->is_number()) wrong(key, "an object with the number \"rope_theta\"");
      base = v->get<double>();
    }
    std::string type = text(r, "rope_type");
    if (type.empty()) type = text(r, "type");
    if (type.empty() || type == "default") return;
    const auto v = r.find("factor");
    if (type != "linear" || v == r.end() || !v->is_number())
      fail(Kind::file, "{}: {}: RoPE type \"{}\" is not supported; supported: default, linear with a factor", where_, key, printable(type));
    if (factor) *factor = v->get<double>();
    else if (v->get<double>() != 1) fail(Kind::file, "{}: {}: a linear factor is supported on global layers only", where_, key);
  }

  void rope() {
    const bool mixed = c_.generation == 2;  // both kinds of layers share one base, and no factor
    double* factor = mixed ? nullptr : &c_.rope_factor_global;
    number("rope_theta", c_.rope_base_global);
    number("rope_local_base_freq", c_.rope_base_local);
    if (const Json* r = find("rope_scaling")) rope_entry(*r, "rope_scaling", c_.rope_base_global, factor);
    if (const Json* r = find("rope_parameters")) {
      const auto global = r->find("full_attention"), local = r->find("sliding_attention");
      if (!r->is_object() || (global == r->end() && local == r->end())) {
        rope_entry(*r, "rope_parameters", c_.rope_base_global, factor);
      } else {
        if (global != r->end()) rope_entry(*global, "rope_parameters", c_.rope_base_global, factor);
        if (local != r->end()) rope_entry(*local, "rope_parameters", c_.rope_base_local, nullptr);
      }
    }
    if (mixed) c_.rope_base_local = c_.rope_base_global;
  }

  void refuse_what_is_not_computed() const {
    const auto off = [&](const char* key, bool expected) {
      const Json* v = find(key);
      if (v && *v != expected)
        fail(Kind::file, "{}: \"{}\": {} is supported, found {}", where_, key, expected, printable(v->dump(), 60));
    };
    off("attention_bias", false);
    off("use_bidirectional_attention", false);
    // Gemma 1 files say "gelu"; every implementation computes the tanh form whatever they say.
    const std::string act = text(*json_, "hidden_activation");
    if (!act.empty() && act != "gelu_pytorch_tanh" && c_.generation > 1)
      fail(Kind::file, "{}: \"hidden_activation\": \"gelu_pytorch_tanh\" is supported, found \"{}\"", where_, printable(act, 60));
  }

  const Json& root_;
  const std::string& where_;
  const Json* json_ = nullptr;
  GemmaConfig c_;
};

std::string in(const std::string& folder, const char* file) { return (std::filesystem::path(folder) / file).string(); }

bool exists(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

[[noreturn]] void no_config(const std::string& folder) {
  if (exists(in(folder, "adapter_config.json")))
    fail(Kind::file, "{}: holds an adapter, not a model; facet merge makes a model of it and its base; where there is --adapter, it goes there",
         folder);
  const std::string final_folder = in(folder, "final");
  const bool run = exists(in(final_folder, "config.json")) || exists(in(final_folder, "adapter_config.json"));
  fail(Kind::file, "model: no config.json in {}; expected a Hugging Face model folder{}", folder,
       run ? fmt::format("; did you mean {}?", final_folder) : "");
}

constexpr const char* schema_version = "5.23.0";  // of transformers; readers choose the schema by it

Json id_list(const std::vector<int32_t>& ids, int32_t otherwise) {
  if (ids.empty()) return otherwise;
  return ids.size() == 1 ? Json(ids[0]) : Json(ids);
}

}  // namespace

GemmaConfig parse_hf_config(std::string_view json, const std::string& where) {
  const Json root = parse_json(json, where);
  return Reader(root, where).run();
}

GemmaConfig read_hf_config(const std::string& folder) {
  const std::string path = in(folder, "config.json");
  if (!exists(path)) no_config(folder);
  GemmaConfig c = parse_hf_config(read_file(path), path);
  const GenerationConfig g = read_generation_config(folder);
  if (!g.stop.empty()) c.stop = g.stop;
  return c;
}

GenerationConfig read_generation_config(const std::string& folder) {
  GenerationConfig g;
  const std::string path = in(folder, "generation_config.json");
  if (!exists(path)) return g;
  const Json j = read_json(path);
  if (!j.is_object()) fail(Kind::file, "{}: expected an object, found {}", path, type_name(j));
  const auto number = [&](const char* key, double least, double most, double otherwise) {
    const auto v = j.find(key);
    if (v == j.end() || v->is_null()) return otherwise;
    const double d = v->is_number() ? v->get<double>() : most + 1;
    if (!(d >= least && d <= most))
      fail(Kind::file, "{}: \"{}\" must be {} to {}, found {}", path, key, least, most, printable(v->dump(), 60));
    return d;
  };
  if (const auto v = j.find("do_sample"); v != j.end() && v->is_boolean()) g.do_sample = v->get<bool>();
  g.temperature = number("temperature", 0, 1000, g.temperature);
  g.top_k = static_cast<int64_t>(number("top_k", 0, 1e6, static_cast<double>(g.top_k)));
  g.top_p = number("top_p", 0, 1, g.top_p);
  if (const auto v = j.find("eos_token_id"); v != j.end() && !v->is_null()) {
    const Json list = v->is_array() ? *v : Json::array({*v});
    for (const Json& id : list) {
      if (!id.is_number_integer() || id.get<double>() < 0 || id.get<double>() > 1e6)
        fail(Kind::file, "{}: \"eos_token_id\" must be a token id or a list of them, found {}", path, printable(v->dump(), 60));
      g.stop.push_back(id.get<int32_t>());
    }
  }
  return g;
}

std::string hf_config_json(const GemmaConfig& c, DType stored) {
  c.check();
  const Architecture& a = architectures[c.generation - 1];
  Json types = Json::array();
  for (LayerKind k : c.kinds) types.push_back(k == LayerKind::local ? "sliding_attention" : "full_attention");
  const auto optional = [](double v) { return v > 0 ? Json(v) : Json(nullptr); };
  // Keys whose value is a whole number are written as one, as the reference does.
  const auto plain = [](double v) { return v == std::floor(v) ? Json(static_cast<int64_t>(v)) : Json(v); };
  const auto rope = [](double base, double factor) {
    Json r = {{"rope_theta", base}, {"rope_type", factor == 1 ? "default" : "linear"}};
    if (factor != 1) r["factor"] = factor;
    return r;
  };
  Json j = {{"architectures", {a.name}},
            {"attention_bias", false},
            {"attention_dropout", 0.0},
            {"bos_token_id", c.bos},
            {"dtype", stored == DType::bf16 ? "bfloat16" : stored == DType::f64 ? "float64" : "float32"},
            {"eos_token_id", c.eos},
            {"head_dim", c.head_dim},
            {c.generation == 1 ? "hidden_act" : "hidden_activation", "gelu_pytorch_tanh"},
            {"hidden_size", c.width},
            {"initializer_range", c.init_std},
            {"intermediate_size", c.hidden},
            {"max_position_embeddings", c.context},
            {"model_type", a.model_type},
            {"num_attention_heads", c.heads},
            {"num_hidden_layers", c.layers},
            {"num_key_value_heads", c.kv_heads},
            {"pad_token_id", c.pad},
            {"rms_norm_eps", c.norm_eps},
            {"tie_word_embeddings", c.tied_head},
            {"transformers_version", schema_version},
            {"use_bidirectional_attention", nullptr},
            {"use_cache", true},
            {"vocab_size", c.vocab}};
  if (c.generation > 1) {
    j["attn_logit_softcapping"] = optional(c.attention_cap);
    j["final_logit_softcapping"] = optional(c.final_cap);
    j["layer_types"] = types;
    j["query_pre_attn_scalar"] = plain(c.query_scale_denominator);
    j["sliding_window"] = c.window;
  }
  if (c.generation == 3) {
    const int64_t period = period_of(c.kinds);
    if (period > 0) j["_sliding_window_pattern"] = period > c.layers ? 6 : period;
    j["use_bidirectional_attention"] = false;
    j["rope_parameters"] = {{"full_attention", rope(c.rope_base_global, c.rope_factor_global)},
                            {"sliding_attention", rope(c.rope_base_local, 1)}};
  } else {
    j["rope_parameters"] = rope(c.rope_base_global, c.rope_factor_global);
  }
  return j.dump(2) + "\n";
}

std::string generation_config_json(const GemmaConfig& c, const GenerationConfig& g) {
  Json j = {{"bos_token_id", c.bos},    {"do_sample", g.do_sample},
            {"eos_token_id", id_list(g.stop.empty() ? c.stop : g.stop, c.eos)},
            {"pad_token_id", c.pad},    {"top_k", g.top_k},
            {"top_p", g.top_p},         {"transformers_version", schema_version}};
  if (g.temperature != 1) j["temperature"] = g.temperature;
  return j.dump(2) + "\n";
}

}  // namespace facet

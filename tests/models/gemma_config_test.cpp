// Sizes, config.json in both schemas, and what is refused.
#include <catch2/catch.hpp>
#include <cmath>

#include "models/gemma/hf_config.h"
#include "tensor/error.h"
#include "tensor/io/file.h"
#include "tensor/io/json.h"
#include "tests/support/temp_folder.h"

using namespace facet;
using Catch::Matchers::Contains;

namespace {

const std::string goldens = FACET_GOLDENS;

GemmaConfig changed(const std::string& golden, const std::function<void(Json&)>& change) {
  Json j = read_json(goldens + "/" + golden + "/config.json");
  change(j);
  return parse_hf_config(j.dump(), "config.json");
}

bool same(GemmaConfig a, GemmaConfig b) {
  const auto tie = [](const GemmaConfig& c) {
    return std::tie(c.generation, c.vocab, c.width, c.layers, c.heads, c.kv_heads, c.head_dim, c.hidden, c.window, c.kinds,
                    c.rope_base_local, c.rope_base_global, c.rope_factor_global, c.query_scale_denominator, c.attention_cap,
                    c.final_cap, c.qk_norm, c.post_norms, c.norm_eps, c.context, c.pad, c.eos, c.bos, c.stop);
  };
  return tie(a) == tie(b);
}

}  // namespace

TEST_CASE("gemma config: parameter counts of every released size", "[config]") {
  const std::pair<const char*, int64_t> counts[] = {
      {"gemma1-2b", 2'506'172'416},   {"gemma1-7b", 8'537'680'896},   {"gemma2-2b", 2'614'341'888},   {"gemma2-9b", 9'241'705'984},
      {"gemma2-27b", 27'227'128'320}, {"gemma3-270m", 268'098'176},   {"gemma3-1b", 999'885'952},     {"gemma3-4b", 3'880'099'328},
      {"gemma3-12b", 11'765'788'416}, {"gemma3-27b", 27'009'002'240}, {"tiny", 291'696 + 512 * 96},
      {"small", 6 * 951'424 + 256 + 512 * 256}};
  CHECK(preset_names().size() == std::size(counts));
  for (const auto& [name, n] : counts) {
    INFO(name);
    CHECK(preset(name).count_parameters() == n);
    CHECK_NOTHROW(preset(name).check());
  }
  CHECK(preset("gemma3-270m").count_parameters() - 262'144 * 640 == 100'326'016);
  CHECK(preset("gemma3-1b").kinds.back() == LayerKind::local);  // 26 layers end on a local one
  CHECK(preset("gemma3-1b").kinds[5] == LayerKind::global);
  CHECK(preset("gemma3-12b").kinds[47] == LayerKind::global);
  CHECK(preset("gemma2-2b").kinds[0] == LayerKind::local);
  CHECK(preset("gemma2-2b").kinds[1] == LayerKind::global);
  CHECK(preset("gemma3-27b").query_scale() == Approx(0.0771516749810459));
  CHECK(preset("gemma2-27b").query_scale() == Approx(1 / std::sqrt(4608.0 / 32)));
  for (const char* name : {"gemma1-7b", "gemma2-9b", "gemma3-12b"}) CHECK(preset(name).query_scale() == Approx(1.0 / 16));
  CHECK(preset("gemma3-1b").kv_bytes_per_token(2) == 2 * 26 * 256 * 2);
  CHECK_THROWS_WITH(preset("gemma3-2b"), Contains("did you mean gemma"));
}

TEST_CASE("gemma config: files of the real library, read and written", "[config]") {
  const GemmaConfig t = read_hf_config(goldens + "/gemma3-tiny");
  CHECK(t.generation == 3);
  CHECK(t.layers == 7);
  CHECK(t.width == 64);
  CHECK(t.heads == 4);
  CHECK(t.kv_heads == 2);
  CHECK(t.head_dim == 32);
  CHECK(t.hidden == 128);
  CHECK(t.vocab == 512);
  CHECK(t.window == 8);
  CHECK(t.query_scale_denominator == 32);
  CHECK(t.kinds == pattern(7, 6));
  CHECK(t.context == 512);
  CHECK(t.stop == std::vector<int32_t>{1, 10});  // generation_config.json
  const GemmaConfig r = read_hf_config(goldens + "/gemma3-rope8");
  CHECK(r.rope_factor_global == 8);
  CHECK(r.query_scale_denominator == 8);
  CHECK(r.stop == std::vector<int32_t>{1});
  const GemmaConfig g2 = read_hf_config(goldens + "/gemma2-tiny");
  CHECK(g2.attention_cap == 20);
  CHECK(g2.final_cap == 12);
  CHECK(!g2.qk_norm);
  CHECK(g2.post_norms);
  CHECK(g2.kinds == pattern(4, 2));
  CHECK(g2.rope_base_global == 10'000);
  CHECK(g2.rope_base_local == 10'000);
  const GemmaConfig g1 = read_hf_config(goldens + "/gemma1-tiny");
  CHECK(!g1.post_norms);
  CHECK(g1.kinds == pattern(3, 0));
  CHECK(g1.query_scale_denominator == 14);
  CHECK(g1.attention_cap == 0);
  const GemmaConfig v = read_hf_config(goldens + "/siglip-tiny");  // nested text_config
  CHECK(v.width == 32);
  CHECK(v.vocab == 80);
  CHECK(v.rope_factor_global == 8);

  for (const char* name : {"gemma3-tiny", "gemma3-rope8", "gemma2-tiny", "gemma1-tiny"}) {
    INFO(name);
    const std::string folder = goldens + "/" + name;
    const GemmaConfig c = read_hf_config(folder);
    CHECK(hf_config_json(c, c.vocab == 160 ? DType::bf16 : DType::f32) == read_file(folder + "/config.json"));
    CHECK(generation_config_json(c, read_generation_config(folder)) == read_file(folder + "/generation_config.json"));
  }
  for (const std::string& name : preset_names()) {
    INFO(name);
    GemmaConfig again = parse_hf_config(hf_config_json(preset(name), DType::bf16), name), c = preset(name);
    if (c.generation == 1) c.rope_base_local = again.rope_base_local, c.window = again.window;  // of no local layer
    again.stop = c.stop;                                                                         // kept in generation_config.json
    CHECK(same(again, c));
  }
}

TEST_CASE("gemma config: the old schema and class defaults", "[config]") {
  const GemmaConfig c = parse_hf_config(
      R"({"architectures":["Gemma3ForCausalLM"],"model_type":"gemma3_text","hidden_size":1152,"intermediate_size":6912,
          "num_attention_heads":4,"num_key_value_heads":1,"sliding_window":512,"sliding_window_pattern":6,"vocab_size":262144,
          "max_position_embeddings":32768,"rope_theta":1000000,"rope_local_base_freq":10000,"rope_scaling":null,"eos_token_id":[1,106]})",
      "old");
  CHECK(same(c, preset("gemma3-1b")));
  // 4B as published: nested, most keys left out.
  const GemmaConfig b = parse_hf_config(
      R"({"architectures":["Gemma3ForConditionalGeneration"],"model_type":"gemma3","eos_token_id":[1,106],"text_config":{"hidden_size":2560,
          "intermediate_size":10240,"model_type":"gemma3_text","num_hidden_layers":34,"rope_scaling":{"factor":8.0,"rope_type":"linear"},
          "sliding_window":1024},"vision_config":{}})",
      "4b");
  GemmaConfig four = preset("gemma3-4b");
  four.vocab = 262'208;
  CHECK(same(b, four));
  CHECK(parse_hf_config(R"({"model_type":"gemma3_text"})", "x").vocab == 262'208);
  CHECK(parse_hf_config(R"({"model_type":"gemma3_text"})", "x").window == 4096);
  CHECK(parse_hf_config(R"({"model_type":"gemma2"})", "x").attention_cap == 50);
  CHECK(parse_hf_config(R"({"model_type":"gemma2","attn_logit_softcapping":null})", "x").attention_cap == 0);
  CHECK(same(parse_hf_config(R"({"model_type":"gemma2"})", "x"), [] {
    GemmaConfig g = preset("gemma2-2b");
    return g;
  }()));
  CHECK(parse_hf_config(R"({"model_type":"gemma2","rope_theta":5000})", "x").rope_base_local == 5000);
  CHECK(parse_hf_config(R"({"model_type":"gemma2","hidden_size":3584,"query_pre_attn_scalar":224})", "x").query_scale_denominator == 256);
  CHECK(parse_hf_config(R"({"model_type":"gemma","hidden_act":"gelu","hidden_activation":null})", "x").width == 3072);
}

TEST_CASE("gemma config: what is refused", "[config]") {
  const auto refused = [](const char* key, const Json& value, const char* says, const std::string& golden = "gemma3-tiny") {
    INFO(key << " = " << value);
    try {
      changed(golden, [&](Json& j) { j[key] = value; });
      FAIL("accepted");
    } catch (const Error& e) {
      CHECK(e.kind() == Kind::file);
      CHECK_THAT(e.what(), Contains("config.json") && Contains(says));
    }
  };
  refused("architectures", {"LlamaForCausalLM"}, "\"LlamaForCausalLM\" with model_type \"gemma3_text\" is not supported; supported: GemmaForCausalLM");
  refused("model_type", "gemma3n", "not supported");
  for (const char* key : {"num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size",
                          "head_dim", "sliding_window", "max_position_embeddings"})
    for (const Json& bad : {Json(0), Json(-1), Json(1e300), Json(2.5), Json("4"), Json(true), Json::array(), Json::object(), Json(INT64_MAX)})
      refused(key, bad, key[0] == 'n' && bad == 0 ? "num_" : key);
  refused("num_hidden_layers", 513, "num_hidden_layers");
  refused("num_hidden_layers", 8, "layer_types lists 7 layers");
  refused("head_dim", 514, "head_dim");
  refused("head_dim", 31, "even");
  refused("num_key_value_heads", 3, "multiple");
  refused("vocab_size", 1'000'001, "vocab_size");
  refused("bos_token_id", 512, "outside the vocabulary");
  refused("rms_norm_eps", 0, "rms_norm_eps");
  refused("rms_norm_eps", "x", "must be a number");
  refused("query_pre_attn_scalar", 0, "query_pre_attn_scalar");
  refused("attn_logit_softcapping", -1, "attn_logit_softcapping");
  refused("attn_logit_softcapping", 50, "attn_logit_softcapping 50: Gemma 3 has no soft-caps");
  refused("final_logit_softcapping", 30, "final_logit_softcapping 30: Gemma 3 has no soft-caps");
  refused("layer_types", {"sliding_attention", "linear_attention"}, "linear_attention");
  refused("layer_types", "x", "layer_types");
  refused("eos_token_id", Json::array(), "eos_token_id");
  refused("eos_token_id", {1, "a"}, "eos_token_id");
  refused("attention_bias", true, "attention_bias");
  refused("use_bidirectional_attention", true, "use_bidirectional_attention");
  refused("tie_word_embeddings", 3, "\"tie_word_embeddings\" must be true or false");
  refused("hidden_activation", "silu", "silu");
  refused("rope_parameters", {{"full_attention", {{"rope_type", "yarn"}, {"factor", 4.0}}}}, "yarn");
  refused("rope_parameters", {{"full_attention", {{"rope_type", "linear"}}}}, "linear");
  refused("rope_parameters", {{"full_attention", 3}}, "must be an object");
  refused("rope_parameters", 3, "must be an object");
  refused("rope_parameters", {{"sliding_attention", {{"rope_type", "linear"}, {"factor", 2.0}}}}, "global layers only");
  refused("rope_parameters", {{"rope_type", "linear"}, {"factor", 2.0}}, "global layers only", "gemma2-tiny");
  refused("text_config", 3, "text_config");
  for (const char* text : {"", "[]", "3", "{", "{\"model_type\":\"gemma3_text\",\"model_type\":\"gemma3_text\"}", "\xff", "null"})
    CHECK_THROWS_AS(parse_hf_config(text, "config.json"), Error);
  const test::TempFolder t;
  CHECK_THROWS_WITH(read_hf_config(t.path.string()), Contains("no config.json in"));
}

TEST_CASE("gemma config: overriding fields by name", "[config]") {
  GemmaConfig c = preset("gemma3-1b");
  set_field(c, "sliding_window", "9");
  set_field(c, "rms_norm_eps", "1e-5");
  set_field(c, "num_hidden_layers", "8");
  CHECK(c.window == 9);
  CHECK(c.norm_eps == 1e-5);
  CHECK(c.kinds == pattern(8, 6));
  set_field(c, "sliding_window_pattern", "2");
  CHECK(c.kinds == pattern(8, 2));
  CHECK_NOTHROW(c.check());
  CHECK_THROWS_WITH(set_field(c, "sliding_windw", "9"), Contains("did you mean sliding_window?"));
  CHECK_THROWS_WITH(set_field(c, "sliding_window", "9x"), Contains("expected a whole number"));
  CHECK_THROWS_WITH(set_field(c, "head_dim", "1e9"), Contains("expected a whole number from 2 to 512"));
  CHECK_THROWS_WITH(set_field(c, "rms_norm_eps", "nan"), Contains("expected a number"));
  c.kinds[0] = LayerKind::global;
  CHECK_THROWS_AS(set_field(c, "num_hidden_layers", "9"), Error);
  set_field(c, "num_hidden_layers", "3");
  CHECK(c.kinds.size() == 3);
}

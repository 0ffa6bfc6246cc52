// Weights: names in three spellings, loading with checks, byte-equal round trips.
#include <catch2/catch.hpp>
#include <filesystem>
#include <map>

#include "autograd/ops.h"
#include "models/gemma/hf.h"
#include "models/gemma/model.h"
#include "tensor/error.h"
#include "tensor/io/json.h"
#include "tests/support/temp_folder.h"

using namespace facet;
using Catch::Matchers::Contains;
using facet::test::TempFolder;

namespace {

const std::string goldens = FACET_GOLDENS;

// A folder with the config of gemma3-tiny and its tensors after a change.
struct Changed {
  TempFolder t;
  explicit Changed(const std::function<void(std::map<std::string, Tensor>&)>& change) {
    const Safetensors file(goldens + "/gemma3-tiny");
    std::map<std::string, Tensor> tensors;
    for (const auto& [name, info] : file.tensors()) tensors[name] = file.load(name);
    change(tensors);
    save_safetensors(t / "model.safetensors", NamedTensors(tensors.begin(), tensors.end()));
  }
  LoadReport report() const { return check_weights(Safetensors(t.path.string()), read_hf_config(goldens + "/gemma3-tiny")).report; }
  std::string says() const {
    try {
      report();
    } catch (const Error& e) {
      CHECK(e.kind() == Kind::file);
      return e.what();
    }
    return "";
  }
};

}  // namespace

TEST_CASE("gemma weights: names and shapes follow from the config", "[hf]") {
  for (const char* name : {"gemma3-tiny", "gemma3-rope8", "gemma2-tiny", "gemma1-tiny"}) {
    INFO(name);
    const std::string folder = goldens + "/" + name;
    const Safetensors file(folder);
    const GemmaConfig c = read_hf_config(folder);
    const std::vector<WeightShape> weights = weights_of(c);
    CHECK(weights.size() == file.tensors().size());
    int64_t n = 0;
    for (const WeightShape& w : weights) {
      CHECK(file.info(hf_name(w.name)).shape == w.shape);
      CHECK(module_name(hf_name(w.name)) == w.name);
      n += w.shape.numel();
    }
    CHECK(n == c.count_parameters());
    CHECK(check_weights(file, c).report.tensors == static_cast<int64_t>(weights.size()));
  }
  CHECK(module_name("language_model.model.norm.weight") == "norm.weight");
  CHECK(module_name("model.language_model.layers.3.mlp.up_proj.weight") == "layers.3.mlp.up_proj.weight");
  CHECK(role_of("model.layers.3.mlp.up_proj.weight") == WeightRole::decoder);
  CHECK(role_of("model.layers..mlp.up_proj.weight") == WeightRole::unknown);
  CHECK(role_of("model.layers.3x.mlp.up_proj.weight") == WeightRole::unknown);
  CHECK(role_of("model.layers.3.mlp.up_proj.bias") == WeightRole::unknown);
  CHECK(role_of("lm_head.weight") == WeightRole::head);
  CHECK(role_of("vision_tower.embeddings.patch_embedding.weight") == WeightRole::vision);
  CHECK(role_of("model.multi_modal_projector.mm_input_projection_weight") == WeightRole::vision);
  CHECK(role_of("model.layers.0.self_attn.rotary_emb.inv_freq") == WeightRole::buffer);
}

TEST_CASE("gemma weights: saved and loaded, bytes stay", "[hf]") {
  for (const char* name : {"gemma3-tiny", "gemma3-rope8", "gemma2-tiny", "gemma1-tiny"}) {
    INFO(name);
    const std::string folder = goldens + "/" + name;
    const GemmaConfig c = read_hf_config(folder);
    const TempFolder t;
    SaveOptions o;
    o.shard_bytes = c.vocab == 160 ? 100'000 : 5'000'000'000;
    o.tokenizer_from = folder;
    o.generation = read_generation_config(folder);
    save_hf(t / "out", c, load_weights(folder, c), o);
    const Safetensors before(folder), after(t / "out");
    REQUIRE(after.tensors().size() == before.tensors().size());
    for (const auto& [tensor, info] : before.tensors()) {
      REQUIRE(after.info(tensor).dtype == info.dtype);
      REQUIRE(after.bytes(tensor) == before.bytes(tensor));
    }
    for (const auto& e : std::filesystem::directory_iterator(folder)) {
      const std::string file = e.path().filename().string();
      INFO(file);
      if (file.find(".safetensors") == file.npos || c.vocab != 160) CHECK(read_file((t / "out") + "/" + file) == read_file(e.path().string()));
    }
    CHECK_THROWS_WITH(save_hf(t / "out", c, load_weights(folder, c), o), Contains("already exists"));
    o.replace = true;
    CHECK_NOTHROW(save_hf(t / "out", c, load_weights(folder, c, LoadDType::bf16), o));
    CHECK(stored_dtype(Safetensors(t / "out")) == DType::bf16);
    CHECK(t.entries() == 1);
  }
}

TEST_CASE("gemma weights: a head of its own", "[hf]") {
  const std::string source = goldens + "/gemma3-tiny";
  GemmaConfig c = read_hf_config(source);
  c.tied_head = false;
  CHECK(c.count_parameters() == read_hf_config(source).count_parameters() + 512 * 64);
  NamedTensors list = load_weights(source, read_hf_config(source));
  list.emplace_back("lm_head.weight", mul(list[0].second, 2).detach());
  const TempFolder t;
  save_hf(t / "own", c, list);
  CHECK(read_hf_config(t / "own").tied_head == false);
  CHECK(Safetensors(t / "own").info("lm_head.weight").shape == Shape{512, 64});

  Gemma tied(read_hf_config(source)), own(read_hf_config(t / "own"));
  load_weights(source, tied.config, named_values(tied));
  const LoadReport report = load_weights(t / "own", own.config, named_values(own));
  CHECK_FALSE(report.has_head);
  CHECK(report.tensors == static_cast<int64_t>(list.size()));
  CHECK(&own.head() != &own.embed_tokens.weight);
  const Tokens tokens = plain_tokens(Tensor::from(std::vector<int32_t>{2, 5, 7, 11}, {1, 4}));
  const NoGrad off;
  CHECK(own.logits(own.hidden(tokens)).to_vector() == mul(tied.logits(tied.hidden(tokens)), 2).to_vector());
  CHECK(own.forward_flops(4, 2, 4) == tied.forward_flops(4, 2, 4));

  // Missing, and where it has no place.
  NamedTensors headless = list;
  headless.pop_back();
  CHECK_THROWS_WITH(save_hf(t / "none", c, headless), Contains("no tensor for \"lm_head.weight\" [512, 64]"));
  CHECK_THROWS_WITH(check_weights(Safetensors(source), c), Contains("missing \"lm_head.weight\"; expected [512, 64]"));
  CHECK_THROWS_WITH(to_flax(c, list), Contains("no place for \"lm_head.weight\""));
  CHECK_THROWS_WITH(check_weights(Safetensors(t / "own"), read_hf_config(source)), Contains("but config.json ties them"));
}

TEST_CASE("gemma weights: into destinations, converted", "[hf]") {
  const std::string folder = goldens + "/gemma3-rope8";
  const GemmaConfig c = read_hf_config(folder);
  NamedTensors to;
  for (const WeightShape& w : weights_of(c)) to.emplace_back(w.name, Tensor::zeros(w.shape));
  const LoadReport r = load_weights(folder, c, to);
  CHECK(r.tensors == 8 * 13 + 2);
  const NamedTensors stored = load_weights(folder, c);
  REQUIRE(stored.size() == to.size());
  for (size_t i = 0; i < to.size(); ++i) {
    CHECK(stored[i].first == to[i].first);
    CHECK(stored[i].second.dtype() == DType::bf16);
    CHECK(stored[i].second.to_vector() == to[i].second.to_vector());
  }
  to.pop_back();
  CHECK_THROWS_WITH(load_weights(folder, c, to), Contains("105 destinations for 106 weights"));
}

TEST_CASE("gemma weights: differences from the config are named and counted", "[hf]") {
  CHECK(Changed([](auto&) {}).says() == "");
  CHECK_THAT(Changed([](auto& w) { w.erase("model.layers.3.self_attn.q_proj.weight"); }).says(),
             Contains("missing \"model.layers.3.self_attn.q_proj.weight\"; expected [128, 64] F32") && !Contains("more"));
  CHECK_THAT(Changed([](auto& w) {
               w.erase("model.layers.3.self_attn.q_proj.weight");
               w.erase("model.layers.4.self_attn.q_proj.weight");
               w["model.norm.weight"] = Tensor::zeros({63});
             }).says(),
             Contains("missing \"model.layers.3.self_attn.q_proj.weight\"") && Contains("; 2 more"));
  CHECK_THAT(Changed([](auto& w) { w["model.norm.weight"] = Tensor::zeros({65}); }).says(),
             Contains("\"model.norm.weight\": the config asks for [64], the file has [65] F32"));
  CHECK_THAT(Changed([](auto& w) { w["model.norm.weight"] = Tensor::zeros({64}, DType::i32); }).says(), Contains("is I32; supported"));
  CHECK_THAT(Changed([](auto& w) { w["model.layers.7.input_layernorm.weight"] = Tensor::zeros({64}); }).says(),
             Contains("config: 7 layers, weights hold 8; wrong config.json?"));
  CHECK_THAT(Changed([](auto& w) { w["model.layers.1.mlp.experts.weight"] = Tensor::zeros({64}); }).says(),
             Contains("\"model.layers.1.mlp.experts.weight\" is no weight of Gemma 3"));
  CHECK_THAT(Changed([](auto& w) { w["language_model.model.norm.weight"] = w["model.norm.weight"]; }).says(), Contains("are the same weight"));
  // A repeated head is fine when it is the embedding.
  const Changed tied([](auto& w) { w["lm_head.weight"] = w["model.embed_tokens.weight"]; });
  CHECK(tied.report().has_head);
  CHECK_THAT(Changed([](auto& w) {
               Tensor head = w["model.embed_tokens.weight"].clone();
               head.out().template as<float>()[77] += 1;
               w["lm_head.weight"] = head;
             }).says(),
             Contains("but config.json ties them"));
  // A multimodal file: other prefixes, an image tower that is skipped and counted, buffers.
  const Changed vision([](auto& w) {
    std::map<std::string, Tensor> renamed;
    for (const auto& [name, t] : w) renamed["language_model." + name] = t;
    renamed["vision_tower.vision_model.embeddings.patch_embedding.bias"] = Tensor::zeros({24});
    renamed["multi_modal_projector.mm_soft_emb_norm.weight"] = Tensor::zeros({24});
    renamed["language_model.model.rotary_emb.inv_freq"] = Tensor::zeros({4});
    w = renamed;
  });
  CHECK(vision.report().vision_skipped == 2);
  CHECK(vision.report().buffers_skipped == 1);
  // Gemma 2 under a Gemma 3 config: the head norms are missing.
  const Safetensors g2(goldens + "/gemma2-tiny");
  GemmaConfig c = read_hf_config(goldens + "/gemma2-tiny");
  c.qk_norm = true;
  CHECK_THROWS_WITH(check_weights(g2, c), Contains("missing \"model.layers.0.self_attn.q_norm.weight\"; expected [12] F32; 7 more"));
}

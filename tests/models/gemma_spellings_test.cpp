// One model in every spelling and every container is one model: the same weights, the same logits.
#include <malloc.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <fstream>

#include "models/gemma/hf.h"
#include "models/gemma/model.h"
#include "models/gemma/spelling.h"
#include "tensor/io/npy.h"
#include "tensor/kernels/copy.h"
#include "tensor/parallel.h"
#include "tests/support/goldens.h"
#include "tests/support/temp_folder.h"
#include "tests/support/zip_maker.h"

using namespace facet;
using namespace facet::test;
using Catch::Matchers::Contains;

namespace {

using Named = std::map<std::string, Tensor>;

// ---- spellings, each from the one before it

Named flat_of(const GemmaConfig& c, const NamedTensors& ours, bool gate_rows_first = true) {
  Named r;
  for (const auto& [name, t] : to_flax(c, ours, gate_rows_first)) r[name] = t;
  return r;
}
Named nested_of(const Named& flat) {
  Named r;
  for (const auto& [full, t] : flat) {
    std::string name = full.substr(std::string("transformer/").size());
    if (name.find("/mlp/") != name.npos) name.resize(name.size() - 2);  // no leaf
    r[name] = t;
  }
  return r;
}
// A trainer's state: moments have the names of weights.
Named kauldron_of(const Named& nested) {
  Named r;
  for (const auto& [name, t] : nested) {
    r["params/" + name] = t;
    r["opt_state/0/mu/" + name] = Tensor::zeros(t.shape());
  }
  r["step"] = Tensor::scalar(3, DType::i32);
  r["collections/ema"] = Tensor::zeros({2});
  return r;
}
Named stacked_of(const Named& flat, int64_t kinds, int64_t layers) {
  Named r;
  for (const auto& [name, t] : flat) {
    const std::string before = "transformer/layer_";
    if (!name.starts_with(before)) {
      r[name] = t;
      continue;
    }
    const size_t slash = name.find('/', before.size());
    const int64_t layer = std::stoll(name.substr(before.size())), kind = layer % kinds;
    Tensor& all = r[fmt::format("transformer/stacked_layers/attention_type_{}{}", kind, name.substr(slash))];
    Shape shape{(layers - kind + kinds - 1) / kinds};
    for (int64_t d : t.shape()) shape.push(d);
    if (!all) all = Tensor::empty(shape, t.dtype());
    copy(t.view(), all.slice(0, layer / kinds, layer / kinds + 1).reshape(t.shape()).out());
  }
  return r;
}
Named gemma_pytorch_of(const GemmaConfig& c, const NamedTensors& ours, const std::string& table) {
  Named r;
  for (const auto& [name, t] : ours) {
    if (name == "embed_tokens.weight") {
      r[table] = t;
      continue;
    }
    std::string theirs = "model." + name;
    for (const auto& [hf, torch] : {std::pair("q_norm", "query_norm"), std::pair("k_norm", "key_norm")})
      if (const size_t at = theirs.find(hf); at != theirs.npos) theirs.replace(at, 6, torch);
    const int64_t q = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim;
    const std::pair<std::string, int64_t> parts[] = {{".q_proj", 0}, {".k_proj", q}, {".v_proj", q + kv}};
    bool fused = false;
    for (const auto& [part, row] : parts)
      if (const size_t at = theirs.find(part); at != theirs.npos) {
        Tensor& all = r[theirs.replace(at, 7, ".qkv_proj")];
        if (!all) all = Tensor::empty({q + 2 * kv, c.width}, t.dtype());
        copy(t.view(), all.slice(0, row, row + t.dim(0)).out());
        fused = true;
      }
    if (!fused) r[theirs] = t;
  }
  r["local_freqs_cis"] = r["global_freqs_cis"] = Tensor::zeros({4});
  return r;
}
Named hugging_face_of(const NamedTensors& ours, const std::string& before) {
  Named r;
  for (const auto& [name, t] : ours) r[before + name] = t;
  return r;
}

// ---- containers

std::string as_safetensors(const TempFolder& t, const Named& tensors) {
  save_safetensors(t / "weights.safetensors", NamedTensors(tensors.begin(), tensors.end()));
  return t / "weights.safetensors";
}
std::string as_npz(const TempFolder& t, const Named& tensors) {
  std::vector<TensorSpec> specs;
  for (const auto& [name, x] : tensors) specs.push_back({name, x.dtype(), x.shape()});
  save_npz(t / "weights.npz", specs, [&](const std::string& name) { return tensors.at(name); });
  return t / "weights.npz";
}
std::string as_pt(const TempFolder& t, const Named& tensors, const std::string& below) { return t.write("weights.pt", torch_of(tensors, below)); }

std::vector<double> logits_of(const std::string& path, const GemmaConfig& c) {
  Gemma model(c);
  load_weights(path, c, named_values(model));
  const Tokens tokens = plain_tokens(Tensor::from(std::vector<int32_t>{2, 5, 7, 11, 3, 3, 60, 9, 40, 41, 17, 1}, {1, 12}));
  const NoGrad off;
  return model.logits(model.hidden(tokens)).to_vector();
}

double distance(const Tensor& got, const Tensor& want, const Tensor& mask) {
  const int64_t rows = mask.numel(), n = got.numel() / rows;
  const auto a = got.to_vector(), b = want.to_vector(), m = mask.to_vector();
  double worst = 0;
  for (int64_t i = 0; i < rows * n; ++i)
    if (m[static_cast<size_t>(i / n)] != 0) worst = std::max(worst, std::abs(a[static_cast<size_t>(i)] - b[static_cast<size_t>(i)]));
  return worst;
}

}  // namespace

TEST_CASE("gemma spellings: one model in all of them", "[hf]") {
  for (const char* golden : {"gemma3-tiny", "gemma2-tiny", "gemma1-tiny", "gemma1-fused"}) {
    const bool fused = std::string(golden) == "gemma1-fused";  // as many key heads as query heads
    const std::string folder = golden_path(fused ? "gemma1-tiny" : golden);
    GemmaConfig c = read_hf_config(folder);
    NamedTensors ours = load_weights(folder, c);
    if (fused) {
      c.kv_heads = c.heads;
      for (auto& [name, t] : ours)
        if (name.find("k_proj") != name.npos || name.find("v_proj") != name.npos) t = Tensor::arange(c.kv_heads * c.head_dim * c.width, DType::f32).reshape({c.kv_heads * c.head_dim, c.width});
    }
    const TempFolder t;
    const std::vector<double> want = logits_of(as_safetensors(t, hugging_face_of(ours, "model.")), c);
    const Named flat = flat_of(c, ours), nested = nested_of(flat);
    CHECK(flat.count("transformer/layer_0/attn/qkv_einsum/w") == (fused ? 1 : 0));
    Named policy;
    for (const auto& [name, x] : nested) policy["rlx_networks/policy_network/" + name] = x;
    const std::pair<const char*, Named> trees[] = {{"DeepMind, flat", flat},
                                                   {"DeepMind, flat", flat_of(c, ours, false)},
                                                   {"DeepMind, nested", nested},
                                                   {"DeepMind, nested below params", kauldron_of(nested)},
                                                   {"DeepMind, stacked", stacked_of(flat, 6, c.layers)},
                                                   {"DeepMind, stacked", stacked_of(flat, 2, c.layers)},
                                                   {"DeepMind, nested below rlx_networks/policy_network", policy}};
    for (const auto& [spelling, tree] : trees)
      for (const std::string& path : {as_safetensors(t, tree), as_npz(t, tree), as_pt(t, tree, "")}) {
        INFO(golden << " " << spelling << " " << path);
        CHECK(check_weights(TensorFiles(path), c).report.spelling == spelling);
        CHECK(logits_of(path, c) == want);
      }
    const Named torch = gemma_pytorch_of(c, ours, "embedder.weight"), images = gemma_pytorch_of(c, ours, "text_token_embedder.weight");
    for (const auto& [spelling, tensors, below] :
         {std::tuple("gemma_pytorch", torch, "model_state_dict"), std::tuple("gemma_pytorch", images, "model_state_dict"), std::tuple("gemma_pytorch", torch, ""),
          std::tuple("Hugging Face", hugging_face_of(ours, "model."), ""), std::tuple("Hugging Face", hugging_face_of(ours, "_orig_mod.module.model."), ""),
          std::tuple("Hugging Face", hugging_face_of(ours, "module._orig_mod.model."), "state_dict"),
          std::tuple("Hugging Face", hugging_face_of(ours, "model."), "model"), std::tuple("Hugging Face", hugging_face_of(ours, ""), "model_state_dict")}) {
      INFO(golden << " " << spelling << " " << below);
      const std::string path = as_pt(t, tensors, below);
      CHECK(check_weights(TensorFiles(path), c).report.spelling == spelling);
      CHECK(logits_of(path, c) == want);
    }
  }
}

TEST_CASE("gemma spellings: DeepMind's tree gives DeepMind's logits", "[hf]") {
  // 10 times the difference between DeepMind's f32 run and the f64 one, per model.
  for (const auto& [golden, tolerance] : {std::pair("gemma3-tiny", 1.6e-4), std::pair("gemma3-rope8", 1.1e-3), std::pair("gemma2-tiny", 9.1e-4), std::pair("gemma1-tiny", 5.3e-5)}) {
    const std::string folder = golden_path(golden);
    const GemmaConfig c = read_hf_config(folder);
    const TempFolder t;
    std::string path = golden_path("jax/gemma3-tiny/params.safetensors");  // as released checkpoints spell it
    if (std::string(golden) != "gemma3-tiny") path = as_npz(t, flat_of(c, load_weights(folder, c), c.generation == 3));
    Gemma model(c);
    load_weights(path, c, named_values(model));
    const Golden theirs("jax/" + std::string(golden) + "/taps.safetensors"), inputs(std::string(golden) + "-ref/taps.safetensors");
    for (const char* set : {"a", "b", "far"}) {
      const std::string s = set;
      if (!theirs.has(s + ".logits")) continue;
      INFO(golden << " " << set);
      Tokens tokens = masked_tokens(inputs[s + ".input_ids"], inputs[s + ".attention_mask"]);
      if (inputs.has(s + ".position_ids")) tokens.positions = inputs[s + ".position_ids"].clone();
      const NoGrad off;
      CHECK(distance(model.logits(model.hidden(tokens)), theirs[s + ".logits"], inputs[s + ".attention_mask"]) <= tolerance);
    }
  }
}

TEST_CASE("gemma spellings: the text of a model with images, under three prefixes", "[hf]") {
  const std::string folder = golden_path("siglip-tiny");
  const GemmaConfig c = read_hf_config(folder);
  const Safetensors file(folder);
  const LoadReport report = check_weights(file, c).report;
  CHECK(report.tensors == 6 * 13 + 2);
  CHECK(report.tensors + report.vision_skipped == static_cast<int64_t>(file.tensors().size()));
  const std::vector<double> want = logits_of(folder, c);
  const std::pair<std::string, std::string> rules[][3] = {
      {{"language_model.model.", "model.language_model."}, {"vision_tower.", "model.vision_tower.vision_model."}, {"multi_modal_projector.", "model.multi_modal_projector."}},
      {{"vision_tower.", "vision_tower.vision_model."}, {"", ""}, {"", ""}},
  };
  for (const auto& rule : rules) {
    Named renamed;
    for (const auto& [name, info] : file.tensors()) {
      std::string to = name;
      for (const auto& [from, into] : rule)
        if (!from.empty() && name.starts_with(from)) to = into + name.substr(from.size());
      renamed[to] = file.load(name);
    }
    const TempFolder t;
    const std::string path = as_safetensors(t, renamed);
    CHECK(check_weights(TensorFiles(path), c).report.vision_skipped == report.vision_skipped);
    CHECK(logits_of(path, c) == want);
  }
}

TEST_CASE("gemma spellings: files that hold none or two are refused", "[hf]") {
  const std::string folder = golden_path("gemma1-tiny");
  const GemmaConfig c = read_hf_config(folder);
  const NamedTensors ours = load_weights(folder, c);
  const TempFolder t;
  const auto says = [&](const Named& tensors) {
    try {
      check_weights(TensorFiles(as_safetensors(t, tensors)), c);
    } catch (const Error& e) {
      CHECK(e.kind() == Kind::file);
      return std::string(e.what());
    }
    return std::string();
  };
  const Named flat = flat_of(c, ours), nested = nested_of(flat);
  const auto changed = [](Named tensors, const std::function<void(Named&)>& change) {
    change(tensors);
    return tensors;
  };
  CHECK_THAT(says(changed(flat, [](Named& n) { n.erase("transformer/final_norm/scale"); })), Contains("missing \"transformer/final_norm/scale\" in the DeepMind tree"));
  CHECK_THAT(says(changed(flat, [](Named& n) { n["transformer/final_norm/scale"] = Tensor::zeros({41}); })), Contains("the config asks for [40], the file has [41] F32"));
  CHECK_THAT(says(changed(flat, [](Named& n) { n["transformer/layer_1/attn/kv_einsum/w"] = Tensor::zeros({2, 1, 40, 15}); })), Contains("asks for [2, 1, 40, 14]"));
  CHECK_THAT(says(changed(flat, [](Named& n) { n["transformer/what/w"] = Tensor::zeros({1}); })), Contains("\"transformer/what/w\" is no weight of Gemma 1"));
  CHECK_THAT(says(changed(flat, [](Named& n) { n["transformer/layer_0/attn/_query_norm/scale"] = Tensor::zeros({14}); })), Contains("this config has no such weight"));
  CHECK_THAT(says(changed(flat, [](Named& n) { n["transformer/layer_3/pre_ffw_norm/scale"] = Tensor::zeros({40}); })), Contains("config: 3 layers, weights hold 4"));
  CHECK_THAT(says(changed(flat, [](Named& n) { n["transformer/stacked_layers/attention_type_0/attn/q_einsum/w"] = Tensor::zeros({2, 4, 40, 14}); })), Contains("are the same weight"));
  CHECK_THAT(says(changed(flat, [](Named& n) { n["transformer/stacked_layers/attention_type_0/x"] = Tensor::scalar(0); })), Contains("no axis of layers"));
  CHECK_THAT(says(changed(flat, [](Named& n) { n["transformer/stacked_layers/attention_type_0/x"] = Tensor::zeros({513, 0}); })), Contains("513 layers"));
  CHECK_THAT(says(changed(nested, [&](Named& n) { n["ema/embedder/input_embedding"] = n["embedder/input_embedding"]; })), Contains("holds two models"));
  CHECK_THAT(says(changed(gemma_pytorch_of(c, ours, "embedder.weight"), [](Named& n) { n["model.layers.0.self_attn.qkv_proj.weight"] = Tensor::zeros({83, 40}); })),
             Contains("the config asks for [84, 40], the file has [83, 40]"));
  CHECK_THAT(says(changed(gemma_pytorch_of(c, ours, "embedder.weight"), [](Named& n) { n["model.layers.0.self_attn.o_proj.weight_scaler"] = Tensor::zeros({40}); })),
             Contains("weight_scaler\" is no weight of Gemma 1"));
}

TEST_CASE("gemma spellings: part of a model by pattern", "[hf]") {
  const std::string folder = golden_path("gemma3-tiny");
  const GemmaConfig c = read_hf_config(folder);
  GemmaConfig other = c;
  other.vocab = 100;
  other.layers = 9;
  other.kinds = pattern(9, 6);
  for (const std::string& path : {folder, golden_path("jax/gemma3-tiny/params.safetensors")}) {
    const TensorFiles file(path);
    Gemma model(other);
    const Restored some = restore_weights(file, other, named_values(model), {"layers.[0-3].*"});
    CHECK(some.loaded.size() == 4 * 13);
    CHECK(some.missing.empty());
    CHECK(some.skipped.size() == file.tensors().size() - (path == folder ? 4 * 13 : 4 * 11));
    const auto ours = load_weights(folder, c);
    for (const auto& [name, t] : named_values(model)) {
      INFO(name);
      const auto at = std::find_if(ours.begin(), ours.end(), [&](const auto& o) { return o.first == name; });
      const bool loaded = std::find(some.loaded.begin(), some.loaded.end(), name) != some.loaded.end();
      if (loaded) CHECK(t.to_vector() == at->second.to_vector());
      else CHECK(t.to_vector() == std::vector<double>(static_cast<size_t>(t.numel())));
    }
    const Restored all = restore_weights(file, other, named_values(model), {"*"});
    CHECK(all.loaded.size() == 7 * 13 + 1);
    REQUIRE(all.missing.size() == 2 * 13 + 1);
    if (path == folder) CHECK(all.missing[0] == "embed_tokens.weight: [100, 64] here, [512, 64] there");
  }
}

TEST_CASE("gemma weights: loading holds little besides the weights", "[hf][full]") {
  GemmaConfig c = preset("tiny");
  c.vocab = 60'000;
  c.width = c.hidden = 512;
  const TempFolder t;
  const auto in_child = [](const std::function<bool()>& f) {
    const pid_t child = ::fork();
    if (child == 0) {
      set_threads(1);  // those of the parent are not here
      ::_exit(f() ? 0 : 1);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
  };
  REQUIRE(in_child([&] {
    NamedTensors ours;
    for (const WeightShape& w : weights_of(c)) ours.emplace_back(w.name, Tensor::zeros(w.shape));
    std::filesystem::create_directories(t / "hf");
    const Named named = hugging_face_of(ours, "model.");
    save_safetensors(t / "hf/model.safetensors", NamedTensors(named.begin(), named.end()));
    as_npz(t, flat_of(c, ours));
    as_pt(t, named, "");
    return true;
  }));
  const auto kib = [](const char* field) {
    std::ifstream status("/proc/self/status");
    std::string word;
    while (status >> word)
      if (word == field) {
        int64_t n = 0;
        status >> n;
        return n;
      }
    return int64_t{0};
  };
  for (const char* file : {"hf", "weights.npz", "weights.pt"})
    for (const DType dtype : {DType::f32, DType::bf16}) {
      INFO(file << " " << name_of(dtype));
      CHECK(in_child([&] {
        ::malloc_trim(0);
        const int64_t before = kib("VmRSS:");
        std::ofstream("/proc/self/clear_refs") << 5;  // the high-water mark starts here
        Gemma model(c, dtype);
        load_weights(t / file, c, named_values(model));
        const double weights = static_cast<double>(c.count_parameters() * size_of(dtype));
        const double peak = static_cast<double>(kib("VmHWM:") - before) * 1024;
        return peak > 0.9 * weights && peak <= 1.15 * weights;
      }));
    }
}

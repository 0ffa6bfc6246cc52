// Adapters in PEFT's folders: the one PEFT wrote, our own, and broken ones.
#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <fstream>

#include "autograd/ops.h"
#include "models/gemma/hf.h"
#include "models/gemma/merge.h"
#include "models/gemma/model.h"
#include "models/gemma/peft.h"
#include "tensor/io/durable.h"
#include "tensor/io/json.h"
#include "tests/models/reference.h"
#include "tests/support/compare.h"
#include "tests/support/temp_folder.h"

using namespace facet;
using facet::test::bitwise_equal;
using facet::test::close;
using facet::test::Golden;
using facet::test::golden_model;
using facet::test::golden_path;
using facet::test::max_difference;
using facet::test::TempFolder;
namespace fs = std::filesystem;

namespace {

Tensor logits(Gemma& model, const Tokens& t) {
  const NoGrad off;
  return model.logits(model.hidden(t));
}

std::string hash_of(Gemma& model) { return hash_text(base_hash(model, WeightHash::Of::bf16)); }

// A copy of the golden adapter with its config and tensors changed.
struct Changed {
  TempFolder folder;
  using Tensors = std::map<std::string, Tensor>;
  explicit Changed(const std::function<void(Json&, Tensors&)>& change, const Metadata& metadata = {}) {
    Json config = read_json(golden_path("gemma3-tiny-lora/adapter_config.json"));
    const Safetensors file(golden_path("gemma3-tiny-lora/adapter_model.safetensors"));
    Tensors tensors;
    for (const auto& [name, info] : file.tensors()) tensors[name] = file.load(name);
    change(config, tensors);
    write_file_atomically(folder / "adapter_config.json", config.dump());
    save_safetensors(folder / "adapter_model.safetensors", std::vector<std::pair<std::string, Tensor>>(tensors.begin(), tensors.end()), metadata);
  }
};

// The gradients of every adapter's tensor, and of nothing else.
void check_gradients(Gemma& model, const Tensor& ids, const Tensor& mask, double want_loss, int tensors,
                     const std::function<Tensor(const std::string&)>& want_gradient) {
  const int64_t B = ids.dim(0), T = ids.dim(1);
  const Tensor labels = Tensor::full({B * T}, -1, DType::i32);
  int64_t count = 0;
  for (int64_t b = 0; b < B; ++b)
    for (int64_t i = 0; i + 1 < T; ++i)
      if (mask.at({b, i + 1}) != 0) labels.out().as<int32_t>()[b * T + i] = static_cast<int32_t>(ids.at({b, i + 1})), ++count;
  const Tensor h = model.hidden(masked_tokens(ids, mask));
  const double loss = linear_cross_entropy_backward(reshape(h, {B * T, h.dim(2)}), model.head().value(), labels,
                                                    Tensor::full({B * T}, 1.0 / static_cast<double>(count)));
  CHECK(loss == Approx(want_loss).epsilon(1e-5));
  int compared = 0;
  for (Parameter* p : parameters(model)) {
    INFO(p->name);
    if (!is_adapter(p->name)) {
      CHECK_FALSE(p->grad());
      continue;
    }
    const Tensor want = want_gradient(p->name);
    const auto a = p->grad().to_vector(), b = want.to_vector();
    REQUIRE(p->grad().shape() == want.shape());
    double top = 0, worst = 0;
    for (size_t i = 0; i < a.size(); ++i) top = std::max(top, std::abs(b[i])), worst = std::max(worst, std::abs(a[i] - b[i]));
    CHECK(worst <= 1e-4 * top);
    ++compared;
  }
  CHECK(compared == tensors);
}

const std::string q = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";

}  // namespace

TEST_CASE("peft: PEFT's own adapter gives PEFT's logits, loss and gradients") {
  const auto model = golden_model("gemma3-tiny");
  Adapters adapters(*model);
  const AdapterFile file = read_adapter(golden_path("gemma3-tiny-lora"));
  CHECK(file.base == "gemma3-tiny");
  CHECK(file.base_hash.empty());
  CHECK(file.options.rank == 4);
  CHECK(file.options.alpha == 8);
  CHECK(file.modules.size() == 7 * 7);
  load_adapter(adapters, "peft", file);
  const Golden taps("gemma3-tiny-ref/taps.safetensors"), g("posttrain.safetensors");
  for (const auto& [set, tolerance] : {std::pair{std::string("a"), 1.6e-4}, {std::string("b"), 1.4e-4}}) {
    const Tensor mask = taps[set + ".attention_mask"];
    const Tokens t = masked_tokens(taps[set + ".input_ids"], mask);
    CHECK(max_difference(logits(*model, t), g["lora/" + set + ".logits"], mask) <= tolerance);
    const AdapterOff off(adapters);
    CHECK(max_difference(logits(*model, t), taps[set + ".logits"], mask) <= tolerance);
  }

  check_gradients(*model, taps["a.input_ids"], taps["a.attention_mask"], g["lora/a.loss"].item(), 2 * 7 * 7,
                  [&](const std::string& name) { return g["lora/grad/base_model.model.model." + name]; });
}

TEST_CASE("peft: DoRA, an adapted embedding, ranks and alphas by module give PEFT's logits, loss and gradients") {
  for (const auto& [kind, modules, tensors] : {std::tuple{std::string("dora"), 8, 3}, {std::string("embedding"), 8, 2}, {std::string("ranks"), 21, 2}}) {
    INFO(kind);
    const auto model = golden_model("gemma3-tiny");
    Adapters adapters(*model);
    load_adapter(adapters, "peft", read_adapter(golden_path("peft/" + kind)));
    const Golden g("peft/" + kind + ".safetensors");
    const Tensor ids = g["input_ids"], mask = g["attention_mask"];
    CHECK(max_difference(logits(*model, masked_tokens(ids, mask)), g["logits"], mask) <= 1e-4);
    check_gradients(*model, ids, mask, g["loss"].item(), modules * tensors, [&](const std::string& name) { return g["grad.model." + name]; });

    const TempFolder folder;  // and so do the weights with the adapter folded in
    merge_adapter(golden_path("gemma3-tiny"), read_adapter(golden_path("peft/" + kind)), folder / "merged");
    Gemma merged(read_hf_config(folder / "merged"));
    load_weights(folder / "merged", merged.config, named_values(merged));
    CHECK(max_difference(logits(merged, masked_tokens(ids, mask)), g["logits"], mask) <= 1e-4);
  }
}

TEST_CASE("peft: what is written is read back bit for bit; a switched adapter equals a fresh load") {
  const TempFolder folder;
  const Golden taps("gemma3-tiny-ref/taps.safetensors");
  const Tokens t = plain_tokens(taps["b.input_ids"]);
  const auto model = golden_model("gemma3-tiny");
  Adapters adapters(*model);
  load_adapter(adapters, "peft", read_adapter(golden_path("gemma3-tiny-lora")));
  LoraOptions o{.rank = 3, .alpha = 7.5, .dropout = 0.25, .rslora = true, .dora = true, .targets = {"q", "layers.*.mlp.down_proj", "layers.2.mlp.up_proj"}};
  o.ranks["layers.0.self_attn.q_proj"] = 5;
  o.alphas["layers.1.self_attn.q_proj"] = 3;
  adapters.add("dora", o, key(1));
  adapters.add("table", {.rank = 2, .targets = {"embedding", "k"}}, key(2));
  std::map<std::string, Tensor> want;
  for (const std::string name : {"dora", "peft", "table"}) {
    uint32_t seed = 0;
    for (const auto& [path, f] : adapters.factors(name))
      for (Parameter* p : {&f->a, &f->b, &f->magnitude})
        if (name != "peft" && p->value()) p->reset(add(p->value(), mul(normal(key(++seed), p->value().shape()), 0.05)).detach(), true);
    adapters.use(name);
    want[name] = logits(*model, t);
    save_adapter(folder / name, adapters, name, "gemma3-tiny");
  }
  for (const std::string name : {"dora", "peft", "table"}) {
    const auto other = golden_model("gemma3-tiny");
    Adapters fresh(*other);
    const AdapterFile file = read_adapter(folder / name);
    CHECK(file.base_hash == hash_of(*other));
    CHECK(file.base_width == 64);
    load_adapter(fresh, "x", file);
    adapters.use(name);
    const auto ours = adapters.factors(name), theirs = fresh.factors("x");
    REQUIRE(ours.size() == theirs.size());
    for (size_t i = 0; i < ours.size(); ++i) {
      CHECK(ours[i].first == theirs[i].first);
      CHECK(bitwise_equal(ours[i].second->a.value().detach(), theirs[i].second->a.value().detach()));
      CHECK(bitwise_equal(ours[i].second->b.value().detach(), theirs[i].second->b.value().detach()));
      CHECK(ours[i].second->scale == theirs[i].second->scale);
    }
    CHECK(fresh.options("x").dropout == adapters.options(name).dropout);
    CHECK(bitwise_equal(logits(*other, t), want[name]));
    CHECK(bitwise_equal(logits(*model, t), want[name]));
  }
  const Json config = read_json(folder / "dora/adapter_config.json");
  CHECK(config["target_modules"] == Json({"down_proj", "model.layers.2.mlp.up_proj", "q_proj"}));
  CHECK(config["rank_pattern"] == Json({{"model.layers.0.self_attn.q_proj", 5}}));
  CHECK(config["alpha_pattern"] == Json({{"model.layers.1.self_attn.q_proj", 3}}));
  CHECK_THROWS_AS(save_adapter(folder / "dora", adapters, "dora", "x"), Error);
  save_adapter(folder / "dora", adapters, "dora", "x", true);
}

TEST_CASE("peft: an adapter fits the base it was made on, however that is kept in memory") {
  const TempFolder folder;
  const auto model = golden_model("gemma3-tiny");
  Adapters adapters(*model);
  adapters.add("x", {}, key(1));
  save_adapter(folder / "x", adapters, "x", "gemma3-tiny");
  for (DType storage : {DType::bf16, DType::f64}) {
    const auto other = golden_model("gemma3-tiny", storage);
    Adapters a(*other);
    load_adapter(a, "x", read_adapter(folder / "x"));
    CHECK(a.factors("x")[0].second->a.value().dtype() == acc_dtype(storage));
  }
  const auto changed = golden_model("gemma3-tiny");
  Parameter* norm = parameters(*changed).back();
  norm->reset(add(norm->value().detach(), 0.5), true);
  Adapters a(*changed);
  CHECK_THROWS_WITH(load_adapter(a, "x", read_adapter(folder / "x")),
                    Catch::Contains(fmt::format("adapter was trained on base {} hidden 64; this model is {} hidden 64", hash_of(*model), hash_of(*changed))));
  CHECK(a.names().empty());
  const auto rope8 = golden_model("gemma3-rope8");
  Adapters b(*rope8);
  CHECK_THROWS_WITH(load_adapter(b, "x", read_adapter(folder / "x")), Catch::Contains("hidden 64; this model is") && Catch::Contains("hidden 48"));
  // Without a record of the base, its shapes tell.
  CHECK_THROWS_WITH(load_adapter(b, "x", read_adapter(golden_path("gemma3-tiny-lora"))), Catch::Contains("adapter was trained on base hidden 64; this model is hidden 48"));
}

TEST_CASE("peft: adapters that do not fit or are broken are refused with a reason") {
  const auto model = golden_model("gemma3-tiny");
  const auto message = [&](const std::function<void(Json&, Changed::Tensors&)>& change) -> std::string {
    const Changed folder(change);
    Adapters adapters(*model);
    try {
      load_adapter(adapters, "x", read_adapter(folder.folder / ""));
    } catch (const Error& e) {
      CHECK(e.kind() == Kind::file);
      CHECK(adapters.names().empty());
      return e.what();
    }
    return "nothing";
  };
  using Tensors = Changed::Tensors;
  using Catch::Contains;
  const auto config = [&](const char* key, const Json& value) {
    return message([&](Json& c, Tensors&) { c[key] = value; });
  };
  CHECK_THAT(config("peft_type", "LOHA"), Contains("\"peft_type\": expected \"LORA\"") && Contains("found \"LOHA\""));
  CHECK_THAT(config("modules_to_save", {"lm_head"}), Contains("\"modules_to_save\" is set to") && Contains("merge_and_unload"));
  CHECK_THAT(config("bias", "all"), Contains("\"bias\": expected \"none\", found \"all\""));
  CHECK_THAT(config("lora_bias", true), Contains("\"lora_bias\" is set to true"));
  CHECK_THAT(config("layer_replication", Json({{0, 2}, {1, 3}})), Contains("\"layer_replication\""));
  CHECK_THAT(config("use_qalora", true), Contains("\"use_qalora\""));
  CHECK_THAT(config("something_of_tomorrow", true), Contains("\"something_of_tomorrow\""));
  CHECK_THAT(config("init_lora_weights", "pissa"), Contains("\"init_lora_weights\""));
  CHECK_THAT(config("r", 8), Contains("lora_A is [4, 64], lora_B is [128, 4]; adapter_config.json says rank 8") || Contains("says rank 8"));
  CHECK_THAT(config("r", "four"), Contains("\"r\": expected whole numbers from 1 to 65536, found \"four\""));
  for (const Json& r : {Json(0), Json(-4), Json(2.5), Json(65'537), Json(1e300)}) CHECK_THAT(config("r", r), Contains("\"r\": expected whole numbers from 1 to 65536"));
  CHECK_THAT(config("r", 65'536), Contains("says rank 65536"));
  CHECK_THAT(config("lora_alpha", 0), Contains("\"lora_alpha\": expected numbers above 0"));
  CHECK_THAT(config("lora_dropout", 1.5), Contains("\"lora_dropout\": expected numbers from 0 to 1, found 1.5"));
  CHECK_THAT(config("use_dora", true), Contains("has no lora_magnitude_vector; adapter_config.json says use_dora true"));
  CHECK_THAT(config("rank_pattern", {{".*q_proj", 4}}), Contains("is an expression"));
  CHECK_THAT(config("rank_pattern", Json({{"q_proj", 4}, {"self_attn.q_proj", 5}})), Contains("two keys speak of"));

  const auto renamed = [&](const std::string& to) {
    return message([&](Json&, Tensors& t) {
      for (const char* part : {"lora_A.weight", "lora_B.weight"}) {
        auto node = t.extract("base_model.model.model.layers.0.self_attn.q_proj." + std::string(part));
        node.key() = "base_model.model." + to + "." + part;
        t.insert(std::move(node));
      }
    });
  };
  CHECK_THAT(renamed("model.layers.0.self_attn.qq_proj"), Contains("\"layers.0.self_attn.qq_proj\" that this model (7 layers) does not have, nearest: layers.0.self_attn.q_proj"));
  CHECK_THAT(renamed("model.layers.77.self_attn.q_proj"), Contains("layers.77.self_attn.q_proj"));
  CHECK_THAT(renamed("lm_head"), Contains("is of the head, on which adapters are not supported"));
  CHECK_THAT(message([](Json&, Tensors& t) { t.erase(q); }), Contains("has lora_B but no lora_A"));
  const auto without_up = [](Json&, Tensors& t) { std::erase_if(t, [](const auto& e) { return e.first.find("layers.2.mlp.up_proj") != std::string::npos; }); };
  CHECK_THAT(message(without_up), Contains("adapter_model.safetensors has no tensors for \"layers.2.mlp.up_proj\", which target_modules \"up_proj\" asks for"));
  // Which modules are meant is not said by name: then those that are there.
  for (const auto& [key, value] : std::map<std::string, Json>{{"target_modules", "all-linear"}, {"layers_to_transform", {0, 1, 3, 4, 5, 6}}, {"exclude_modules", {"model.layers.2.mlp.up_proj"}}}) {
    const Changed folder([&, key = key, value = value](Json& c, Tensors& t) { without_up(c, t), c[key] = value; });
    CHECK_NOTHROW(check_adapter(read_adapter(folder.folder / ""), model->config, ""));
  }
  CHECK_THAT(message([](Json&, Tensors& t) { t[q] = Tensor::zeros({4, 65}); }), Contains("lora_A [4, 65] and lora_B [128, 4], expected [r, 64] and [128, r]"));
  CHECK_THAT(message([](Json&, Tensors& t) { t[q] = Tensor::zeros({256}); }), Contains("is no matrix"));
  CHECK_THAT(message([](Json&, Tensors& t) { t[q] = Tensor::zeros({4, 64}, DType::i32); }), Contains("is not F32"));
  CHECK_THAT(message([](Json&, Tensors& t) { t["base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias"] = Tensor::zeros({128}); }), Contains("is not part of LoRA or DoRA"));
  CHECK_THAT(message([](Json&, Tensors& t) { t["model.layers.0.self_attn.q_proj.weight"] = Tensor::zeros({2}); }), Contains("is no tensor of an adapter"));
  CHECK_THAT(message([](Json&, Tensors& t) { t["base_model.model.model.embed_tokens.base_layer.weight"] = Tensor::zeros({512, 64}); }), Contains("an embedding of its own"));
  CHECK_THAT(message([](Json&, Tensors& t) { t.clear(); }), Contains("holds no adapter"));
  // What changes nothing, or says the same in other words, is no reason.
  CHECK(config("something_of_tomorrow", nullptr) == "nothing");
}

TEST_CASE("peft: beside an image tower the decoder has another name, and the tower's own adapters are left aside") {
  const TempFolder folder;
  fs::create_directories(folder / "base");
  write_file_atomically(folder / "base/config.json", R"({"text_config": {}, "vision_config": {}})");
  const auto model = golden_model("gemma3-tiny");
  Adapters adapters(*model);
  adapters.add("x", {.rank = 2, .targets = {"q", "down"}}, key(1));
  save_adapter(folder / "x", adapters, "x", folder / "base");
  const Safetensors file(folder / "x/adapter_model.safetensors");
  CHECK(file.has("base_model.model.model.language_model.layers.3.self_attn.q_proj.lora_A.weight"));
  // The tower has a q_proj of its own, which is not meant.
  const Json targets = read_json(folder / "x/adapter_config.json")["target_modules"];
  CHECK(targets.size() == 1 + 7);
  CHECK(targets[0] == "down_proj");
  CHECK(targets[1] == "model.language_model.layers.0.self_attn.q_proj");
  const AdapterFile back = read_adapter(folder / "x");
  CHECK(back.modules.size() == 2 * 7);
  CHECK_NOTHROW(check_adapter(back, model->config, hash_of(*model)));

  const std::string tower = "base_model.model.model.vision_tower.encoder.layers.0.self_attn.q_proj.lora_";
  const auto with_tower = [&](Json&, Changed::Tensors& t) { t[tower + "A.weight"] = Tensor::zeros({4, 24}), t[tower + "B.weight"] = Tensor::zeros({24, 4}); };
  const Changed both(with_tower);
  CHECK(read_adapter(both.folder / "").modules.size() == 7 * 7);
  CHECK_THROWS_WITH(merge_adapter(golden_path("gemma3-tiny"), read_adapter(both.folder / ""), folder / "out"), Catch::Contains("2 of its tensors are for the image tower"));
  CHECK_FALSE(fs::exists(folder / "out"));
  const Changed only([&](Json& c, Changed::Tensors& t) { t.clear(), with_tower(c, t); });
  CHECK_THROWS_WITH(read_adapter(only.folder / ""), Catch::Contains("only of the image tower"));
  const Changed lost([&](Json& c, Changed::Tensors& t) {
    t.erase(q), t.erase("base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight");
    c["target_modules"] = {"model.language_model.layers.0.self_attn.q_proj"};
  });
  CHECK_THROWS_WITH(check_adapter(read_adapter(lost.folder / ""), model->config, ""), Catch::Contains("no tensors for \"layers.0.self_attn.q_proj\", which"));
}

TEST_CASE("peft: folders that are no adapters") {
  const TempFolder folder;
  const auto refused = [](const std::string& path, const std::string& next) { CHECK_THROWS_WITH(read_adapter(path), Catch::Contains("no adapter_config.json in " + path) && Catch::Contains(next)); };
  refused(folder / "nowhere", "there is no such folder");
  refused(golden_path("gemma3-tiny"), "it looks like a whole model, which needs no --adapter");
  refused(golden_path("gemma3-tiny-lora/adapter_config.json"), "that is a file; give the folder around it");
  fs::create_directories(folder / "run/final");
  fs::copy(golden_path("gemma3-tiny-lora/adapter_config.json"), folder / "run/final");
  refused(folder / "run", "did you mean " + (folder / "run/final?"));
  CHECK_THROWS_WITH(read_hf_config(folder / "run"), Catch::Contains("did you mean " + (folder / "run/final?")));
  CHECK_THROWS_WITH(read_hf_config(folder / "run/final"), Catch::Contains("holds an adapter, not a model") && Catch::Contains("facet merge"));
  CHECK_THROWS_WITH(read_adapter(folder / ""), Catch::Contains("no adapter_config.json in"));
  write_file_atomically(folder / "adapter_config.json", "{}");
  CHECK_THROWS_WITH(read_adapter(folder / ""), Catch::Contains("no adapter_model.safetensors"));
  write_file_atomically(folder / "adapter_model.bin", "x");
  CHECK_THROWS_WITH(read_adapter(folder / ""), Catch::Contains("can hold code and is not read"));
  write_file_atomically(folder / "adapter_model.safetensors", "x");
  CHECK_THROWS_AS(read_adapter(folder / ""), Error);
  write_file_atomically(folder / "adapter_config.json", "[1]");
  CHECK_THROWS_WITH(read_adapter(folder / ""), Catch::Contains("expected an object"));
}

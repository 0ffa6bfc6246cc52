// Adapters through the program: trained, used, folded in and taken out as a person would, and what people get wrong.
#include <catch2/catch.hpp>

#include <chrono>
#include <filesystem>

#include <nlohmann/json.hpp>

#include "models/gemma/merge.h"
#include "tests/app/process.h"
#include "tests/support/temp_folder.h"

using namespace facet::test;
using Catch::Contains;
using Words = std::vector<std::string>;
using Json = nlohmann::json;
namespace fs = std::filesystem;

namespace {

struct Setting : TempFolder {
  Setting() {
    std::string rows;
    for (const char* who : {"cat", "dog", "bird", "fish", "ant", "owl"})
      for (const char* how : {"red", "blue", "green", "old"})
        rows += "{\"prompt\": \"a " + std::string(how) + " " + who + " \", \"completion\": \"sat down.\"}\n";
    write("rows.jsonl", rows);
    REQUIRE(run({"init", *this / "m", "--data", *this / "rows.jsonl", "--set", "model.num_hidden_layers=2", "--set", "model.hidden_size=32"}) == 0);
  }
  int run(const Words& w) const { return run_process(w, *this / "log"); }
  std::string said() const { return content_of(*this / "log"); }
  Words sft(const std::string& out, Words more) const {
    Words w = {"sft", *this / "m", "--data", *this / "rows.jsonl", "--out", *this / out, "--batch", "8", "--lr", "1e-2"};
    w.insert(w.end(), more.begin(), more.end());
    return w;
  }
  double loss(const Words& more) const {
    Words w = {"eval", *this / "m", "--data", *this / "rows.jsonl", "--json", "-q"};
    w.insert(w.end(), more.begin(), more.end());
    REQUIRE(run(w) == 0);
    return Json::parse(said())["loss"];
  }
  std::string text(const std::string& model, const Words& more = {}) const {
    Words w = {"generate", model, "-p", "a red cat ", "--raw", "--greedy", "-n", "8", "-q"};
    w.insert(w.end(), more.begin(), more.end());
    REQUIRE(run(w) == 0);
    return said();
  }
  // One message, its exit code, nothing written, in time.
  void refused(const Words& words, int code, const std::vector<std::string>& parts) const {
    const auto before = files_of(path.string());
    const auto begin = std::chrono::steady_clock::now();
    const int got = run(words);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    std::string line;
    for (const std::string& w : words) line += w + " ";
    INFO(line << "\n" << said());
    CHECK(got == code);
    CHECK(seconds < 2);
    for (const std::string& part : parts) CHECK_THAT(said(), Contains(part));
    const size_t last = said().rfind("facet: ");
    REQUIRE(last != std::string::npos);
    CHECK(said().find('\n', last) == said().size() - 1);
    auto after = files_of(path.string());
    after["log"] = before.at("log");
    CHECK(after == before);
  }
};

}  // namespace

TEST_CASE("adapter: trained, used, folded in and taken out; the base is never touched") {
  const Setting s;
  const auto base = files_of(s / "m");
  const std::string hash = facet::folder_hash(s / "m", facet::WeightHash::Of::bf16);
  const double without = s.loss({});
  for (const auto& [name, more] : std::map<std::string, Words>{{"lora", {"--adapter", "lora", "--lora-targets", "all-linear,embedding"}},
                                                                {"dora", {"--adapter", "dora", "--lora-rank", "3", "--rslora"}},
                                                                {"bf16", {"--adapter", "lora", "--dtype", "bf16"}}}) {
    INFO(name);
    Words words = s.sft(name, more);
    words.insert(words.end(), {"--steps", "25", "--eval-every", "25"});
    REQUIRE(s.run(words) == 0);
    CHECK_THAT(s.said(), Contains("parameters train"));
    const std::string adapter = s / name + "/final";
    // After the steps the weights under the adapter are those of the folder, and what trained is f32 whatever they are kept in.
    const facet::AdapterFile file = facet::read_adapter(adapter);
    CHECK(file.base_hash == hash);
    for (const auto& [path, m] : file.modules) CHECK(m.a.dtype() == facet::DType::f32);
    const double with = s.loss({"--adapter", adapter});
    CHECK(with < 0.9 * without);
    CHECK(s.loss({"--adapter", adapter, "--dtype", "bf16"}) == Approx(with).epsilon(0.02));

    const std::string merged = s / name + "-merged";
    REQUIRE(s.run({"merge", "--base", s / "m", "--adapter", adapter, "--out", merged}) == 0);
    CHECK(s.text(merged) == s.text(s / "m", {"--adapter", adapter}));
    REQUIRE(s.run({"merge", "--unmerge", "--model", merged, "--base", s / "m", "--out", merged + "-plain"}) == 0);
    CHECK(files_of(merged + "-plain") == base);
  }
  CHECK(files_of(s / "m") == base);
  CHECK(s.loss({}) == without);
}

TEST_CASE("adapter: what people get wrong") {
  const Setting s;
  REQUIRE(s.run(s.sft("run", {"--adapter", "lora", "--lora-rank", "2", "--steps", "1"})) == 0);
  const std::string good = s / "run/final", m = s / "m";
  const auto refused = [&](const std::string& adapter, const std::vector<std::string>& parts) {
    s.refused({"generate", m, "--adapter", adapter, "-p", "a red cat", "--raw", "-n", "1"}, 3, parts);
  };
  const auto changed = [&](const std::function<void(Json&)>& config, const std::function<void(std::string&)>& weights = {}) {
    static int count = 0;
    const std::string to = s / ("a" + std::to_string(count++));
    fs::copy(good, to);
    Json c = Json::parse(content_of(to + "/adapter_config.json"));
    if (config) config(c);
    std::ofstream(to + "/adapter_config.json") << c.dump();
    std::string bytes = content_of(to + "/adapter_model.safetensors");
    if (weights) weights(bytes);
    std::ofstream(to + "/adapter_model.safetensors", std::ios::binary) << bytes;
    return to;
  };
  // A name or number of the same length in the header of the weights.
  const auto header = [&](const std::string& from, const std::string& to) {
    REQUIRE(from.size() == to.size());
    return changed({}, [&](std::string& bytes) {
      REQUIRE(bytes.find(from) != std::string::npos);
      for (size_t at = 0; (at = bytes.find(from, at)) != std::string::npos; at += to.size()) bytes.replace(at, from.size(), to);
    });
  };
  const auto config = [&](const char* key, const Json& value) { return changed([&](Json& c) { c[key] = value; }); };
  const std::string q = "layers.1.self_attn.q_proj", prefix = "base_model.model.model.";

  refused(s / "nowhere", {"nowhere", "there is no such folder"});
  refused(s / "run", {"did you mean", "run/final?"});
  refused(m, {"it looks like a whole model"});
  refused(good + "/adapter_config.json", {"that is a file"});
  refused(changed({}, [](std::string& bytes) { bytes.resize(bytes.size() - 100); }), {"adapter_model.safetensors", "truncated"});
  refused(changed({}, [](std::string& bytes) { bytes = "x"; }), {"adapter_model.safetensors"});
  refused(config("peft_type", "IA3"), {"adapter_config.json", "\"peft_type\"", "expected \"LORA\"", "found \"IA3\""});
  for (const Json& r : {Json(0), Json(-3), Json(1e9), Json("2")}) refused(config("r", r), {"\"r\": expected whole numbers from 1 to 65536, found " + r.dump()});
  refused(config("r", 60'000), {"\"layers.0.mlp.down_proj\": lora_A is [2, 256], lora_B is [32, 2]", "says rank 60000"});
  refused(config("use_dora", true), {"no lora_magnitude_vector", "use_dora true"});
  refused(config("modules_to_save", {"lm_head"}), {"\"modules_to_save\"", "not supported", "merge_and_unload"});
  refused(header(q, "layers.1.self_attn.z_proj"), {"\"layers.1.self_attn.z_proj\"", "does not have", "nearest: layers.1.self_attn."});
  refused(header(prefix + q, "base_model.model.encod." + q), {"encod", "does not have"});
  refused(header(q + ".lora_A", q + ".lora_C"), {"lora_C", "is not part of LoRA or DoRA"});
  refused(header("facet.base_hash\":\"" + facet::read_adapter(good).base_hash, "facet.base_hash\":\"01234567"),
          {"adapter was trained on base 01234567 hidden 32", "this model is " + facet::read_adapter(good).base_hash + " hidden 32", "names the base"});
  fs::create_directory(s / "bin");
  std::ofstream(s / "bin/adapter_config.json") << "{}";
  std::ofstream(s / "bin/adapter_model.bin") << "x";
  refused(s / "bin", {"adapter_model.bin can hold code"});

  // The same through the other doors.
  REQUIRE(s.run({"init", s / "other", "--data", s / "rows.jsonl", "--set", "model.num_hidden_layers=2", "--set", "model.hidden_size=48"}) == 0);
  const std::vector<std::string> other = {"hidden 32; this model is", "hidden 48"};
  s.refused({"eval", s / "other", "--data", s / "rows.jsonl", "--adapter", good}, 3, other);
  s.refused({"chat", s / "other", "--adapter", good}, 3, other);
  s.refused({"merge", "--base", s / "other", "--adapter", good, "--out", s / "out"}, 3, other);
  s.refused({"generate", good, "-p", "x"}, 3, {"holds an adapter, not a model", "--adapter", "facet merge"});
  s.refused({"sft", s / "run", "--data", s / "rows.jsonl", "--out", s / "out"}, 3, {"did you mean", "run/final?"});
  s.refused(s.sft("out", {"--adapter", "lora", "--lora-targets", "q,gat"}), 2, {"target \"gat\" fits no module", "did you mean gate?"});
  s.refused(s.sft("out", {"--adapter", "dora", "--lora-targets", "embedding"}), 2, {"DoRA is for linear layers"});
  s.refused(s.sft("out", {"--adapter", "lora", "--lora-rank", "0"}), 2, {"--lora-rank", "out of range 1 to 65536"});
  s.refused(s.sft("out", {"--lora-rank", "4"}), 2, {"--lora-rank has no effect without --adapter lora"});
}

#include <catch2/catch.hpp>
#include <fstream>
#include <nlohmann/json.hpp>

#include "app/plot.h"
#include "tests/app/run.h"
#include "tests/app/trainers.h"

using namespace facet::app;

TEST_CASE("inspect model: lists a checkpoint, equal layers on one line") {
  const std::string folder = FACET_GOLDENS "/gemma3-tiny";
  const Result r = run_facet("inspect model " + folder);
  CHECK(r.code == 0);
  CHECK(r.err.empty());
  CHECK(r.out.find("model.layers.{0-6}.mlp.up_proj.weight") != std::string::npos);
  CHECK(r.out.find("93 tensors, 379,136 values, 1.5 MB (F32 1.5 MB) in 1 file") != std::string::npos);
  const Result one = run_facet("inspect model --all --match layers.3.mlp.up " + folder);
  CHECK(one.out.find("model.layers.3.mlp.up_proj.weight  F32   [128, 64]") == 0);
  const auto j = nlohmann::json::parse(run_facet("inspect model --json " + folder).out);
  CHECK(j.at("values") == 379136);
  CHECK(j.at("list").size() == 93);
  CHECK(run_facet("inspect model " FACET_GOLDENS "/gemma3-rope8").out.find("in 5 files") != std::string::npos);
}

TEST_CASE("inspect model: bad files are exit code 3") {
  TempFile broken("model.safetensors", "x");
  const Result r = run_facet("inspect model " + broken.path);
  CHECK(r.code == 3);
  CHECK(r.out.empty());
  CHECK(r.err.find("facet: " + broken.path) == 0);
  CHECK(run_facet("inspect model /nowhere").code == 3);
  const Result none = run_facet("inspect model");
  CHECK(none.code == 2);
  CHECK(none.err == "facet: --model is missing (it may stand without the flag); see facet inspect model --help\n");
  const Result family = run_facet("inspect modle x");
  CHECK(family.code == 2);
  CHECK(family.err == "facet: inspect modle unknown, did you mean inspect model?\n");
}

TEST_CASE("inspect model: layers, parameters and the bytes of keys and values") {
  const Result r = run_facet("inspect model gemma3-1b --layers --context 4096");
  CHECK(r.code == 0);
  CHECK(r.out.find("L L L L L G  L L L L L G  L L L L L G  L L L L L G  L L\n") == 0);  // 26 layers: two local ones at the end
  CHECK(r.out.find("999,885,952") != std::string::npos);
  const auto j = nlohmann::json::parse(run_facet("inspect model gemma3-1b --layers --context 4096 --json").out);
  REQUIRE(j.at("table").size() == 26);
  CHECK(j.at("table")[0].at("sees") == 512);
  CHECK(j.at("table")[5].at("sees") == "all");
  CHECK(j.at("table")[5].at("kind") == "G");
  CHECK(j.at("table")[5].at("cache_bytes") == 4096 * 2 * 256 * 2);
  CHECK(j.at("table")[4].at("cache_bytes") == 512 * 2 * 256 * 2);
  CHECK(j.at("table")[4].at("rope_base") == 10000);
  int64_t parameters = 0;
  for (const auto& layer : j.at("table")) parameters += layer.at("parameters").get<int64_t>();
  CHECK(parameters == 999885952 - 262144 * 1152 - 1152);  // all but the table and the last norm
  CHECK(run_facet("inspect model gemma3-1b --layers --set model.sliding_window=256").out.find("       256 ") != std::string::npos);
  CHECK(run_facet("inspect model --layers " FACET_GOLDENS "/gemma2-tiny").out.find("L G  L G") == 0);
  const Result whole = run_facet("inspect model " FACET_GOLDENS "/gemma3-tiny");
  CHECK(whole.out.find("parameters                        379,136") != std::string::npos);
  CHECK(whole.out.find("full training, AdamW") != std::string::npos);
}

TEST_CASE("inspect file: every format, and what a checkpoint holds") {
  const Result r = run_facet("inspect file " FACET_GOLDENS "/gemma3-tiny/model.safetensors --match layers.3.mlp.up --all");
  CHECK(r.code == 0);
  CHECK(r.out.find("safetensors\nmodel.layers.3.mlp.up_proj.weight  F32   [128, 64]") != std::string::npos);
  TempFile broken("a.npz", "PK\3\4");
  CHECK(run_facet("inspect file " + broken.path).code == 3);
  TempFile state("manifest.json", "{}");
  const Result bad = run_facet("inspect file " + state.folder);
  CHECK(bad.code == 3);
  CHECK(bad.err.find("step-N") != std::string::npos);

  const facet::test::Trainers t;
  REQUIRE(t.run(t.words("sft", "run", {"--steps", "1"})) == 0);
  const std::string run = t / "run";
  const auto j = nlohmann::json::parse(run_facet("inspect file --json " + run).out);
  CHECK(j.at("step") == 1);
  CHECK(j.at("state").at("setting.trainer") == "sft");
  const int64_t values = j.at("parts").at("model").at("values");
  CHECK(j.at("parts").at("optimizer").at("values").get<int64_t>() >= 2 * values);  // both moments
  const std::string weights = run + "/checkpoints/step-1/model.safetensors";
  std::fstream(weights, std::ios::in | std::ios::out | std::ios::binary).seekp(-2, std::ios::end).put('x');
  const Result damaged = run_facet("inspect file " + run + "/checkpoints/step-1/");
  CHECK(damaged.code == 3);
  CHECK(damaged.err.find("CRC of ") != std::string::npos);
}

TEST_CASE("inspect config: exact counts, layers, memory") {
  const Result r = run_facet("inspect config gemma3-270m");
  CHECK(r.code == 0);
  CHECK(r.err.empty());
  CHECK(r.out.find("L L L L L G  L L L L L G  L L L L L G\n") != std::string::npos);
  CHECK(r.out.find("268,098,176") != std::string::npos);
  const auto count = [](const std::string& args) { return nlohmann::json::parse(run_facet("inspect config --json " + args).out).at("parameters"); };
  CHECK(count("gemma3-1b") == 999885952);
  CHECK(count("gemma3-27b") == 27009002240);
  CHECK(count(FACET_GOLDENS "/gemma3-tiny") == 379136);
  CHECK(run_facet("inspect config gemma3-270m --set model.sliding_window=128").out.find("L sees 128 tokens") != std::string::npos);
  CHECK(run_facet("inspect config gemma3-1b --params").out.find("layers.*.self_attn.q_proj.weight") != std::string::npos);
  CHECK(run_facet("inspect config gemma3-270n").code == 2);
  CHECK(run_facet("inspect config gemma3-270m --set model.slidng_window=128").code == 2);
  CHECK(run_facet("inspect config no/such/folder").code == 3);
}

TEST_CASE("inspect run: draws the metrics of a run") {
  std::string lines;
  for (int i = 1; i <= 200; ++i) lines += "{\"step\":" + std::to_string(i) + ",\"loss\":" + std::to_string(400.0 / (100 + i)) + ",\"lr\":1e-4}\n";
  lines += "{\"step\":190,\"loss\":null,\"lr\":1e-4}\n";  // resumed from step 189, then not finite
  lines += "{\"kind\":\"valid\",\"step\":190,\"loss\":7}\n{\"step\":191,\"lo";
  TempFile file("metrics.jsonl", lines);
  const Result r = run_facet("inspect run " + file.path);
  CHECK(r.code == 0);
  CHECK(r.err.empty());
  CHECK(r.out.find("loss\n      3.96 |*") == 0);
  CHECK(r.out.find("valid.loss") != std::string::npos);
  CHECK(r.out.find("\nloss                          190       3.96        nan") != std::string::npos);
  CHECK(run_facet("inspect run --plot lsos " + file.path).err.find("did you mean loss?") != std::string::npos);
  CHECK(nlohmann::json::parse(run_facet("inspect run --json " + file.path).out).at("lr").size() == 190);
  TempFile broken("metrics.jsonl", "{\"step\":1,}\n");
  const Result b = run_facet("inspect run " + broken.path);
  CHECK(b.code == 3);
  CHECK(b.err.find(broken.path + ":1") != std::string::npos);
  CHECK(run_facet("inspect run /nowhere").code == 3);
}

TEST_CASE("plot: means and ranges in a grid") {
  CHECK(plot({{0, 0}, {1, 1}, {2, 2}}, 3, 3) ==
        "         2 |  *\n"
        "           | *\n"
        "         0 |*\n"
        "           +---\n"
        "            0 2\n");
  CHECK(plot({{0, 5}}, 4, 3).find('*') != std::string::npos);
  CHECK(plot({{0, NAN}, {1, 1}}, 4, 3).find('x') != std::string::npos);
  CHECK(plot({{0, NAN}}, 4, 3) == "(no finite value)\n");
  CHECK(plot({{0, 1}, {1, 10}, {2, 100}}, 3, 3, true).find("|  *\n           | *\n") != std::string::npos);
  CHECK(short_number(0.0003) == "0.0003");
  CHECK(short_number(2.5e-5) == "2.5e-05");
  CHECK(short_number(120) == "120");
}

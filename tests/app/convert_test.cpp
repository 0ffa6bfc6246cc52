#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "tensor/io/safetensors.h"
#include "tests/app/run.h"

using namespace facet;

namespace {
std::string slurp(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}
}  // namespace

TEST_CASE("convert: there and back gives the same bytes") {
  TempFile scratch("x", "");
  const std::string tiny = FACET_GOLDENS "/gemma3-tiny", a = scratch.folder + "/a", b = scratch.folder + "/deep/b", c = scratch.folder + "/c";
  const Result there = run_facet("convert " + tiny + " " + a + " --shard-size 200KB");
  CHECK(there.err.find("facet:") == std::string::npos);
  REQUIRE(there.code == 0);
  CHECK(Safetensors(a).files().size() > 5);
  CHECK(slurp(a + "/config.json") == slurp(tiny + "/config.json"));
  REQUIRE(run_facet("convert " + a + " " + b + " -q").code == 0);
  CHECK(slurp(b + "/model.safetensors") == slurp(tiny + "/model.safetensors"));
  CHECK(slurp(b + "/tokenizer.model") == slurp(tiny + "/tokenizer.model"));
  // to bf16 and wider again: the rounded values, and a config that says so
  REQUIRE(run_facet("convert -q --dtype bf16 " + tiny + " " + c).code == 0);
  CHECK(Safetensors(c).info("model.norm.weight").dtype == "BF16");
  CHECK(Safetensors(c).load("model.norm.weight").to(DType::f32).to_vector() ==
        Safetensors(tiny).load("model.norm.weight").to(DType::bf16).to(DType::f32).to_vector());
  const auto config = nlohmann::json::parse(slurp(c + "/config.json"));
  CHECK(config.value("dtype", config.value("torch_dtype", "")) == "bfloat16");
}

TEST_CASE("convert: refuses what it would spoil, and leaves nothing behind") {
  TempFile scratch("x", "");
  const std::string tiny = FACET_GOLDENS "/gemma3-tiny";
  const Result full = run_facet("convert " + tiny + " " + scratch.folder);
  CHECK(full.code == 2);
  CHECK(full.err == "facet: --out " + scratch.folder + ": exists and is not empty; choose another or remove it first\n");
  CHECK(std::distance(std::filesystem::directory_iterator(scratch.folder), {}) == 1);
  const Result size = run_facet("convert " + tiny + " " + scratch.folder + "/y --shard-size 5XB");
  CHECK(size.code == 2);
  CHECK(size.err == "facet: --shard-size: \"5XB\" is no size such as 500MB or 5GB\n");
  CHECK(run_facet("convert /nowhere " + scratch.folder + "/y").code == 3);
  CHECK_FALSE(std::filesystem::exists(scratch.folder + "/y"));
}

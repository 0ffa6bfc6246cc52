// Weights of other formats through the program: convert, generate, inspect, and part of a model by pattern.
#include <catch2/catch.hpp>

#include "tensor/io/safetensors.h"
#include "tests/app/run.h"
#include "tests/support/goldens.h"
#include "tests/support/temp_folder.h"
#include "tests/support/zip_maker.h"

using namespace facet;
using namespace facet::test;
using Catch::Matchers::Contains;
namespace fs = std::filesystem;

namespace {

const std::string tiny = FACET_GOLDENS "/gemma3-tiny", tree = FACET_GOLDENS "/jax/gemma3-tiny/params.safetensors";

// The tree as somebody has it: a file, with config and tokenizer beside it.
void put_tree(const TempFolder& t) {
  for (const char* name : {"config.json", "tokenizer.model"}) fs::copy(tiny + "/" + name, t / name);
  fs::copy(tree, t / "params.safetensors");
}

void same_weights(const std::string& a, const std::string& b) {
  const TensorFiles x(a), y(b);
  REQUIRE(x.tensors().size() == y.tensors().size());
  for (const auto& [name, info] : x.tensors()) {
    INFO(name);
    CHECK(x.bytes(name) == y.bytes(name));
  }
}

}  // namespace

TEST_CASE("convert: from DeepMind's tree, and to NumPy and back, gives the same bytes") {
  const TempFolder t;
  put_tree(t);
  REQUIRE(run_facet("convert " + t / "params.safetensors" + " " + t / "hf").code == 0);
  same_weights(tiny, t / "hf");
  CHECK(Safetensors(t / "hf").metadata().at("facet.source") == "params.safetensors, safetensors, DeepMind, flat");
  CHECK(fs::exists(t / "hf/tokenizer.model"));
  REQUIRE(run_facet("convert -q " + tiny + " " + t / "npz" + " --to npz").code == 0);
  same_weights(tiny, t / "npz");
  REQUIRE(run_facet("convert -q " + t / "npz" + " " + t / "back").code == 0);
  same_weights(tiny, t / "back");
  // What was read is told, and the file itself serves as a model.
  CHECK_THAT(run_facet("inspect model " + t / "npz" + " --json").out, Contains("\"format\": \"npz\""));
  const std::string words = " --raw -p \"the cat\" -n 4 --greedy -q";
  const Result folder = run_facet("generate " + tiny + words), file = run_facet("generate " + t / "params.safetensors" + words);
  CHECK(folder.err == "");
  CHECK(file.code == 0);
  CHECK(file.out == folder.out);
}

TEST_CASE("convert: a model with images, whole and its text alone") {
  const TempFolder t;
  const std::string images = FACET_GOLDENS "/siglip-tiny";
  REQUIRE(run_facet("convert -q " + images + " " + t / "whole").code == 0);
  same_weights(images, t / "whole");
  REQUIRE(run_facet("convert -q " + images + " " + t / "text" + " --text-only").code == 0);
  CHECK(Safetensors(t / "text").tensors().size() == 6 * 13 + 2);
  CHECK(read_file(t / "text/config.json").find("vision") == std::string::npos);
  CHECK(run_facet("convert -q " + t / "text" + " " + t / "again").code == 0);
}

TEST_CASE("convert: PyTorch files, good and malicious") {
  const TempFolder t;
  fs::copy(tiny + "/config.json", t / "config.json");
  const Safetensors weights(tiny);
  std::map<std::string, Tensor> compiled;  // by torch.compile, of a data-parallel module
  for (const auto& [name, info] : weights.tensors()) compiled["_orig_mod.module." + name] = weights.load(name);
  t.write("a.pt", torch_of(compiled, "model"));
  const Result good = run_facet("convert " + t / "a.pt" + " " + t / "out");
  CHECK(good.code == 0);
  CHECK_THAT(good.out, Contains("1 tensors that are a trainer's"));
  same_weights(tiny, t / "out");

  // What os.system would have left if the pickle had been run.
  const std::string call = pickle::global("os", "system") + pickle::tuple({pickle::text("touch " + t / "harm")}) + "R";
  t.write("bad.pt", torch_of(pickle::program(call), {}));
  const Result bad = run_facet("convert " + t / "bad.pt" + " " + t / "none");
  CHECK(bad.code == 3);
  CHECK_THAT(bad.err, Contains("bad.pt: pickle refers to \"os.system\" - not a tensor file, refused"));
  CHECK_FALSE(fs::exists(t / "harm"));
  CHECK(run_facet("generate " + t / "bad.pt" + " --raw -p x").code == 3);

  const Result complex_numbers = run_facet("convert " FACET_GOLDENS "/files/torch.pt " + t / "none");
  CHECK(complex_numbers.code == 3);
  CHECK_THAT(complex_numbers.err, Contains("freqs\" is C64"));
  const Result old = run_facet("convert " FACET_GOLDENS "/files/old.pt " + t / "none");
  CHECK(old.code == 3);
  CHECK_THAT(old.err, Contains("before 1.6 is not supported: re-save it"));
  CHECK_FALSE(fs::exists(t / "none"));
}

TEST_CASE("init: part of another model by pattern") {
  const TempFolder t;
  const std::string init = "init " + t / "m" + " --tokenizer " + tiny + " --set model.num_hidden_layers=9 --set model.hidden_size=64 --set model.num_attention_heads=4" +
                           " --set model.num_key_value_heads=2 --set model.head_dim=32 --set model.intermediate_size=128 --restore-from " + tiny;
  const Result strict = run_facet(init + " --strict --restore 'layers.[0-3].*'");
  CHECK(strict.code == 3);
  CHECK_THAT(strict.err, Contains("41 skipped, 0 missing, and --strict allows neither"));
  CHECK_FALSE(fs::exists(t / "m"));
  const Result some = run_facet(init + " --restore 'layers.[0-3].*'");
  CHECK(some.code == 0);
  CHECK_THAT(some.out, Contains("52 loaded: layers.0.input_layernorm.weight") && Contains("41 skipped (in the file, not used): ") && Contains("0 missing"));
  const Safetensors from(tiny), made(t / "m");
  CHECK(made.bytes("model.layers.3.mlp.up_proj.weight") == from.bytes("model.layers.3.mlp.up_proj.weight"));
  CHECK(made.bytes("model.layers.4.mlp.up_proj.weight") != from.bytes("model.layers.4.mlp.up_proj.weight"));
  const Result none = run_facet("init " + t / "n" + " --tokenizer " + tiny + " --restore-from " + tiny + " --restore nothing");
  CHECK(none.code == 3);
  CHECK_THAT(none.err, Contains("no weight matches --restore nothing"));
  CHECK(run_facet("init " + t / "n" + " --tokenizer " + tiny + " --strict").code == 2);
}

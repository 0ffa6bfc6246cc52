// The twin of primitive operations, and every known mistake made with it: the model agrees with the references, a mistake does not, and is as
// loud as it was when the mistake was made in Hugging Face's own code (meta.json of the references). docs/discrepancies.md lists them.
#include <catch2/catch.hpp>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "autograd/tape.h"
#include "models/gemma/hf.h"
#include "models/gemma/model.h"
#include "models/gemma/twin.h"
#include "tests/models/reference.h"

using namespace facet;
using facet::test::Golden;
using facet::test::golden_path;
using facet::test::max_difference;
using facet::test::tokens_of;

namespace {

struct ReferenceModel {
  explicit ReferenceModel(const std::string& name)
      : config(read_hf_config(golden_path(name))), weights(load_weights(golden_path(name), config)), golden(name + "-ref/taps.safetensors") {
    std::ifstream file(golden_path(name + "-ref/meta.json"));
    meta = nlohmann::json::parse(file);
    for (const auto& set : meta["sets"]) sets.push_back(set);
  }
  Tensor logits(const std::string& set, const Discrepancy* d = nullptr, bool differ = true) const {
    GemmaTwin twin(config, weights, d ? d->dtype : DType::f64);
    if (d && differ) d->apply(twin.config, twin.choices);
    else if (d && d->compare_with) d->compare_with(twin.choices);
    return twin.logits(tokens_of(golden, set));
  }
  double difference(const std::string& set, const Tensor& got, const Tensor& want) const {
    return max_difference(got, want, golden[set + ".attention_mask"]);
  }
  double effect(const std::string& set, const Discrepancy& d) const {
    const bool mistake = d.kind == Discrepancy::Kind::mistake;
    return difference(set, logits(set, &d), mistake ? golden[set + ".logits"] : logits(set, &d, false));
  }

  GemmaConfig config;
  NamedTensors weights;
  Golden golden;
  nlohmann::json meta;
  std::vector<std::string> sets;
};

constexpr const char* names[] = {"gemma3-tiny", "gemma3-rope8", "gemma2-tiny", "gemma1-tiny"};

}  // namespace

TEST_CASE("twin: agrees with Hugging Face, and with its mistakes to the second digit") {
  for (const std::string name : names) {
    const ReferenceModel model(name);
    std::set<std::string> known;
    for (const auto& [mistake, rows] : model.meta["max_abs_logit_change_of_mistake"].items()) known.insert(mistake);
    for (const std::string& set : model.sets) {
      INFO(name << " " << set);
      // Ten times what the reference's own f32 run is off, as for the model itself.
      const double noise = model.meta["stats"][set]["max_abs_logit_diff_f32_f64"].get<double>();
      CHECK(model.difference(set, model.logits(set), model.golden[set + ".logits"]) <= 10 * noise);
      for (const Discrepancy& d : discrepancies()) {
        if (d.kind != Discrepancy::Kind::mistake || !d.concerns(model.config)) continue;
        INFO(d.name);
        const double effect = model.effect(set, d);
        CHECK(effect > 30 * noise);
        if (!known.count(d.name)) continue;
        const double theirs = model.meta["max_abs_logit_change_of_mistake"][d.name][set].get<double>();
        CHECK(effect == Approx(theirs).epsilon(0.01).margin(2 * noise));
      }
    }
    for (const Discrepancy& d : discrepancies())
      if (d.concerns(model.config)) known.erase(d.name);
    INFO(name);
    CHECK(known.empty());  // every mistake of the reference is made here
  }
}

TEST_CASE("twin: f32 is the model to the last bits, and joined products are the same bits") {
  for (const std::string name : names) {
    const ReferenceModel reference(name);
    Gemma model(reference.config);
    load_weights(golden_path(name), reference.config, named_values(model));
    const NoGrad off;
    for (const std::string& set : reference.sets) {
      GemmaTwin twin(reference.config, reference.weights, DType::f32);
      const Tokens tokens = tokens_of(reference.golden, set);
      const Tensor got = model.logits(model.hidden(tokens)), plain = twin.logits(tokens);
      INFO(name << " " << set);
      CHECK(reference.difference(set, got, plain) <= 2e-4);
      twin.choices.joined_products = true;
      CHECK(twin.logits(tokens).to_vector() == plain.to_vector());
    }
  }
}

namespace {

std::string table(Discrepancy::Kind kind) {
  std::vector<std::unique_ptr<ReferenceModel>> models;
  for (const char* name : names) models.push_back(std::make_unique<ReferenceModel>(name));
  std::string out = "| `--only` | what | gemma3-tiny | gemma3-rope8 | gemma2-tiny | gemma1-tiny |\n|---|---|---|---|---|---|\n";
  for (const Discrepancy& d : discrepancies()) {
    if (d.kind != kind) continue;
    out += fmt::format("| `{}` | {} |", d.name, d.what);
    for (const auto& m : models) {
      if (!d.concerns(m->config)) {
        out += " - |";
        continue;
      }
      double least = INFINITY, most = 0;
      for (const std::string& set : m->sets) {
        const double effect = m->effect(set, d);
        least = std::min(least, effect), most = std::max(most, effect);
      }
      out += fmt::format(" {:.1e} |", kind == Discrepancy::Kind::mistake ? least : most);
    }
    out += "\n";
  }
  return out;
}

}  // namespace

// FACET_WRITE=1 writes the tables anew. Sizes of mistakes are compared as they stand; those of rounding depend on the processor.
TEST_CASE("twin: docs/discrepancies.md lists every discrepancy with its size") {
  const std::string path = std::string(FACET_SOURCE) + "/docs/discrepancies.md";
  std::ifstream file(path);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  std::string page;
  std::istringstream in(text);
  bool inside = false;
  for (std::string line; std::getline(in, line);) {
    if (inside && line.rfind('|', 0) == 0) continue;
    inside = false;
    page += line + "\n";
    for (const auto& [marker, kind] : {std::pair{"<!-- mistakes -->", Discrepancy::Kind::mistake}, {"<!-- roundings -->", Discrepancy::Kind::rounding}})
      if (line == marker) {
        page += table(kind);
        inside = true;
      }
  }
  if (std::getenv("FACET_WRITE")) std::ofstream(path) << page;
  const auto without_roundings = [](const std::string& s) { return s.substr(0, s.find("<!-- roundings -->")); };
  CHECK(without_roundings(page) == without_roundings(text));
  for (const Discrepancy& d : discrepancies()) CHECK(text.find(fmt::format("| `{}` | {} |", d.name, d.what)) != std::string::npos);
}

// A DPO run that was killed and resumed is the run that was not, bit for bit: weights, moments, metrics; of all weights and of an adapter.
#include <catch2/catch.hpp>

#include "nn/lora.h"
#include "optim/adamw.h"
#include "tensor/parallel.h"
#include "tests/support/compare.h"
#include "tests/support/run_files.h"
#include "tests/support/temp_folder.h"
#include "tests/train/small.h"
#include "train/dpo.h"
#include "train/reference_cache.h"

using namespace facet;
using namespace facet::test;

namespace {

struct Killed {};  // what a test throws where a kill would strike

constexpr int64_t steps = 7;  // of 4 pairs out of 13: epochs end inside of steps 3 and 6

// Dpo that dies in step `cut`: when its gradients are there, or when only those of its first micro-batch are.
struct Mortal final : Objective {
  int64_t cut = -1, now = 0, micro = 0;
  bool inside = false;
  Dpo dpo;
  Mortal(LanguageModel& m, const Loader& l, Reference r, Dpo::HeldOut v)
      : dpo(m, l, [this, r = std::move(r)](const Batch& b) { return die(++micro == 2 && inside), r(b); }, std::move(v), {.beta = 0.5}) {}
  void die(bool here) const {
    if (here && now == cut) throw Killed{};
  }
  StepReport accumulate(int64_t step) override {
    now = step;
    micro = 0;
    StepReport r = dpo.accumulate(step);
    die(true);
    return r;
  }
  std::map<std::string, double> evaluate() override { return dpo.evaluate(); }
};

// Everything a process would build.
struct Trainer {
  Dataset data = small_pairs(), held_out = small_pairs(3);
  std::unique_ptr<Gemma> model = small_model();
  std::unique_ptr<Adapters> adapters;
  ReferenceCache cache;
  Loader loader{data, {.batch = 4, .accum = 2}};
  Mortal objective;
  AdamW optimizer;
  RunFolder folder;
  Loop loop;
  int64_t passes = 0;

  Trainer(const std::string& path, bool resume, bool lora)
      : adapters(make_adapters(*model, lora)),
        objective(*model, loader, reference(data, "train"), {&held_out, batches_in_order(held_out, 2), reference(held_out, "valid")}),
        optimizer({{.parameters = training(*model), .weight_decay = 0.1}}),
        folder(path, resume),
        loop(*model, optimizer, objective, folder, options(), {{"batch", "4"}}) {
    if (lora) return;
    const std::string file = folder.file("reference.safetensors");
    if (auto found = ReferenceCache::load(file, "data", "start")) {
      for (auto& [part, values] : found->parts) cache.parts[part] = std::move(values);
    } else {
      cache.data = "data";
      cache.reference = "start";
      reference_pass(*model, data, 2, false, 0, cache.parts["train"], {});
      reference_pass(*model, held_out, 2, false, 0, cache.parts["valid"], {});
      cache.save(file);
      ++passes;
    }
  }
  static std::unique_ptr<Adapters> make_adapters(Gemma& model, bool lora) {
    if (!lora) return nullptr;
    auto a = std::make_unique<Adapters>(model);
    a->add("new", {.rank = 3, .dropout = 0.2}, key(5));
    return a;
  }
  static std::vector<Parameter*> training(Gemma& model) {
    std::vector<Parameter*> r;
    for (Parameter* p : parameters(model))
      if (p->trains()) r.push_back(p);
    return r;
  }
  static LoopOptions options() {
    LoopOptions o;
    o.steps = steps;
    o.lr = 0.01;
    o.eval_every = 4;
    o.save_every = 1;
    o.keep = 3;
    return o;
  }
  Reference reference(const Dataset& d, const std::string& part) {
    if (adapters) return adapter_off_reference(*adapters, d);
    return cached_reference(cache.parts[part]);
  }
  std::map<std::string, Tensor> state() {
    std::map<std::string, Tensor> all;
    for (const auto& [name, t] : named_values(*model)) all[name] = t.clone();
    for (const auto& [name, t] : optimizer.state()) all[name] = t.clone();
    return all;
  }
};

}  // namespace

TEST_CASE("dpo: a run that was killed and resumed is the run that was not") {
  const int at_start = threads();
  for (const bool lora : {false, true}) {
    const TempFolder temp;
    set_threads(1);
    Trainer whole(temp / "whole", false, lora);
    whole.loop.run();
    const auto want = whole.state();
    CHECK(whole.loop.last_evaluation().at("margin") > 0);
    // In the second step, between two micro-batches of the step that ends an epoch, in the last one.
    for (const int64_t cut : {int64_t{1}, int64_t{3}, steps - 1}) {
      INFO((lora ? "adapter" : "all weights") << ", dies in step " << cut);
      const std::string path = temp / std::to_string(cut);
      {
        Trainer first(path, false, lora);
        first.objective.cut = cut;
        first.objective.inside = cut == 3;
        CHECK_THROWS_AS(first.loop.run(), Killed);
      }
      set_threads(cut == 3 ? 2 : 1);
      Trainer second(path, true, lora);
      REQUIRE(second.loop.resume());
      CHECK(second.loop.step() == cut);
      CHECK(second.passes == 0);  // the reference is that of the start, from the file
      second.loop.run();
      const auto have = second.state();
      REQUIRE(have.size() == want.size());
      for (const auto& [name, t] : want) {
        INFO(name);
        CHECK(bitwise_equal(t, have.at(name)));
      }
      CHECK(metrics_of(temp / "whole") == metrics_of(path));
    }
    if (lora) {  // and the base is what it was
      const auto start = small_model();
      for (const auto& [name, t] : named_values(*start)) CHECK(bitwise_equal(t, want.at(name)));
    }
  }
  set_threads(at_start);
}

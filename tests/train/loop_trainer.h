// A run of the loop that tests can disturb: everything a process would build, around a small model.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "nn/lora.h"
#include "optim/adamw.h"
#include "tests/train/small.h"
#include "train/loop.h"

namespace facet::test {

struct Killed {};  // what a test throws where a kill would strike

// Sft, with something done to it at chosen steps.
struct Disturbed final : Objective {
  Sft sft;
  std::function<void(int64_t step)> before = [](int64_t) {};
  std::function<void(int64_t step, StepReport&)> after = [](int64_t, StepReport&) {};
  Disturbed(LanguageModel& m, const Loader& l, std::vector<Batch> valid) : sft(m, l, std::move(valid)) {}
  StepReport accumulate(int64_t step) override {
    before(step);
    StepReport r = sft.accumulate(step);
    after(step, r);
    return r;
  }
  std::string samples(int64_t step) const override { return sft.samples(step); }
  std::map<std::string, double> evaluate() override { return sft.evaluate(); }
};

// Everything a process would build.
struct Trainer {
  Dataset data = small_data();  // 21 rows: an epoch ends inside step 6 of batches of 4
  std::unique_ptr<Gemma> model;
  std::unique_ptr<Adapters> adapters;  // if an adapter is what trains
  Loader loader{data, {.batch = 4, .accum = 2}};
  AdamW optimizer;
  Disturbed objective;
  RunFolder folder;
  Loop loop;

  static LoopOptions options(int64_t steps) {
    LoopOptions o;
    o.steps = steps;
    o.lr = 0.01;
    o.schedule = {.shape = Schedule::Shape::cosine, .warmup = 2, .steps = steps};
    o.eval_every = 4;
    o.save_every = 1;
    o.keep = 3;
    return o;
  }
  Trainer(const std::string& path, bool resume, DType dtype, const LoopOptions& o, std::map<std::string, std::string> identity = {{"batch", "4"}},
          const LoraOptions* lora = nullptr)
      : model(small_model(dtype)),
        adapters(lora ? std::make_unique<Adapters>(*model) : nullptr),
        optimizer({{.parameters = training(lora), .weight_decay = 0.1}}),
        objective(*model, loader, batches_in_order(data, 4)),
        folder(path, resume),
        loop(*model, optimizer, objective, folder, o, std::move(identity)) {}

  std::vector<Parameter*> training(const LoraOptions* lora) {
    if (lora) adapters->add("new", *lora, key(3));
    std::vector<Parameter*> list;
    for (Parameter* p : parameters(*model))
      if (p->trains()) list.push_back(p);
    return list;
  }

  std::map<std::string, Tensor> state() {
    std::map<std::string, Tensor> all;
    for (const auto& [name, t] : named_values(*model)) all[name] = t.clone();
    for (const auto& [name, t] : optimizer.state()) all[name] = t.clone();
    return all;
  }
};

}  // namespace facet::test

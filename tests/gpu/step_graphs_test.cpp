// A whole step of training as graphs: norms, updates and cleared gradients beside the passes. The bits of launched steps, whatever changes from
// one to the next; what is skipped; what a run resumes to; and that nothing is launched one by one.
#include <cmath>
#include <functional>

#include "autograd/ops.h"
#include "nn/body_graphs.h"
#include "optim/adafactor.h"
#include "optim/lion.h"
#include "optim/sgd.h"
#include "tensor/gpu/runtime.h"
#include "tensor/io/file.h"
#include "tests/gpu/tiny_model.h"
#include "tests/support/compare.h"
#include "tests/support/random.h"
#include "tests/support/run_files.h"
#include "tests/support/temp_folder.h"
#include "tests/train/small.h"
#include "train/loop.h"

using namespace facet;
using namespace facet::test;

namespace {

struct Rule {
  const char* name;
  DType dtype;
  std::function<std::unique_ptr<Optimizer>(std::vector<ParameterGroup>)> make;
};

/// Every optimizer, and what each does differently with other dtypes, shapes and settings.
std::vector<Rule> rules() {
  const auto adamw = [](const AdamWOptions& o) { return [o](const auto& groups) { return std::make_unique<AdamW>(groups, o); }; };
  const auto lion = [](const auto& groups) { return std::make_unique<Lion>(groups); };
  const auto adafactor = [](const auto& groups) { return std::make_unique<Adafactor>(groups, AdafactorOptions{.least_factored = 5}); };
  const auto sgd = [](auto groups) {
    for (ParameterGroup& g : groups) g.weight_decay = 0;  // it has none
    return std::make_unique<Sgd>(groups, SgdOptions{.momentum = 0.9, .nesterov = true});
  };
  return {{"AdamW", DType::f32, adamw({})},
          {"AdamW", DType::bf16, adamw({})},
          {"AdamW, rounded by chance", DType::bf16, adamw({.bf16_moments = true, .master = false, .key = key(5)})},
          {"Lion", DType::f32, lion},
          {"Lion", DType::bf16, lion},
          {"Adafactor", DType::f32, adafactor},
          {"Adafactor", DType::bf16, adafactor},
          {"Sgd", DType::f32, sgd}};
}

constexpr unsigned all_of_them = 15;

/// Four parameters of awkward sizes, gradients for them, and an optimizer.
struct Few {
  std::vector<std::unique_ptr<Parameter>> own;
  std::unique_ptr<Optimizer> optimizer;

  Few(const Rule& rule, bool keep, Device device = Device::gpu) {
    gpu::emulate(true);
    Random r(1);
    ParameterGroup decayed{.parameters = {}, .weight_decay = 0.1}, plain{.parameters = {}, .lr_scale = 0.5};
    for (const Shape& s : {Shape{31, 7}, Shape{1}, Shape{129}, Shape{4, 8}}) {
      own.push_back(std::make_unique<Parameter>(r.normal(s, DType::f32).to(rule.dtype).to(device)));
      own.back()->name = std::to_string(own.size());
      (s.rank == 2 ? decayed : plain).parameters.push_back(own.back().get());
    }
    optimizer = rule.make({decayed, plain});
    optimizer->keep_gradients(keep);
  }
  /// Two micro-batches' worth, for the parameters whose bits are set.
  void gradients(uint32_t step, unsigned who = all_of_them) {
    Random r(100 + step);
    for (int micro = 0; micro < 2; ++micro)
      for (size_t i = 0; i < own.size(); ++i) {
        const Tensor& value = own[i]->value();
        const Tensor g = r.normal(value.shape(), DType::f32);
        if (who >> i & 1) backward(value, g.to(value.dtype()).to(value.device()));
      }
  }
  /// A parameter's value, and what the optimizer remembers of it.
  std::vector<Tensor> state_of(size_t i) const {
    std::vector<Tensor> all = {own[i]->value().detach().to(Device::cpu).clone()};
    for (const auto& [name, t] : optimizer->state())
      if (name.ends_with("." + own[i]->name)) all.push_back(t.to(Device::cpu).clone());
    return all;
  }
  std::vector<Tensor> state() const {
    std::vector<Tensor> all;
    for (const auto& p : own) all.push_back(p->value().detach().to(Device::cpu).clone());
    for (const auto& [name, t] : optimizer->state()) all.push_back(t.to(Device::cpu).clone());
    return all;
  }
};

bool same(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const Tensor& x, const Tensor& y) { return static_cast<bool>(bitwise_equal(x, y)); });
}

}  // namespace

TEST_CASE("step graphs: updates with other rates, clips and steps have the bits of launched ones") {
  for (const Rule& rule : rules()) {
    INFO(rule.name << " " << name_of(rule.dtype));
    Few launched(rule, false), replayed(rule, true), cpu(rule, false, Device::cpu);
    for (uint32_t step = 0; step < 9; ++step) {
      for (Few* f : {&launched, &replayed, &cpu}) {
        f->gradients(step);
        // From one step to the next rate and factor change; gradients that are not finite, or are asked to be forgotten, change nothing.
        const Clip clip = f->optimizer->clip(step % 3 == 0 ? 0 : 4.0 / (1 + step));
        CHECK(clip.norm == clip_global_norm(f->optimizer->parameters(), 0).norm);
        CHECK(clip.clipped() == (step % 3 != 0));
        const std::vector<Tensor> before = f->state();
        if (step == 4) f->optimizer->drop_gradients();
        else f->optimizer->step(0.01 * (1 + step), step == 7 ? std::nan("") : clip.scale);
        if (step == 4 || step == 7) {
          for (size_t i = 0; i < f->own.size(); ++i) CHECK(bitwise_equal(f->state()[i], before[i]));
        }
      }
      CHECK(same(launched.state(), replayed.state()));
      if (rule.dtype == DType::f32)
        for (size_t i = 0; i < cpu.own.size(); ++i) CHECK(close(replayed.state()[i], cpu.state()[i], 1e-4, 1e-5));
    }
    CHECK(launched.optimizer->replays() == 0);
    CHECK(replayed.optimizer->replays() >= 3);
  }
}

TEST_CASE("step graphs: a parameter that takes no part in a step is left alone, on either device, recorded or not") {
  // Whose gradients are written: the same ones often enough to be recorded, then others, in turns, none.
  const std::vector<unsigned> steps = {15, 15, 15, 7, 7, 7, 10, 5, 10, 5, 0, 0, 15, 15, 7, 7, 2};
  for (const Rule& rule : rules()) {
    INFO(rule.name << " " << name_of(rule.dtype));
    Few launched(rule, false), replayed(rule, true), cpu(rule, false, Device::cpu), cpu_keeps(rule, true, Device::cpu);
    for (uint32_t step = 0; step < steps.size(); ++step) {
      double norm = -1;
      for (Few* f : {&launched, &replayed, &cpu, &cpu_keeps}) {
        f->gradients(step, steps[step]);
        for (size_t i = 0; i < 4; ++i) CHECK(static_cast<bool>(f->own[i]->grad()) == static_cast<bool>(steps[step] >> i & 1));
        const Clip clip = f->optimizer->clip(3);
        if (f == &replayed) CHECK(clip.norm == norm);
        norm = clip.norm;
        std::vector<std::vector<Tensor>> before;
        for (size_t i = 0; i < 4; ++i) before.push_back(f->state_of(i));
        if (step == 13) f->optimizer->drop_gradients();
        else f->optimizer->step(0.01, clip.scale);
        for (size_t i = 0; i < 4; ++i) {
          CHECK(same(f->state_of(i), before[i]) == (step == 13 || !(steps[step] >> i & 1)));
          CHECK_FALSE(f->own[i]->grad());
        }
      }
      CHECK(same(launched.state(), replayed.state()));
      CHECK(same(cpu.state(), cpu_keeps.state()));
      if (rule.dtype == DType::f32)
        for (size_t i = 0; i < 4; ++i) CHECK(close(replayed.state()[i], cpu.state()[i], 1e-4, 1e-5));
    }
    CHECK(replayed.optimizer->replays() == 6);  // steps 1 and 2, 4 and 5, 11 (of nothing), 15
  }
}

TEST_CASE("step graphs: a value that lies elsewhere, and a state that was loaded, are what the next step changes") {
  for (const Rule& rule : rules()) {
    INFO(rule.name << " " << name_of(rule.dtype));
    Few launched(rule, false), replayed(rule, true);
    NamedTensors saved;
    for (uint32_t step = 0; step < 12; ++step) {
      for (Few* f : {&launched, &replayed}) {
        if (step == 4) f->own[0]->reset(f->own[0]->value().detach().clone(), true);
        if (step == 8) f->optimizer->load_state(saved);
        f->gradients(step);
        f->optimizer->step(0.01, f->optimizer->clip(1).scale);
      }
      if (step == 3)
        for (const auto& [name, t] : launched.optimizer->state()) saved.emplace_back(name, t.clone());
      CHECK(same(launched.state(), replayed.state()));
    }
    CHECK(replayed.optimizer->replays() > 6);
  }
}

TEST_CASE("step graphs: a saved value that a replayed step changed is noticed") {
  Few f(rules()[0], true);
  for (uint32_t step = 0; step < 4; ++step) {
    f.gradients(step);
    const Saved saved(f.own[0]->value());
    f.optimizer->step(0.01);
    CHECK_THROWS(saved.get());
  }
  CHECK(f.optimizer->replays() > 0);
}

TEST_CASE("step graphs: what a step of a model launches outside of graphs") {
  gpu::emulate(true);
  const Batch b = batch_of(plain_tokens(randint(key(2), {2, 8}, 0, small_config().vocab)));
  const std::vector<Batch> batches = {b, b};
  const std::vector<Rule> all_rules = rules();
  for (const size_t i : {0, 1, 4, 6, 7}) {  // AdamW for both dtypes, the others once: a model costs a second
    const Rule& rule = all_rules[i];
    std::vector<Tensor> want;
    for (const bool graphs : {false, true}) {
      const auto model = small_model(rule.dtype);
      model->to(Device::gpu);
      if (graphs) model->graphs = std::make_shared<BodyGraphs>(*model);
      const auto optimizer = rule.make({{.parameters = parameters(*model)}});
      optimizer->keep_gradients(graphs);
      int64_t lone = 0, all = 0, waits = 0;
      for (int step = 0; step < 3; ++step) {  // with graphs the first is launched, the second recorded
        gpu::synchronize();  // a device that works late counts late
        const gpu::emulator::Counters before = gpu::emulator::counters();
        const int64_t waited = gpu::syncs();
        accumulate_sft(*model, batches);
        optimizer->step(1e-3, optimizer->clip(1.0).scale);
        waits = gpu::syncs() - waited;
        gpu::synchronize();
        lone = gpu::emulator::counters().lone_launches - before.lone_launches, all = gpu::emulator::counters().launches - before.launches;
      }
      INFO(rule.name << " " << name_of(rule.dtype) << ": " << lone << " of " << all << " launches are no graph's");
      CHECK(waits == 3);  // two losses and a norm
      if (graphs) CHECK(lone == 0);
      else CHECK(lone == all);
      CHECK(all > 2 * std::ssize(optimizer->parameters()));
      std::vector<Tensor> values;
      for (Parameter* p : parameters(*model)) values.push_back(p->value().detach().to(Device::cpu));
      if (!graphs) want = values;
      CHECK(same(values, want));
    }
  }
}

namespace {

enum class Learns { whole, body, head, nothing };

/// A pass that learns from that part of a model alone.
void pass_over(Learns what, Gemma& model, const Batch& b) {
  const TrainingPass pass(model, {b.ids, b.positions, {}});
  if (what == Learns::whole) pass.cross_entropy(b.labels, {}, {});
  if (what == Learns::nothing) pass.cross_entropy(Tensor::full(b.labels.shape(), -1, DType::i32), {}, {});
  if (what == Learns::body) backward(pass.h, Tensor::full(pass.h.shape(), 0.1).to(pass.h.device()));
  if (what == Learns::head) linear_cross_entropy_backward(pass.h.detach(), model.head().value(), b.labels, {}, {});
  if (what == Learns::body || what == Learns::head) pass.finish();
}

}  // namespace

TEST_CASE("step graphs: recorded passes say which parameters they wrote, as passes of the CPU do") {
  gpu::emulate(true);
  const Batch b = batch_of(plain_tokens(randint(key(2), {2, 8}, 0, small_config().vocab)));
  using enum Learns;
  const std::vector<std::vector<Learns>> steps = {{whole}, {whole}, {whole, whole}, {body}, {body}, {head}, {head, nothing}, {nothing}, {body, head}, {whole}, {nothing, whole}};
  GemmaConfig config = small_config();
  config.tied_head = false;
  std::vector<std::vector<Tensor>> per_step;  // of passes that are launched
  for (const auto& [device, graphs] : {std::pair(Device::gpu, false), std::pair(Device::gpu, true), std::pair(Device::cpu, false)}) {
    Gemma model(config, DType::f32);
    model.init(key(7));
    model.to(device);
    if (graphs) model.graphs = std::make_shared<BodyGraphs>(model);
    AdamW optimizer({{.parameters = parameters(model), .weight_decay = 0.1}});
    optimizer.keep_gradients(graphs);
    const std::vector<Parameter*> all = parameters(model);
    const auto values = [&] {
      std::vector<Tensor> list;
      for (Parameter* p : all) list.push_back(p->value().detach().to(Device::cpu).clone());
      return list;
    };
    for (size_t step = 0; step < steps.size(); ++step) {
      INFO((device == Device::cpu ? "cpu" : graphs ? "recorded" : "launched") << ", step " << step);
      const std::vector<Tensor> before = values();
      bool of_body = false, of_head = false;
      for (const Learns what : steps[step]) {
        pass_over(what, model, b);
        of_body |= what == whole || what == body, of_head |= what == whole || what == head;
      }
      const auto takes_part = [&](const Parameter* p) { return p == &model.head() ? of_head : of_body; };
      for (Parameter* p : all) CHECK(static_cast<bool>(p->grad()) == takes_part(p));
      optimizer.step(1e-3, optimizer.clip(1).scale);
      const std::vector<Tensor> after = values();
      for (size_t i = 0; i < all.size(); ++i) CHECK(static_cast<bool>(bitwise_equal(after[i], before[i])) == !takes_part(all[i]));
      if (device == Device::gpu && !graphs) per_step.push_back(after);
      else if (device == Device::gpu) CHECK(same(after, per_step[step]));
      else
        for (size_t i = 0; i < after.size(); ++i) CHECK(close(after[i], per_step[step][i], 1e-3, 1e-4));
    }
    if (graphs) {
      CHECK(model.graphs->replays() == 13);  // all but two
      CHECK(optimizer.replays() > 2);
    }
  }
}

namespace {

/// Parameters that are pulled towards 1 by gradients with noise, so that a hundred steps of the loop cost nothing.
struct Pulled final : Module {
  Parameter a, b;
  Pulled() {
    gpu::emulate(true);
    Random r(3);
    a.reset(r.normal({17, 3}, DType::f32).to(Device::gpu), true);
    b.reset(r.normal({5}, DType::f32).to(DType::bf16).to(Device::gpu), true);
    parameters(*this);  // names
  }
  void visit(Visitor& v) override { v("a", a), v("b", b); }
};
struct Killed {};
struct Pull final : Objective {
  static constexpr int64_t spike = 70, broken = 75;  // steps whose gradients are a thousand times as large, and not finite
  Pulled& model;
  int64_t killed_at = -1;
  explicit Pull(Pulled& m) : model(m) {}
  StepReport accumulate(int64_t step) override {
    Random r(static_cast<uint64_t>(step) + 50);
    const double k = step == spike ? 1000 : step == broken ? NAN : 1;
    for (Parameter* p : parameters(model)) {
      const Tensor value = p->value().detach(), noise = r.normal(value.shape(), DType::f32).to(value.dtype()).to(Device::gpu);
      backward(p->value(), (value - 1.0 + noise) * k);
    }
    if (step == killed_at) throw Killed{};
    StepReport report;
    report.loss = 1, report.tokens = report.supervised = 1;
    return report;
  }
};
struct Run {
  Pulled model;
  AdamW optimizer{{{.parameters = parameters(model), .weight_decay = 0.1}}};
  Pull objective{model};
  RunFolder folder;
  Loop loop;

  static LoopOptions options() {
    LoopOptions o;
    o.steps = 90, o.lr = 0.01, o.save_every = 20, o.repeat_every = 20;
    return o;
  }
  Run(const std::string& path, bool resume, bool graphs)
      : folder(path, resume), loop(model, optimizer, objective, folder, options(), {}) {
    optimizer.keep_gradients(graphs);
    if (resume) REQUIRE(loop.resume());
  }
  std::vector<Tensor> state() {
    std::vector<Tensor> all;
    for (const auto& [name, t] : named_values(model)) all.push_back(t.to(Device::cpu));
    for (const auto& [name, t] : optimizer.state()) all.push_back(t.to(Device::cpu));
    return all;
  }
};

}  // namespace

TEST_CASE("step graphs: steps that the loop's guards skip, batches computed twice, a run resumed: the bits of launched steps") {
  const TempFolder temp;
  Run launched(temp / "launched", false, false), replayed(temp / "replayed", false, true);
  for (Run* r : {&launched, &replayed}) {
    r->loop.run();
    const std::string said = read_file(r->folder.file("console.log"));
    CHECK_THAT(said, Catch::Contains("step 71: gradient norm") && Catch::Contains("step 76: the gradient norm is not finite"));
  }
  CHECK(replayed.optimizer.replays() > 80);
  CHECK(same(launched.state(), replayed.state()));
  CHECK(metrics_of(temp / "launched") == metrics_of(temp / "replayed"));
  {
    Run first(temp / "cut", false, true);
    first.objective.killed_at = 72;
    CHECK_THROWS_AS(first.loop.run(), Killed);
  }
  Run second(temp / "cut", true, true);
  CHECK(second.loop.step() == 60);
  second.loop.run();
  CHECK(same(second.state(), replayed.state()));
  CHECK(metrics_of(temp / "cut") == metrics_of(temp / "replayed"));
}

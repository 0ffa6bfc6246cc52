// A whole step of training as graphs: norms, updates and cleared gradients beside the passes. The bits of launched steps, whatever changes from
// one to the next; what is skipped; what a run resumes to; and that nothing is launched one by one.
#include <cmath>

#include "autograd/ops.h"
#include "nn/body_graphs.h"
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

/// Parameters of awkward sizes, gradients for them, and an AdamW.
struct Few {
  std::vector<std::unique_ptr<Parameter>> own;
  std::unique_ptr<AdamW> optimizer;

  Few(DType dtype, const AdamWOptions& options, bool replays, Device device = Device::gpu) {
    gpu::emulate(true);
    Random r(1);
    ParameterGroup decayed{.parameters = {}, .weight_decay = 0.1}, plain{.parameters = {}, .lr_scale = 0.5};
    for (const Shape& s : {Shape{31, 7}, Shape{1}, Shape{129}, Shape{4, 8}}) {
      own.push_back(std::make_unique<Parameter>(r.normal(s, DType::f32).to(dtype).to(device)));
      own.back()->name = std::to_string(own.size());
      (s.rank == 2 ? decayed : plain).parameters.push_back(own.back().get());
    }
    optimizer = std::make_unique<AdamW>(std::vector{decayed, plain}, options);
    optimizer->keep_gradients(replays);
  }
  /// Two micro-batches' worth.
  void gradients(uint32_t step) {
    Random r(100 + step);
    for (int micro = 0; micro < 2; ++micro)
      for (const auto& p : own) backward(p->value(), r.normal(p->value().shape(), DType::f32).to(p->value().dtype()).to(p->value().device()));
  }
  std::vector<Tensor> state() const {
    std::vector<Tensor> all;
    for (const auto& p : own) all.push_back(p->value().detach().to(Device::cpu));
    for (const auto& [name, t] : optimizer->state()) all.push_back(t.to(Device::cpu));
    return all;
  }
};

bool same(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const Tensor& x, const Tensor& y) { return static_cast<bool>(bitwise_equal(x, y)); });
}

}  // namespace

TEST_CASE("step graphs: updates with other rates, clips and steps have the bits of launched ones") {
  struct Case {
    DType dtype;
    AdamWOptions options;
  };
  for (const Case& c : {Case{DType::f32, {}}, Case{DType::bf16, {}}, Case{DType::bf16, {.bf16_moments = true, .master = false, .key = key(5)}}}) {
    INFO(name_of(c.dtype) << (c.options.master ? "" : ", rounded by chance"));
    Few launched(c.dtype, c.options, false), replayed(c.dtype, c.options, true), cpu(c.dtype, c.options, false, Device::cpu);
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
      if (c.dtype == DType::f32)
        for (size_t i = 0; i < cpu.own.size(); ++i) CHECK(close(replayed.state()[i], cpu.state()[i], 1e-4, 1e-5));
    }
    CHECK(launched.optimizer->replays() == 0);
    CHECK(replayed.optimizer->replays() >= 3);
  }
}

TEST_CASE("step graphs: a value that lies elsewhere, and a state that was loaded, are what the next step changes") {
  Few launched(DType::f32, {}, false), replayed(DType::f32, {}, true);
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

TEST_CASE("step graphs: a saved value that a replayed step changed is noticed") {
  Few f(DType::f32, {}, true);
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
  for (const DType dtype : {DType::f32, DType::bf16}) {
    std::vector<Tensor> want;
    for (const bool graphs : {false, true}) {
      const auto model = small_model(dtype);
      model->to(Device::gpu);
      if (graphs) model->graphs = std::make_shared<BodyGraphs>(*model);
      AdamW optimizer({{.parameters = parameters(*model)}});
      optimizer.keep_gradients(graphs);
      int64_t lone = 0, all = 0, waits = 0;
      for (int step = 0; step < 3; ++step) {  // with graphs the first is launched, the second recorded
        gpu::synchronize();  // a device that works late counts late
        const gpu::emulator::Counters before = gpu::emulator::counters();
        const int64_t waited = gpu::syncs();
        accumulate_sft(*model, batches);
        optimizer.step(1e-3, optimizer.clip(1.0).scale);
        waits = gpu::syncs() - waited;
        gpu::synchronize();
        lone = gpu::emulator::counters().lone_launches - before.lone_launches, all = gpu::emulator::counters().launches - before.launches;
      }
      INFO(name_of(dtype) << ": " << lone << " of " << all << " launches are no graph's");
      CHECK(waits == 3);  // two losses and a norm
      if (graphs) CHECK(lone == 0);
      else CHECK(lone == all);
      CHECK(all > 2 * std::ssize(optimizer.parameters()));
      std::vector<Tensor> values;
      for (Parameter* p : parameters(*model)) values.push_back(p->value().detach().to(Device::cpu));
      if (!graphs) want = values;
      CHECK(same(values, want));
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

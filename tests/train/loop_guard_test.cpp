// The loop's guards at work: what skips an update, what goes back, what ends a run, with what is kept and what is said.
#include <catch2/catch.hpp>

#include <cerrno>
#include <cmath>
#include <filesystem>

#include "tensor/io/durable.h"
#include "tensor/io/file.h"
#include "tests/support/compare.h"
#include "tests/support/run_files.h"
#include "tests/support/temp_folder.h"
#include "tests/train/loop_trainer.h"
#include "train/checkpoint.h"

using namespace facet;
using namespace facet::test;
using Catch::Contains;

namespace {

// Runs into an error of this kind; returns what it and everything before it said.
std::string ends_with(Trainer& t, Kind kind) {
  std::string said;
  t.folder.watcher = [&](const std::string& line, bool) { said += line + "\n"; };
  try {
    t.loop.run();
    FAIL("the run went on to its end");
  } catch (const Error& e) {
    CHECK(e.kind() == kind);
    CHECK(e.exit_code() == (kind == Kind::guard ? 6 : kind == Kind::nondeterminism ? 7 : 5));  // as the manual has them
    said += e.what();
  }
  return said;
}

int64_t newest(const std::string& run) { return newest_checkpoint(run + "/checkpoints", {})->step; }

}  // namespace

TEST_CASE("loop: a step that is not finite changes nothing; ten of them end the run") {
  for (const bool in_loss : {true, false}) {
    const TempFolder temp;
    Trainer t(temp / "run", false, DType::f32, Trainer::options(30));
    std::map<std::string, Tensor> before;
    t.objective.before = [&](int64_t step) {
      if (step == 3) before = t.state();
      if (step == 4) {
        const auto now = t.state();
        for (const auto& [name, value] : before) {
          INFO(name);
          CHECK(bitwise_equal(value, now.at(name)));
        }
      }
    };
    t.objective.after = [&](int64_t step, StepReport& r) {
      if (step != 3 && step < 5) return;
      if (in_loss) r.loss = NAN;
      else parameters(*t.model)[2]->grad().out().as<float>()[5] = INFINITY;
    };
    const std::string said = ends_with(t, Kind::guard);
    CHECK_THAT(said, Contains("step 14: 10 of the last 14 steps were not finite") && Contains("; checkpoint kept"));
    CHECK_THAT(said, Contains("it would have learned from the data's lines ") && Contains("no recorded operation made it"));
    CHECK_THAT(said, Contains(in_loss ? "step 4: the loss is not finite" : "step 4: the gradient norm is not finite"));
    const auto found = newest_checkpoint(temp / "run/checkpoints", {});
    REQUIRE(found);
    CHECK(found->step == 14);
    const std::string metrics = metrics_of(temp / "run");
    CHECK_THAT(metrics, Contains("\"skipped\":1"));
    if (in_loss) CHECK_THAT(metrics, Contains("\"loss\":\"nan\""));
  }
}

TEST_CASE("loop: weights that are not finite are never saved") {
  const TempFolder temp;
  Trainer t(temp / "run", false, DType::f32, Trainer::options(6));
  t.objective.before = [&](int64_t step) {
    if (step == 3) parameters(*t.model).back()->value().out().as<float>()[1] = NAN;
  };
  LoopOptions once;
  CHECK_THROWS_WITH(t.loop.run(), Contains("\"norm.weight\" holds NaN") && Contains("last checkpoint is that of step 3"));
  CHECK(newest_checkpoint(temp / "run/checkpoints", {})->step == 3);
}

TEST_CASE("loop: an objective's guard ends the run after its step, with a checkpoint and the reason") {
  const TempFolder temp;
  LoopOptions o = Trainer::options(6);
  o.save_every = 0;
  Trainer t(temp / "run", false, DType::f32, o);
  t.objective.after = [](int64_t step, StepReport& r) {
    if (step == 2) r.stop = "the reward fell";
  };
  CHECK_THAT(ends_with(t, Kind::guard), Contains("step 3: the reward fell; checkpoint kept"));
  const auto found = newest_checkpoint(temp / "run/checkpoints", [](const std::string&) {});
  REQUIRE(found);
  CHECK(found->step == 3);
}

TEST_CASE("loop: a batch that breaks the model is traced to the operation, its module and its samples; the run goes on without it") {
  const TempFolder temp;
  LoopOptions o = Trainer::options(6);
  o.save_every = 0;
  Trainer t(temp / "run", false, DType::f32, o);
  Parameter* const w = parameters(*t.model)[5];
  REQUIRE(w->name.rfind("layers.0.", 0) == 0);
  const Tensor before = w->value().clone();
  t.objective.before = [&](int64_t step) {
    if (step == 3) w->value().out().as<float>()[7] = NAN;
    if (step == 4) w->value().set(before);
  };
  std::string said;
  t.folder.watcher = [&](const std::string& line, bool) { said += line + "\n"; };
  t.loop.run();
  CHECK_THAT(said, Contains("warning: step 4: the loss is not finite; update skipped, moments kept; it would have learned from the data's lines ") &&
                       Contains("; forward, ") && Contains(" in layers.0.") && Contains("from ") && Contains(w->name));
  CHECK(t.loop.step() == 6);
}

TEST_CASE("loop: a step that is not finite once and finite when it is repeated accuses the machine") {
  const TempFolder temp;
  Trainer t(temp / "run", false, DType::f32, Trainer::options(6));
  int calls = 0;
  t.objective.after = [&](int64_t step, StepReport& r) {
    if (step == 3 && calls++ == 0) r.loss = NAN;
  };
  CHECK_THAT(ends_with(t, Kind::nondeterminism), Contains("step 4: the batch was computed again, and now all is finite") && Contains("checkpoint kept"));
  CHECK(newest(temp / "run") == 4);
}

TEST_CASE("loop: a batch is computed twice now and then; what differs by a bit ends the run, and nothing of it is learned") {
  for (const bool in_loss : {true, false}) {
    const TempFolder temp;
    LoopOptions o = Trainer::options(12);
    o.repeat_every = 4;
    Trainer t(temp / "run", false, DType::f32, o);
    std::map<std::string, Tensor> before;
    int calls = 0;
    t.objective.before = [&](int64_t step) {
      if (step == 7 && calls++ == 0) before = t.state();
    };
    t.objective.after = [&](int64_t step, StepReport& r) {
      if (step != 7 || calls != 2) return;
      if (in_loss) r.loss = std::nextafter(r.loss, 100);
      else parameters(*t.model)[2]->grad().out().as<float>()[5] *= 1.0000002f;
      ++calls;
    };
    CHECK_THAT(ends_with(t, Kind::nondeterminism), Contains("step 7: the next batch was computed twice, and ") && Contains("; checkpoint kept") &&
                                                       Contains(in_loss ? "the loss is 0x" : "the gradient of " + parameters(*t.model)[2]->name + " differs"));
    CHECK(newest(temp / "run") == 7);
    for (const auto& [name, value] : t.state()) {
      INFO(name);
      CHECK(bitwise_equal(value, before.at(name)));
    }
  }
}

TEST_CASE("loop: repeating batches, looking at every value, and knowing the machine's limit change no bit of a run") {
  const TempFolder temp;
  LoopOptions o = Trainer::options(8);
  Trainer plain(temp / "plain", false, DType::f32, o);
  plain.loop.run();
  o.repeat_every = 3;
  o.anomaly = true;
  o.peak_flops = 1e12;
  Trainer watched(temp / "watched", false, DType::f32, o);
  watched.loop.run();
  const auto a = plain.state(), b = watched.state();
  for (const auto& [name, t] : a) CHECK(bitwise_equal(t, b.at(name)));
  CHECK(metrics_of(temp / "plain") == metrics_of(temp / "watched"));
  CHECK_THAT(read_file(temp / "watched/metrics.jsonl"), Contains("\"speed_of_light\":"));
  CHECK_THAT(read_file(temp / "watched/console.log"), Contains(" sol 0%"));
  CHECK_THAT(read_file(temp / "plain/metrics.jsonl"), !Contains("speed_of_light"));
}

TEST_CASE("loop: anomaly mode ends the run at the first value that is not finite, before anything is learned from it") {
  LoopOptions o = Trainer::options(6);
  o.anomaly = true;
  for (const Recompute recompute : {Recompute::none, Recompute::norms, Recompute::mlp, Recompute::block}) {
    const TempFolder temp;
    Trainer t(temp / "run", false, DType::f32, o);
    t.model->recompute = recompute;
    t.objective.before = [&](int64_t step) {
      if (step == 2) t.model->blocks[1]->mlp.down_proj.weight->plain()->out().as<float>()[3] = INFINITY;
    };
    const std::string said = ends_with(t, Kind::guard);
    CHECK_THAT(said, Contains("step 2: the next batch (the data's lines ") && Contains(") is where it begins: forward, linear made ") &&
                         Contains(" in layers.1.mlp (nn/layers.cpp:") && Contains(", operation 3), from geglu [") && Contains(", layers.1.mlp.down_proj.weight ["));
    CHECK_THAT(said, Contains("; checkpoint kept"));
    CHECK(newest(temp / "run") == 2);
  }
}

TEST_CASE("loop: a spike is skipped; the third among twenty steps goes back and passes their batches over, resumed or not, to the same bits") {
  LoopOptions o = Trainer::options(110);
  o.eval_every = 0;
  o.save_every = 40;
  const auto disturb = [](Trainer& t) {
    t.objective.after = [](int64_t step, StepReport& r) {
      if (step == 84 || step == 87 || step == 90) r.loss += 50;
    };
  };
  const TempFolder temp;
  Trainer whole(temp / "whole", false, DType::f32, o);
  disturb(whole);
  std::string said;
  whole.folder.watcher = [&](const std::string& line, bool) { said += line + "\n"; };
  whole.loop.run();
  CHECK_THAT(said, Contains("warning: step 85: loss ") && Contains("median and deviation of the last 84; update skipped, moments kept; it would have learned from"));
  CHECK_THAT(said, Contains("step 91: loss ") && Contains("warning: the third spike since step 85: back to the checkpoint of step 80; the batches of steps 81 to 91 are passed over"));
  CHECK_THAT(said, Contains("step    81 passed over") && Contains("step    91 passed over") && !Contains("step    92 passed over"));
  CHECK(whole.loop.step() == 110);
  for (const int64_t cut : {int64_t{86}, int64_t{100}}) {
    const std::string run = temp / std::to_string(cut);
    {
      Trainer first(run, false, DType::f32, o);
      disturb(first);
      first.objective.before = [&](int64_t step) {
        if (step == cut) throw Killed{};
      };
      CHECK_THROWS_AS(first.loop.run(), Killed);
    }
    Trainer second(run, true, DType::f32, o);
    disturb(second);
    REQUIRE(second.loop.resume());
    second.loop.run();
    const auto a = whole.state(), b = second.state();
    for (const auto& [name, t] : a) {
      INFO(name);
      CHECK(bitwise_equal(t, b.at(name)));
    }
    CHECK(metrics_of(temp / "whole") == metrics_of(run));
  }
}

TEST_CASE("loop: three spikes with nothing to go back to end the run, with a checkpoint; the guard can be off") {
  const TempFolder temp;
  LoopOptions o = Trainer::options(100);
  o.eval_every = o.save_every = 0;
  for (const bool on : {true, false}) {
    o.spike_guard = on;
    Trainer t(temp / (on ? "on" : "off"), false, DType::f32, o);
    t.objective.after = [](int64_t step, StepReport& r) {
      if (step >= 80 && step % 2 == 0) r.loss += 50;
    };
    if (!on) {
      t.loop.run();
      continue;
    }
    CHECK_THAT(ends_with(t, Kind::guard), Contains("step 85: the third spike since step 81, and no checkpoint from before to go back to") && Contains("; checkpoint kept"));
    CHECK(newest(temp / "on") == 85);
  }
}

TEST_CASE("loop: a disk that is full for a while costs checkpoints, not the run") {
  const TempFolder temp;
  LoopOptions o = Trainer::options(12);
  o.save_every = 3;
  Trainer whole(temp / "whole", false, DType::f32, o);
  whole.loop.run();
  Trainer t(temp / "run", false, DType::f32, o);
  t.objective.before = [](int64_t step) {
    if (step == 4) set_io_hook([](const IoEvent& e) { return e.call == IoCall::write ? ENOSPC : 0; });
    if (step == 8) set_io_hook({});
  };
  std::string said;
  t.folder.watcher = [&](const std::string& line, bool) { said += line + "\n"; };
  t.loop.run();
  CHECK_THAT(said, Contains("warning: no checkpoint of step 6 (") && Contains("No space left on device") && Contains("the newest is that of step 3; training goes on"));
  CHECK_THAT(said, !Contains("no checkpoint of step 9"));
  CHECK(newest(temp / "run") == 12);
  for (const auto& e : std::filesystem::directory_iterator(temp / "run/checkpoints")) CHECK(e.path().filename().string().rfind("tmp", 0) != 0);
  const auto a = whole.state(), b = t.state();
  for (const auto& [name, value] : a) CHECK(bitwise_equal(value, b.at(name)));
  // Where the run ends there is no next time.
  Trainer last(temp / "last", false, DType::f32, o);
  last.objective.before = [](int64_t step) {
    if (step == 10) set_io_hook([](const IoEvent& e) { return e.call == IoCall::write ? ENOSPC : 0; });
  };
  CHECK_THAT(ends_with(last, Kind::environment), Contains("No space left on device"));
  set_io_hook({});
  CHECK(newest(temp / "last") == 9);
}

TEST_CASE("loop: an update that is large beside its weights is warned of once") {
  const auto said = [](double lr) {
    const TempFolder temp;
    LoopOptions o = Trainer::options(230);
    o.schedule = {};
    o.eval_every = o.save_every = 0;
    o.lr = lr;
    Trainer t(temp / "run", false, DType::f32, o);
    t.loop.run();
    return read_file(temp / "run/console.log");
  };
  CHECK_THAT(said(1e-4), !Contains("of its size"));
  const std::string large = said(0.3);
  CHECK_THAT(large, Contains("warning: step 100: one update changes ") && Contains("of its size, above 10%"));
  CHECK_THAT(large, !Contains("step 200: one update"));
}

// GRPO inside the loop: resumed runs are the same to the bit, also in the middle of a rollout; guards end runs.
#include <catch2/catch.hpp>

#include "tests/support/compare.h"
#include "tests/support/run_files.h"
#include "tests/support/temp_folder.h"
#include "tests/train/grpo_small.h"

using namespace facet;
using namespace facet::test;

namespace {

struct Killed {};

// Grpo, with something done to it at chosen steps.
struct Watched final : Objective {
  Grpo& grpo;
  std::function<void(int64_t step, StepReport&)> after = [](int64_t, StepReport&) {};
  explicit Watched(Grpo& g) : grpo(g) {}
  const char* tag() const override { return grpo.tag(); }
  StepReport accumulate(int64_t step) override {
    StepReport r = grpo.accumulate(step);
    after(step, r);
    return r;
  }
  std::map<std::string, double> evaluate() override { return grpo.evaluate(); }
  void save(Snapshot& s) const override { grpo.save(s); }
  void restore(const FoundCheckpoint& f) override { grpo.restore(f); }
};

struct Trainer {
  GrpoTask task, reference;
  Grpo grpo;
  Watched objective{grpo};
  AdamW optimizer;
  RunFolder folder;
  Loop loop;
  std::map<int64_t, std::string> completions;  // by step

  static GrpoOptions options(const GrpoTask& task, int64_t updates, double kl) {
    GrpoOptions o = task.options();
    o.updates = updates;
    o.policy.kl = kl;
    o.layout.accum = 2;
    return o;
  }
  static LoopOptions loop_options(int64_t steps) {
    LoopOptions o;
    o.steps = steps;
    o.lr = 3e-3;
    o.eval_every = 3;
    o.save_every = 1;
    return o;
  }
  Trainer(const std::string& path, bool resume, int64_t steps, int64_t updates, double kl)
      : grpo(task.objective(options(task, updates, kl), [this](const auto& f) { f(*reference.model); })),
        optimizer({{.parameters = parameters(*task.model)}}),
        folder(path, resume),
        loop(*task.model, optimizer, objective, folder, loop_options(steps), {}) {
    grpo.on_completions = [this](int64_t step, std::span<const Completion> list) { completions[step] = completions_jsonl(list, task.rewards); };
  }
  std::map<std::string, Tensor> state() {
    std::map<std::string, Tensor> all;
    for (const auto& [name, t] : named_values(*task.model)) all[name] = t.clone();
    for (const auto& [name, t] : optimizer.state()) all[name] = t.clone();
    return all;
  }
};

constexpr int64_t steps = 6;

void check_resume(int64_t cut, int64_t updates, double kl, int threads_now) {
  INFO("cut after step " << cut << ", " << updates << " updates a rollout, kl " << kl << ", threads " << threads_now);
  const TempFolder temp;
  Trainer whole(temp / "whole", false, steps, updates, kl);
  whole.loop.run();
  {
    Trainer first(temp / "cut", false, steps, updates, kl);
    first.objective.after = [&](int64_t step, StepReport&) {
      if (step == cut) throw Killed{};
    };
    if (cut < steps) CHECK_THROWS_AS(first.loop.run(), Killed);
    else first.loop.run();
  }
  Trainer second(temp / "cut", true, steps, updates, kl);
  set_threads(threads_now);
  REQUIRE(second.loop.resume());
  second.loop.run();
  set_threads(1);
  const auto a = whole.state(), b = second.state();
  for (const auto& [name, t] : a) {
    INFO(name);
    CHECK(bitwise_equal(t, b.at(name)));
  }
  CHECK(metrics_of(temp / "whole") == metrics_of(temp / "cut"));
  for (const auto& [step, text] : second.completions) CHECK(text == whole.completions.at(step));
  CHECK((cut == steps || !second.completions.empty() || cut / updates == (steps - 1) / updates));
}

}  // namespace

TEST_CASE("grpo: a run that was killed and resumed is the run that was not, also within a rollout") {
  // 5 questions, 3 a rollout: with one update an epoch ends inside step 2.
  for (const int64_t cut : {int64_t{1}, int64_t{2}, steps - 1, steps}) check_resume(cut, 1, 0, 1);
  for (const int64_t cut : {int64_t{1}, int64_t{4}, int64_t{5}, steps}) check_resume(cut, 4, 0.1, 1);
  check_resume(2, 3, 0.1, 2);
}

TEST_CASE("grpo: a checkpoint whose rollout does not fit is refused") {
  const TempFolder temp;
  Trainer t(temp / "run", false, 1, 2, 0);
  t.loop.run();
  const auto found = newest_checkpoint(temp / "run/checkpoints", [](const std::string&) {});
  REQUIRE(found);
  GrpoTask task;
  const auto refused = [&](const FoundCheckpoint& f, const GrpoOptions& o, const std::string& word) {
    Grpo g = task.objective(o);
    CHECK_THROWS_WITH(g.restore(f), Catch::Contains(word));
  };
  GrpoOptions o = Trainer::options(task, 2, 0);
  CHECK_NOTHROW(task.objective(o).restore(*found));
  o.prompts = 4;
  refused(*found, o, "lengths");
  o = Trainer::options(task, 2, 0);
  FoundCheckpoint other = *found;  // what is restored is what is saved again, every count of it
  int64_t n = 2;
  for (const char* name : {"guard.steps", "guard.certain", "guard.far", "guard.silent", "failures", "flat"}) other.state[std::string("objective.") + name] = std::to_string(++n);
  Grpo again = task.objective(o);
  again.restore(other);
  Snapshot saved;
  again.save(saved);
  for (const auto& [name, value] : saved.state) CHECK(other.state.at(name) == value);
  FoundCheckpoint broken = *found;
  broken.state["objective.guard.best"] = "much";
  refused(broken, o, "much");
  broken = *found;
  broken.state.erase("objective.failures");
  refused(broken, o, "objective.failures");
}

TEST_CASE("grpo guard: certainty alone is no reason, certainty with a falling reward is") {
  GrpoGuard solved, collapsed;
  for (int i = 0; i < 200; ++i) CHECK(solved.check(1, 0.001, 0).empty());
  for (int i = 0; i < 20; ++i) CHECK(collapsed.check(0.9, 0.5, 0).empty());
  int stopped = 0;
  std::string why;
  for (int i = 1; i <= 60 && why.empty(); ++i) why = collapsed.check(0.3, 0.005, 0), stopped = i;
  CHECK(stopped == 50);
  CHECK(why.find("fell from 0.9 to 0.3") != std::string::npos);
  GrpoGuard recovers;
  for (int i = 0; i < 300; ++i) CHECK(recovers.check(i < 20 ? 0.9 : 0.3, i % 49 == 0 ? 0.02 : 0.005, 0).empty());
}

TEST_CASE("grpo guard: too far from the reference for several steps") {
  GrpoGuard g;
  for (int i = 0; i < 4; ++i) CHECK(g.check(0.5, 0.5, 11).empty());
  CHECK(g.check(0.5, 0.5, 9).empty());
  for (int i = 0; i < 4; ++i) CHECK(g.check(0.5, 0.5, 11).empty());
  CHECK(g.check(0.5, 0.5, 11).find("KL") != std::string::npos);
}

TEST_CASE("grpo guard: a fall after which all answers are worth the same, not a task that was never learned") {
  GrpoGuard hard, solved, fallen, noisy, repeated;
  std::string said;
  for (int i = 0; i < 100; ++i) {
    CHECK(hard.check(0.02, 2, 0, 0.97).empty());
    CHECK(solved.check(std::min(1.0, 0.3 + 0.02 * i), 0.1, 0, i < 40 ? 0.5 : 1).empty());
    CHECK(noisy.check(i < 30 ? 0.6 : 0.1, 2, 0, i % 10 ? 1 : 0.5).empty());
    const bool good = i < 30;
    // One odd rollout that serves many steps.
    CHECK(repeated.check(good ? 0.6 : 0.01, 0.3, 0, i % 30 ? std::nullopt : std::optional(good ? 0.4 : 1.0)).empty());
    said = fallen.check(good ? 0.6 : 0.01, 0.3, 0, good ? 0.4 : 1);
    CHECK(said.empty() == (i < 49));
  }
  CHECK_THAT(said, Catch::Contains("the mean reward fell from 0.6 to 0.0") && Catch::Contains("--lr"));
}

TEST_CASE("grpo: a guard ends the run with a checkpoint and exit code 6") {
  const TempFolder temp;
  Trainer t(temp / "run", false, 40, 1, 0.05);
  for (Parameter* p : parameters(*t.reference.model)) {  // a reference that is certain of other tokens
    const Tensor v = p->value().detach();
    if (v.rank() < 2) continue;
    for (float& x : std::span(v.out().as<float>(), static_cast<size_t>(v.numel()))) x *= -3;
  }
  try {
    t.loop.run();
    FAIL("nothing stopped the run");
  } catch (const Error& e) {
    CHECK(e.kind() == Kind::guard);
    CHECK(std::string(e.what()).find("nats of KL") != std::string::npos);
  }
  CHECK(newest_checkpoint(temp / "run/checkpoints", [](const std::string&) {})->step == t.loop.step());
}

TEST_CASE("grpo: rewards that never differ are worth a warning after ten rollouts, once, and a resumed run goes on counting") {
  for (const double reward : {0.0, 1.0}) {
    const TempFolder temp;
    std::vector<std::string> said;
    const auto teach = [&](Trainer& t) {
      t.task.verifier->constant = reward;
      t.grpo.say = [&](const std::string& s) { said.push_back(s); };
    };
    {
      Trainer first(temp / "run", false, 30, 2, 0);  // two updates a rollout
      teach(first);
      first.objective.after = [](int64_t step, StepReport& r) {
        if (step == 13) r.stop = "enough";
      };
      CHECK_THROWS_AS(first.loop.run(), Error);
    }
    CHECK(said.empty());
    Trainer second(temp / "run", true, 30, 2, 0);
    teach(second);
    REQUIRE(second.loop.resume());
    second.loop.run();
    REQUIRE(said.size() == 1);
    CHECK_THAT(said[0], Catch::Contains("step 19: for 10 rollouts all answers to a question were worth the same") &&
                            Catch::Contains(reward == 1 ? "are solved, ask harder ones" : "raise --group or --temp"));
  }
}

TEST_CASE("grpo: completions that are nearly all cut off are worth a warning, once") {
  GrpoTask task;
  GrpoOptions o = task.options();
  o.rollout.stop = {};
  Grpo g = task.objective(o);
  std::vector<std::string> said;
  g.say = [&](const std::string& s) { said.push_back(s); };
  g.accumulate(0);
  g.accumulate(1);
  REQUIRE(said.size() == 1);
  CHECK(said[0].find("100% of the completions were cut off at 6 tokens") != std::string::npos);
}

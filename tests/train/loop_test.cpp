// The loop: a resumed run is the uninterrupted run, bit for bit; guards; one step takes no memory from the system.
#include "train/loop.h"

#include <catch2/catch.hpp>

#include <csignal>
#include <filesystem>

#include "tensor/io/file.h"
#include "tensor/parallel.h"
#include "tests/support/compare.h"
#include "tests/support/run_files.h"
#include "tests/support/temp_folder.h"
#include "tests/train/loop_trainer.h"
#include "train/checkpoint.h"

using namespace facet;
using namespace facet::test;

namespace {

constexpr int64_t steps = 12;

// Runs until `cut` steps are saved, dies in the step after, goes on in a "new process" on another number of threads.
void check_resume(DType dtype, int64_t cut, int threads_then, int threads_now, int64_t save_every = 1, const LoraOptions* lora = nullptr) {
  INFO(name_of(dtype) << ", cut after step " << cut << ", threads " << threads_then << " -> " << threads_now);
  const TempFolder temp;
  LoopOptions o = Trainer::options(steps);
  o.save_every = save_every;
  set_threads(threads_then);
  Trainer whole(temp / "whole", false, dtype, o, {}, lora);
  whole.loop.run();
  {
    Trainer first(temp / "cut", false, dtype, o, {}, lora);
    first.objective.after = [&](int64_t step, StepReport&) {
      if (step == cut) throw Killed{};  // gradients are there, the update is not
    };
    if (cut < steps) CHECK_THROWS_AS(first.loop.run(), Killed);
    else first.loop.run();
  }
  set_threads(threads_now);
  Trainer second(temp / "cut", true, dtype, o, {}, lora);
  REQUIRE(second.loop.resume());
  CHECK(second.loop.step() == cut / save_every * save_every);
  second.loop.run();
  const auto a = whole.state(), b = second.state();
  REQUIRE(a.size() == b.size());
  for (const auto& [name, t] : a) {
    INFO(name);
    CHECK(bitwise_equal(t, b.at(name)));
  }
  CHECK(second.loop.tokens() == whole.loop.tokens());
  CHECK(metrics_of(temp / "whole") == metrics_of(temp / "cut"));
}

int threads_at_start = threads();

}  // namespace

TEST_CASE("loop: a run that was killed and resumed is the run that was not") {
  for (const int64_t cut : {int64_t{1}, int64_t{5}, int64_t{6}, steps - 1, steps}) check_resume(DType::f32, cut, 1, 1);
  check_resume(DType::bf16, 5, 1, 1);
  check_resume(DType::f32, 7, 1, 2);
  check_resume(DType::bf16, 7, 2, 1);
  check_resume(DType::f32, 8, 1, 1, 3);  // two steps are done again
  set_threads(threads_at_start);
}

TEST_CASE("loop: an adapter's run that was killed and resumed is the run that was not, masks included") {
  const LoraOptions lora{.rank = 3, .dropout = 0.3, .targets = {"all-linear", "embedding"}}, dora{.rank = 2, .dropout = 0.2, .dora = true};
  for (const int64_t cut : {int64_t{1}, int64_t{6}, steps - 1, steps}) check_resume(DType::f32, cut, 1, 1, 1, &lora);
  check_resume(DType::bf16, 7, 2, 1, 1, &lora);
  check_resume(DType::f32, 8, 1, 2, 3, &dora);
  set_threads(threads_at_start);
}

TEST_CASE("loop: an adapter learns, in f32 over a base of any dtype, and leaves the base's bits alone") {
  for (const DType storage : {DType::f32, DType::bf16})
    for (const bool dora : {false, true}) {
      INFO(name_of(storage) << ", dora " << dora);
      const TempFolder temp;
      LoopOptions o = Trainer::options(14);
      o.save_every = 0;
      o.eval_every = 0;
      o.lr = 0.03;
      const LoraOptions lora{.rank = 4, .dora = dora};
      Trainer t(temp / "run", false, storage, o, {}, &lora);
      const uint32_t before = base_hash(*t.model);
      uint32_t after_ten = 0;
      const double first = t.objective.evaluate().at("loss");
      t.objective.before = [&](int64_t step) {
        if (step == 10) after_ten = base_hash(*t.model);
      };
      t.loop.run();
      CHECK(after_ten == before);
      CHECK(base_hash(*t.model) == before);
      CHECK(t.loop.last_evaluation().at("loss") < 0.75 * first);
      for (Parameter* p : parameters(*t.model)) {
        INFO(p->name);
        CHECK(p->trains() == is_adapter(p->name));
        CHECK(p->value().dtype() == (is_adapter(p->name) ? DType::f32 : storage));
        if (!p->trains()) CHECK_FALSE(p->grad());
      }
      // Neither moments nor checkpoints hold anything of the base.
      const auto found = newest_checkpoint(temp / "run/checkpoints", {});
      REQUIRE(found);
      const auto saved = read_tensors(*found, "model");
      for (const auto& [name, value] : saved) CHECK(is_adapter(name));
      CHECK(saved.size() == t.optimizer.parameters().size());
      t.adapters->use("");
      CHECK(t.objective.evaluate().at("loss") == first);
    }
}

TEST_CASE("loop: a run without a checkpoint starts over, and so do its metrics") {
  const TempFolder temp;
  LoopOptions o = Trainer::options(4);
  o.save_every = 0;
  {
    Trainer first(temp / "run", false, DType::f32, o);
    first.objective.before = [](int64_t step) {
      if (step == 2) throw Killed{};
    };
    CHECK_THROWS_AS(first.loop.run(), Killed);
  }
  Trainer second(temp / "run", true, DType::f32, o);
  CHECK_FALSE(second.loop.resume());
  second.loop.run();
  Trainer whole(temp / "whole", false, DType::f32, o);
  whole.loop.run();
  CHECK(metrics_of(temp / "whole") == metrics_of(temp / "run"));
}

TEST_CASE("loop: a setting that differs from the checkpoint's is refused with both values") {
  const TempFolder temp;
  Trainer(temp / "run", false, DType::f32, Trainer::options(2)).loop.run();
  {
    Trainer again(temp / "run", true, DType::f32, Trainer::options(3), {{"batch", "16"}});
    CHECK_THROWS_WITH(again.loop.resume(), Catch::Contains("batch was 4") && Catch::Contains("16 now") && Catch::Contains("--allow-changed batch"));
    CHECK(again.loop.resume({"batch"}));
    CHECK(again.loop.step() == 2);
  }
  // All of them at once, and those that one side alone has; nothing is read before all are accepted.
  Trainer other(temp / "run", true, DType::f32, Trainer::options(3), {{"beta", "0.1"}, {"frozen weights", "ab"}});
  CHECK_THROWS_WITH(other.loop.find({"beta"}), Catch::Contains("batch was 4, not set now; frozen weights was not set, ab now (") &&
                                                   Catch::Contains("--allow-changed 'batch,frozen weights' accepts them"));
  CHECK(other.loop.step() == 0);
  CHECK(other.loop.resume({"beta", "batch", "frozen weights"}));
}

TEST_CASE("loop: a signal saves and stops after the step") {
  for (const auto& [signal, kind] : {std::pair{SIGINT, Kind::interrupted}, std::pair{SIGTERM, Kind::requeue}, std::pair{SIGUSR1, Kind::requeue}}) {
    const TempFolder temp;
    LoopOptions o = Trainer::options(30);
    o.save_every = 0;
    Trainer t(temp / "run", false, DType::f32, o);
    t.objective.before = [signal = signal](int64_t step) {
      if (step == 4) std::raise(signal);
    };
    try {
      t.loop.run();
      FAIL("the signal did not stop the run");
    } catch (const Error& e) {
      CHECK(e.kind() == kind);
      CHECK_THAT(e.what(), Catch::Contains("step 5 of 30") && Catch::Contains("--resume"));
    }
    CHECK(newest_checkpoint(temp / "run/checkpoints", {})->step == 5);
  }
}

TEST_CASE("loop: what does not train stays out of checkpoints, and the resumed run is still the same") {
  const TempFolder temp;
  const LoopOptions o = Trainer::options(6);
  const auto frozen = [](Trainer& t) {
    REQUIRE(set_trains(*t.model, "embed_tokens.*", false) == 1);
    REQUIRE(set_trains(*t.model, "layers.0.*", false) > 1);
  };
  Trainer whole(temp / "whole", false, DType::f32, o);
  frozen(whole);
  whole.loop.run();
  {
    Trainer first(temp / "cut", false, DType::f32, o);
    frozen(first);
    first.objective.after = [](int64_t step, StepReport&) {
      if (step == 3) throw Killed{};
    };
    CHECK_THROWS_AS(first.loop.run(), Killed);
  }
  const auto found = newest_checkpoint(temp / "cut/checkpoints", [](const std::string&) {});
  REQUIRE(found);
  for (const auto& [name, t] : read_tensors(*found, "model")) {
    INFO(name);
    CHECK_FALSE(matches("embed_tokens.*", name));
    CHECK_FALSE(matches("layers.0.*", name));
  }
  Trainer second(temp / "cut", true, DType::f32, o);
  frozen(second);
  REQUIRE(second.loop.resume());
  second.loop.run();
  const auto a = named_values(*whole.model), b = named_values(*second.model);
  for (size_t i = 0; i < a.size(); ++i) CHECK(bitwise_equal(a[i].second, b[i].second));
}

TEST_CASE("loop: what an objective saves comes back to it") {
  struct Counting final : Objective {
    Sft sft;
    int64_t count = 0;
    Counting(LanguageModel& m, const Loader& l) : sft(m, l, {}) {}
    StepReport accumulate(int64_t step) override {
      ++count;
      return sft.accumulate(step);
    }
    void save(Snapshot& s) const override {
      s.state["objective.count"] = std::to_string(count);
      s.files["objective"] = {{"count", Tensor::full({2}, static_cast<double>(count))}};
    }
    void restore(const FoundCheckpoint& found) override {
      count = std::stoll(found.state.at("objective.count"));
      CHECK(read_tensors(found, "objective")[0].second.to_vector() == std::vector<double>{static_cast<double>(count), static_cast<double>(count)});
    }
  };
  const TempFolder temp;
  const Dataset data = small_data();
  const Loader loader(data, {.batch = 4});
  const LoopOptions o = Trainer::options(3);
  for (const bool again : {false, true}) {
    const auto model = small_model();
    AdamW optimizer({{.parameters = parameters(*model)}});
    Counting objective(*model, loader);
    RunFolder folder(temp / "run", again);
    Loop loop(*model, optimizer, objective, folder, o, {});
    if (again) {
      REQUIRE(loop.resume());
      CHECK(objective.count == 3);
    } else {
      loop.run();
    }
  }
}

TEST_CASE("loop: parameters that two updates leave as they were are named") {
  const auto console = [](double lr, bool keep_one) {
    TempFolder dir;
    LoopOptions o = Trainer::options(5);
    o.lr = lr;
    Trainer t(dir.path.string(), false, DType::f32, o);
    Parameter* kept = parameters(*t.model)[3];
    if (keep_one) t.objective.after = [&](int64_t, StepReport&) { kept->clear_grad(); };
    t.loop.run();
    return read_file(t.folder.file("console.log"));
  };
  CHECK_THAT(console(0.01, false), !Catch::Contains("have not changed"));
  CHECK_THAT(console(1e-12, false), Catch::Contains("after 2 updates") && Catch::Contains("parameters that train have not changed: ") && Catch::Contains(", ...; is --lr too small"));  CHECK_THAT(console(0.01, true), Catch::Contains("after 2 updates 1 of ") && Catch::Contains("have not changed: layers.0."));
}

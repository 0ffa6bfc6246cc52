// A run that was stopped and resumed leaves what the run leaves that was not: every trainer, every byte.
#include <random>

#include "tests/app/trainers.h"
#include "tests/support/run_files.h"

using namespace facet::test;
namespace fs = std::filesystem;

namespace {

constexpr int steps = 7;

// The folder of a run that died after checkpoint `cut`, having done more than it could save.
void cut(const std::string& whole, const std::string& out, int cut) {
  fs::copy(whole, out, fs::copy_options::recursive);
  for (int step = cut + 1; step <= steps; ++step) {
    fs::remove_all(out + "/checkpoints/step-" + std::to_string(step));
    for (const char* name : {"/samples/step-00000", "/completions/step-00000"})
      for (const char* end : {".txt", ".jsonl"})
        if (const std::string file = name + std::to_string(step) + end; fs::exists(out + file)) std::ofstream(out + file, std::ios::app) << "later";
  }
  if (cut < steps && fs::exists(out + "/completions")) std::ofstream(out + "/completions/step-000099.jsonl") << "of other settings";
  fs::remove_all(out + "/final");
  std::ofstream(out + "/metrics.jsonl", std::ios::app) << "{\"step\": 8, \"ki";
}

void check_cuts(const Trainers& t, const std::string& kind, const std::string& dtype, const std::vector<int>& cuts) {
  const std::string name = kind + " " + dtype, whole = name + " whole";
  const Words more = {"--dtype", dtype, "--keep", "100"};
  INFO(name);
  REQUIRE(t.run(t.words(kind, whole, more)) == 0);
  const auto want = results_of(t / whole);
  REQUIRE(want.count("checkpoints/step-7/optimizer.safetensors") == 1);
  for (const int at : cuts) {
    INFO("cut after step " << at);
    const std::string out = name + " " + std::to_string(at);
    cut(t / whole, t / out, at);
    Words again = t.words(kind, out, more);
    again.insert(again.end(), {"--resume"});
    if (at % 2 == 0) *(std::find(again.begin(), again.end(), "--threads") + 1) = "2";
    const int code = t.run(again);
    INFO(t.said());
    REQUIRE(code == 0);
    CHECK(t.said().find("at step " + std::to_string(at)) != std::string::npos);
    CHECK(difference(want, results_of(t / out)) == "");
    fs::remove_all(t / out);
  }
}

}  // namespace

TEST_CASE("resume: an adapter, and a rollout with updates to come, go on to the same bytes") {
  const Trainers t;
  check_cuts(t, "sft lora", "f32", {4});
  check_cuts(t, "grpo updates", "f32", {4});  // the second rollout's first step
}

TEST_CASE("resume: every optimizer keeps what it needs") {
  const Trainers t;
  check_cuts(t, "sft lion", "bf16", {4});
  check_cuts(t, "sft adafactor", "bf16", {4});
}

TEST_CASE("resume: every trainer, in both dtypes, from every kind of step, to the same bytes", "[full]") {
  // After the first step, around the end of an epoch (inside a step, between micro-batches), before the last step, after it.
  const Trainers t;
  for (const std::string& kind : Trainers::kinds())
    for (const char* dtype : {"f32", "bf16"}) check_cuts(t, kind, dtype, {1, 3, 4, 6, 7});
}

TEST_CASE("resume: killed at any moment, again and again, every trainer ends in the same bytes", "[full]") {
  const Trainers t;
  const unsigned seed = Catch::rngSeed() ? Catch::rngSeed() : 1;
  std::mt19937 random(seed);
  INFO("seed " << seed);
  for (const std::string& kind : Trainers::kinds()) {
    const Words more = {"--steps", "24", "--save-every", "2"};
    REQUIRE(t.run(t.words(kind, kind, more)) == 0);
    const auto want = results_of(t / kind);
    for (int run = 0; run < 2; ++run) {
      const std::string out = kind + std::to_string(run);
      int kills = 0;
      for (bool done = false; !done;) {
        const bool last = kills == 6;  // then it may finish, however slow the machine
        Words w = t.words(kind, out, more);
        if (fs::exists(t / (out + "/metrics.jsonl"))) w.push_back("--resume");
        if (last && run == 1) *(std::find(w.begin(), w.end(), "--threads") + 1) = "2";
        Process p(w, t / "log");
        std::this_thread::sleep_for(std::chrono::milliseconds(20 + random() % (60 + 20 * static_cast<unsigned>(kills))));
        if (!last) p.kill(SIGKILL);
        const int code = p.wait();
        INFO(p.said());
        REQUIRE((code == 0 || code == 1000 + SIGKILL));
        done = code == 0;
        kills += !done;
      }
      INFO(kind << ", run " << run << ", " << kills << " kills");
      CHECK(difference(want, results_of(t / out)) == "");
    }
  }
}

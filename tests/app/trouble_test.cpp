// What happens to runs of every trainer: stopped where a step is long, without disk, beside another run, with data that changed.
#include "tests/app/trainers.h"
#include "tests/support/run_files.h"

using namespace facet::test;
namespace fs = std::filesystem;

namespace {

// A verifier whose reward is the length of the line it gets; slow while the file "slow" is there.
std::string lengths(const Trainers& t) {
  return "exec:if [ -e " + (t / "slow") + " ]; then : > " + (t / "judging") + "; sleep 0.3; fi; while read -r line; do echo ${#line}; done";
}

bool appears(const std::string& path) {
  for (int i = 0; i < 4000 && !fs::exists(path); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  return fs::exists(path);
}

bool says(const Trainers& t, const std::vector<std::string>& parts) {
  bool all = true;
  for (const std::string& part : parts)
    if (t.said().find(part) == std::string::npos) {
      all = false;
      WARN("missing: " << part);
    }
  if (!all) WARN(t.said());
  return all;
}

}  // namespace

TEST_CASE("trouble: stopped while answers are sampled and judged, the step is finished and nothing lost", "[full]") {
  const Trainers t;
  const Words more = {"--verifier", lengths(t)};
  REQUIRE(t.run(t.words("grpo updates", "whole", more)) == 0);
  const auto want = results_of(t / "whole");
  for (const auto& [signal, code] : {std::pair{SIGINT, 130}, std::pair{SIGTERM, 75}}) {
    t.write("slow", "");
    fs::remove(t / "judging");
    const std::string out = "run" + std::to_string(code);
    {
      Process p(t.words("grpo updates", out, more), t / "log");
      REQUIRE(appears(t / "judging"));
      p.kill(signal);
      CHECK(p.wait() == code);
      CHECK(says(t, {"stopping after this step", "checkpoint saved, --resume continues"}));
    }
    fs::remove(t / "slow");
    CHECK(fs::exists(t / (out + "/checkpoints/LATEST")));
    CHECK(t.run(t.resumed("grpo updates", out, more)) == 0);
    CHECK(difference(want, results_of(t / out)) == "");
  }
}

TEST_CASE("trouble: stopped while the reference is computed, the pass goes on where it was", "[full]") {
  const Trainers t;
  t.write("pairs.jsonl", Trainers::pairs(600));
  REQUIRE(t.run(t.words("dpo cache", "whole")) == 0);
  for (const auto& [signal, code] : {std::pair{SIGINT, 130}, std::pair{SIGTERM, 75}}) {
    const std::string out = "run" + std::to_string(code);
    {
      Process p(t.words("dpo cache", out), t / "log");
      REQUIRE(appears(t / (out + "/config.resolved.yaml")));
      p.kill(signal);
      CHECK(p.wait() == code);
      CHECK(says(t, {"stopping as soon as nothing is lost", "stopped while the reference's log-probabilities were computed", "--resume goes on"}));
    }
    REQUIRE(t.run(t.resumed("dpo cache", out)) == 0);
    CHECK(says(t, {" of 600 pairs from ", "the pass goes on"}));
    CHECK(difference(results_of(t / "whole"), results_of(t / out)) == "");
  }
}

TEST_CASE("trouble: no room for completions is said once, and they are all there after a resume with room", "[full]") {
  const Trainers t;
  const Words more = {"--group", "16"};  // a file of completions is above the limit, what is written before it below
  REQUIRE(t.run(t.words("grpo", "whole", more)) == 0);
  {
    Process first(t.words("grpo", "run", more), t / "log");
    REQUIRE(first.wait_for("[G] step     2"));
    first.kill(SIGTERM);
    REQUIRE(first.wait() == 75);
  }
  const std::string latest = content_of(t / "run/checkpoints/LATEST");
  const auto full = [] {
    const rlimit r{20000, 20000};
    ::setrlimit(RLIMIT_FSIZE, &r);
  };
  CHECK(t.run(t.resumed("grpo", "run", more), full) == 5);
  CHECK(says(t, {"run/completions/step-", ".jsonl", "File too large", "completions are missing from here on", "no checkpoint of step"}));
  CHECK(content_of(t / "run/checkpoints/LATEST") == latest);
  for (const auto& e : fs::directory_iterator(t / "run/completions")) CHECK(e.path().filename().string().rfind("step-", 0) == 0);
  CHECK(t.run(t.resumed("grpo", "run", more)) == 0);
  CHECK(difference(results_of(t / "whole"), results_of(t / "run")) == "");
}

TEST_CASE("trouble: a folder in use, a run's, or one that is something else") {
  const Trainers t;
  fs::create_directories(t / "adapter");
  t.write("adapter/adapter_config.json", "{}");
  t.write("file", "");
  for (const std::string kind : {"sft lora", "dpo cache", "grpo"}) {
    INFO(kind);
    Process p(t.words(kind, kind, {"--steps", "100000"}), t / "first");
    REQUIRE(p.wait_for("step     1"));
    CHECK(t.run(t.resumed(kind, kind)) == 5);
    CHECK(says(t, {"locked by pid " + std::to_string(p.pid()), "choose another --out"}));
    CHECK(p.running());
    p.kill(SIGKILL);
    p.wait();
    CHECK(t.run(t.words(kind, kind)) == 2);
    CHECK(says(t, {"already holds a run", "--resume"}));
    for (const auto& [out, what] : {std::pair{"m", "this folder holds a model (config.json)"}, {"adapter", "an adapter (adapter_config.json)"},
                                    {"data", "this folder holds data (train.jsonl)"}}) {
      const auto before = files_of(t / out);
      CHECK(t.run(t.words(kind, out)) == 2);
      CHECK(says(t, {what, "choose another --out"}));
      CHECK(files_of(t / out) == before);
    }
    CHECK(t.run(t.words(kind, "file")) == 5);
    CHECK(t.run(t.resumed(kind, "nowhere")) == 2);
    CHECK_FALSE(fs::exists(t / "nowhere"));
  }
}

TEST_CASE("trouble: data that changed are noticed on resume, everything that changed at once, and nothing is written") {
  const Trainers t;
  const std::string rows = content_of(t / "data/train.jsonl"), pairs = content_of(t / "pairs.jsonl");
  for (const std::string kind : {"sft lora", "dpo cache", "dpo adapter-off", "grpo"}) {
    INFO(kind);
    REQUIRE(t.run(t.words(kind, kind)) == 0);
    const auto before = files_of(t / kind);
    // The last row goes; what is sampled from is the same, what is judged is not.
    t.write("data/train.jsonl", rows.substr(0, rows.rfind('\n', rows.size() - 2) + 1));
    t.write("pairs.jsonl", Trainers::pairs(11));
    CHECK(t.run(t.resumed(kind, kind, {"--lr", "5e-4"})) == 2);
    const std::string what = kind[0] == 's' ? " examples " : kind[0] == 'd' ? " pairs " : " questions ";
    CHECK(says(t, {"data was ", what, "lr was 0.001, 0.0005 now", "--allow-changed data,lr accepts them"}));
    auto after = files_of(t / kind);
    for (const char* name : {"console.log", "lock"}) after[name] = before.at(name);
    CHECK(after == before);
    CHECK(t.run(t.resumed(kind, kind, {"--lr", "5e-4", "--allow-changed", "data,lr"})) == 0);
    if (kind == "dpo cache") CHECK(says(t, {"was computed with data ", "; this run has data ", "it is computed again", "11 pairs computed"}));
    t.write("data/train.jsonl", rows);
    t.write("pairs.jsonl", pairs);
  }
  // Another trainer's run.
  CHECK(t.run(t.resumed("dpo adapter-off", "sft lora")) == 2);
  CHECK(says(t, {"trainer was sft, dpo now", "beta was not set, 0.1 now"}));
  // The prompts are the same, the expected answers are not.
  t.write("asked.jsonl", "{\"prompt\": \"√(2·3)=\", \"answer\": \"6\"}\n{\"prompt\": \"√(2·5)=\", \"answer\": \"10\"}\n");
  const Words more = {"--data", t / "asked.jsonl", "--val-frac", "0", "--verifier", "numeric", "--prompts-per-step", "2"};
  REQUIRE(t.run(t.words("grpo", "asked", more)) == 0);
  t.write("asked.jsonl", "{\"prompt\": \"√(2·3)=\", \"answer\": \"6\"}\n{\"prompt\": \"√(2·5)=\", \"answer\": \"11\"}\n");
  CHECK(t.run(t.resumed("grpo", "asked", more)) == 2);
  CHECK(says(t, {"data was 2 questions "}));
}

TEST_CASE("trouble: a reference cache is the run's own to mend, a named one is the user's") {
  const Trainers t;
  REQUIRE(t.run(t.words("dpo cache", "run")) == 0);
  const auto want = results_of(t / "run");
  fs::copy(t / "run/reference.safetensors", t / "named");
  // Cut short: the reader says so, and the run computes it again.
  fs::resize_file(t / "run/reference.safetensors", 100);
  fs::remove_all(t / "run/final");
  CHECK(t.run(t.resumed("dpo cache", "run")) == 0);
  CHECK(says(t, {"reference.safetensors", "it is computed again"}));
  CHECK(difference(want, results_of(t / "run")) == "");
  // A named file of other data: refused with both sides and what to do, before anything is written.
  CHECK(t.run(t.words("dpo cache", "used", {"--ref-cache", t / "named"})) == 0);
  CHECK(says(t, {"the pass is skipped"}));
  t.write("pairs.jsonl", Trainers::pairs(11));
  const std::string bytes = content_of(t / "named");
  CHECK(t.run(t.words("dpo cache", "other", {"--ref-cache", t / "named"})) == 3);
  CHECK(says(t, {"was computed with data ", "this run has data ", "name another --ref-cache, or remove the file"}));
  CHECK_FALSE(fs::exists(t / "other"));
  CHECK(content_of(t / "named") == bytes);
  // Turns around the prompts are other data, too.
  t.write("pairs.jsonl", Trainers::pairs(12));
  CHECK(t.run(t.words("dpo cache", "turns", {"--ref-cache", t / "named", "--chat-template"})) == 3);
  CHECK(says(t, {"was computed with data "}));
}

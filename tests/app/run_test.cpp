// A training run as a process: stopped, damaged, starved of disk and memory. What every trainer promises of resuming: resume_test.cpp.
#include <catch2/catch.hpp>

#include <algorithm>

#include "tests/app/process.h"
#include "tests/support/temp_folder.h"

using namespace facet::test;
using Words = std::vector<std::string>;
namespace fs = std::filesystem;

namespace {

// Data, a small model, and the words of a run on them.
struct Setting : TempFolder {
  Setting() {
    REQUIRE(run_process({"data", "make", "radicals", "--out", *this / "data", "--n", "60"}, *this / "log") == 0);
    REQUIRE(run_process({"init", *this / "m", "--data", *this / "data", "--set", "model.num_hidden_layers=2", "--set", "model.hidden_size=32"},
                        *this / "log") == 0);
  }
  Words sft(const std::string& out, Words more = {}) const {
    Words w = {"sft", *this / "m", "--data", *this / "data/train.jsonl", "--out", *this / out, "--batch", "4", "--steps", "40", "--save-every", "3",
               "--log-every", "1", "--threads", "1"};
    for (size_t i = 0; i < more.size(); ++i) {  // a flag that is there already gets another value
      const auto at = std::find(w.begin(), w.end(), more[i]);
      if (at != w.end()) at[1] = more[++i];
      else w.push_back(more[i]);
    }
    return w;
  }
  int run(const Words& w, const std::function<void()>& limits = {}) const { return run_process(w, *this / "log", limits); }
  std::string said() const { return content_of(*this / "log"); }
};

void limit(int what, rlim_t value) {
  const rlimit r{value, value};
  ::setrlimit(static_cast<__rlimit_resource>(what), &r);
}

}  // namespace

TEST_CASE("run: the folder holds what a run is, and is not used twice") {
  const Setting s;
  REQUIRE(s.run(s.sft("run")) == 0);
  for (const char* name : {"config.resolved.yaml", "command.txt", "env.json", "console.log", "metrics.jsonl", "checkpoints/LATEST",
                           "checkpoints/step-40/model.safetensors", "checkpoints/step-40/optimizer.safetensors",
                           "final/model.safetensors", "final/tokenizer.model", "final/config.json"}) {
    INFO(name);
    CHECK(fs::exists(s / (std::string("run/") + name)));
  }
  CHECK(content_of(s / "run/command.txt").rfind("facet sft ", 0) == 0);
  const std::string console = content_of(s / "run/console.log"), metrics = content_of(s / "run/metrics.jsonl");
  CHECK_THAT(console, Catch::Contains("[T] step    40 [100%]"));
  CHECK_THAT(metrics, Catch::Contains("\"kind\":\"train\"") && Catch::Contains("\"step\":40"));
  CHECK(s.run({"inspect", "run", s / "run"}) == 0);
  CHECK_THAT(s.said(), Catch::Contains("loss") && Catch::Contains("grad_norm"));

  const auto before = files_of(s / "run");
  CHECK(s.run(s.sft("run")) == 2);
  CHECK_THAT(s.said(), Catch::Contains("already holds a run") && Catch::Contains("--resume"));
  CHECK(s.run({"sft", "--config", s / "run/config.resolved.yaml", "--resume", "--batch", "16"}) == 2);
  CHECK_THAT(s.said(), Catch::Contains("batch was 4") && Catch::Contains("16 now") && Catch::Contains("--allow-changed batch"));
  CHECK(content_of(s / "run/config.resolved.yaml") == before.at("config.resolved.yaml"));  // a refusal changes nothing
  CHECK(s.run({"sft", "--config", s / "run/config.resolved.yaml", "--resume", "--max-len", "12", "--too-long", "truncate"}) == 2);
  CHECK_THAT(s.said(), Catch::Contains("data was"));
  CHECK(s.run({"sft", "--config", s / "run/config.resolved.yaml", "--resume", "--set", "model.sliding_window=3"}) == 2);
  CHECK_THAT(s.said(), Catch::Contains("model was"));
  CHECK(s.run(s.sft("run", {"--resume", "--batch", "16", "--allow-changed", "batch"})) == 0);
  // A finished run resumed is the same run.
  CHECK(files_of(s / "run/final") == [&] {
    std::map<std::string, std::string> f;
    for (const auto& [name, bytes] : before)
      if (name.rfind("final/", 0) == 0) f[name.substr(6)] = bytes;
    return f;
  }());

  CHECK(s.run(s.sft("no-run", {"--resume"})) == 2);
  CHECK_THAT(s.said(), Catch::Contains("no run to resume"));
  CHECK_FALSE(fs::exists(s / "no-run"));
  CHECK(s.run(s.sft("reported", {"--mem-report"})) == 0);
  CHECK_THAT(content_of(s / "reported/console.log"), Catch::Contains("\nmemory report:         planned        held\n  stays ") && Catch::Contains("\n  a step adds ") &&
                                                         Catch::Contains("\n  peak ") && Catch::Contains("% of the plan\n"));
  CHECK(files_of(s / "reported/final") == files_of(s / "run/final"));  // it only looks
  CHECK(s.run({"sft", "--config", s / "run/config.resolved.yaml", "--resume", "--ce", "full"}) == 2);
  CHECK_THAT(s.said(), Catch::Contains("ce"));
  CHECK(s.run(s.sft("dry", {"--dry-run"})) == 0);
  CHECK_THAT(s.said(), Catch::Contains("memory:") && Catch::Contains("40 steps of 4 examples") && Catch::Contains("[["));
  CHECK_FALSE(fs::exists(s / "dry"));
}

TEST_CASE("run: signals save, say so by the exit code, and the rest gives the same bytes", "[full]") {
  const Setting s;
  REQUIRE(s.run(s.sft("whole", {"--steps", "120"})) == 0);
  const auto want = files_of(s / "whole/final");
  int i = 0;
  for (const auto& [signal, code] : {std::pair{SIGINT, 130}, std::pair{SIGTERM, 75}, std::pair{SIGUSR1, 75}}) {
    INFO("signal " << signal);
    const std::string out = "run" + std::to_string(i++);
    Process p(s.sft(out, {"--steps", "120", "--save-every", "0"}), s / "log");
    REQUIRE(p.wait_for("[T] step     5"));
    p.kill(signal);
    CHECK(p.wait() == code);
    CHECK_THAT(p.said(), Catch::Contains("stopping after this step") && Catch::Contains("checkpoint saved, --resume continues"));
    CHECK(fs::exists(s / (out + "/checkpoints/LATEST")));
    CHECK_FALSE(fs::exists(s / (out + "/final")));
    Words again = s.sft(out, {"--steps", "120", "--save-every", "0", "--resume", "--threads", signal == SIGINT ? "2" : "1"});
    CHECK(s.run(again) == 0);
    CHECK(files_of(s / (out + "/final")) == want);
  }
}

TEST_CASE("run: a second trainer in one folder is refused and told who is there") {
  const Setting s;
  Process p(s.sft("run", {"--steps", "100000"}), s / "first");
  REQUIRE(p.wait_for("[T] step     3"));
  CHECK(s.run(s.sft("run", {"--resume"})) == 5);
  CHECK_THAT(s.said(), Catch::Contains("locked by pid " + std::to_string(p.pid())));
  CHECK(p.running());
}

TEST_CASE("run: a damaged checkpoint is named and the one before is used") {
  const Setting s;
  REQUIRE(s.run(s.sft("whole")) == 0);
  REQUIRE(s.run(s.sft("run")) == 0);
  const std::string file = s / "run/checkpoints/step-40/model.safetensors";
  std::string bytes = content_of(file);
  bytes[bytes.size() - 10] ^= 4;
  std::ofstream(file, std::ios::binary) << bytes;
  fs::remove_all(s / "run/final");
  CHECK(s.run(s.sft("run", {"--resume"})) == 0);
  CHECK_THAT(s.said(), Catch::Contains("step-40: CRC of \"norm.weight\"") && Catch::Contains("using step-39") && Catch::Contains("at step 39"));
  CHECK(files_of(s / "run/final") == files_of(s / "whole/final"));
  for (const char* step : {"step-39", "step-40"}) fs::resize_file(s / (std::string("run/checkpoints/") + step + "/optimizer.safetensors"), 100);
  CHECK(s.run(s.sft("run", {"--resume"})) == 3);
  CHECK_THAT(s.said(), Catch::Contains("no checkpoint verifies") && Catch::Contains("step-39") && Catch::Contains("step-40"));
}

TEST_CASE("run: on a full disk training goes on to its end, which names the file and leaves the old checkpoint") {
  const Setting s;
  Process first(s.sft("run", {"--steps", "150", "--save-every", "5"}), s / "first");
  REQUIRE(first.wait_for("[T] step     5"));
  first.kill(SIGTERM);
  REQUIRE(first.wait() == 75);
  const std::string latest = content_of(s / "run/checkpoints/LATEST");
  // No file above 36,000 bytes, as on a disk that is nearly full: less than a checkpoint, more than its manifest and this run's output.
  CHECK(s.run(s.sft("run", {"--steps", "150", "--save-every", "5", "--resume"}), [] { limit(RLIMIT_FSIZE, 36000); }) == 5);
  CHECK_THAT(s.said(), Catch::Contains("warning: no checkpoint of step") && Catch::Contains("model.safetensors") && Catch::Contains("File too large") &&
                           Catch::Contains("training goes on") && Catch::Contains("step   150"));
  CHECK(content_of(s / "run/checkpoints/LATEST") == latest);
  int folders = 0;
  for (const auto& e : fs::directory_iterator(s / "run/checkpoints")) {
    const std::string name = e.path().filename().string();
    CHECK((name == "LATEST" || name.rfind("step-", 0) == 0));
    ++folders;
  }
  CHECK(folders >= 2);
  CHECK(s.run(s.sft("fresh"), [] { limit(RLIMIT_FSIZE, 20000); }) == 5);
  CHECK_FALSE(fs::exists(s / "fresh/final"));
}

TEST_CASE("run: one that diverges ends with exit code 6, the reason and a checkpoint") {
  const Setting s;
  CHECK(s.run(s.sft("run", {"--steps", "200", "--optimizer", "sgd", "--lr", "100", "--clip", "0"})) == 6);
  CHECK_THAT(s.said(), Catch::Contains("the gradient norm is not finite; update skipped, moments kept") && Catch::Contains("10 steps in a row were not finite") &&
                           Catch::Contains("lower --lr") && Catch::Contains("; checkpoint kept"));
  CHECK(fs::exists(s / "run/checkpoints/LATEST"));
  CHECK_FALSE(fs::exists(s / "run/final"));
  CHECK(s.run(s.sft("mended", {"--clip", "1e-3"})) == 0);
  CHECK_THAT(s.said(), Catch::Contains("clipped: 100% of the last steps (--clip 0.001)"));
}

TEST_CASE("run: too little memory is said before the first step") {
  const Setting s;
  CHECK(s.run({"init", s / "large", "--data", s / "data", "--set", "model.num_hidden_layers=2", "--set", "model.hidden_size=256",
               "--set", "model.intermediate_size=8192"}) == 0);
  Words w = s.sft("run");
  w[1] = s / "large";
  CHECK(s.run(w, [] { limit(RLIMIT_AS, rlim_t{200} << 20); }) == 12);
  CHECK_THAT(s.said(), Catch::Contains("memory"));
  CHECK_FALSE(fs::exists(s / "run/final"));
}

TEST_CASE("generate: Ctrl-C ends the answer with what there is of it") {
  const Setting s;
  Process p({"generate", s / "m", "-p", "√(2·3)=", "-n", "100000", "--set", "model.max_position_embeddings=100000", "--forbid", "<eos>", "--forbid", "<end_of_turn>", "--threads", "1"}, s / "log");
  for (int i = 0; i < 2000 && p.running() && p.said().size() < 400; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  p.kill(SIGINT);
  CHECK(p.wait() == 130);
  CHECK(p.said().size() >= 400);
  CHECK(p.said().back() == '\n');
}

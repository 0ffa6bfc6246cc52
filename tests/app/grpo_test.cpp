// facet grpo as a user runs it: on radicals and on word problems with a model that knows nothing, with bad input.
#include <catch2/catch.hpp>

#include <algorithm>
#include <sstream>

#include "tensor/io/json.h"
#include "tests/app/process.h"
#include "tests/support/temp_folder.h"

using namespace facet::test;
using facet::Json;
using Words = std::vector<std::string>;
namespace fs = std::filesystem;

namespace {

const std::string samples = FACET_SAMPLES;

struct Setting : TempFolder {
  Setting() {
    REQUIRE(run_process({"data", "make", "radicals", "--out", *this / "data", "--n", "60"}, *this / "log") == 0);
    REQUIRE(run_process({"init", *this / "m", "--data", *this / "data", "--set", "model.num_hidden_layers=2", "--set", "model.hidden_size=32"},
                        *this / "log") == 0);
  }
  Words grpo(const std::string& out, Words more = {}) const {
    Words w = {"grpo", *this / "m", "--data", *this / "data", "--out", *this / out, "--verifier", "length:3..5", "--steps", "5", "--save-every", "1",
               "--prompts-per-step", "3", "--group", "4", "--max-new", "6", "--eval-limit", "5", "--threads", "1", "--log-every", "1"};
    for (size_t i = 0; i < more.size(); ++i) {
      const auto at = more[i].rfind("--", 0) == 0 ? std::find(w.begin(), w.end(), more[i]) : w.end();
      if (at != w.end()) at[1] = more[++i];
      else w.push_back(more[i]);
    }
    return w;
  }
  int run(const Words& w) const { return run_process(w, *this / "log"); }
  std::string said() const { return content_of(*this / "log"); }
};

std::vector<Json> lines_of(const std::string& path) {
  std::vector<Json> list;
  std::istringstream in(content_of(path));
  for (std::string line; std::getline(in, line);) list.push_back(Json::parse(line));
  return list;
}

}  // namespace

TEST_CASE("grpo: the folder holds every answer with its rewards, samples, metrics and a model") {
  const Setting s;
  REQUIRE(s.run(s.grpo("run", {"--verifier", "radicals", "--updates-per-rollout", "2", "--kl", "0.1"})) == 0);
  CHECK_THAT(s.said(), Catch::Contains("[G] step     1") && Catch::Contains("zero-std") && Catch::Contains("gap") && Catch::Contains("surrogate"));
  for (const char* name : {"config.resolved.yaml", "samples/step-000005.jsonl", "completions/step-000001.jsonl", "completions/step-000003.jsonl",
                           "checkpoints/LATEST", "final/model.safetensors", "final/tokenizer.model"}) {
    INFO(name);
    CHECK(fs::exists(s / (std::string("run/") + name)));
  }
  CHECK_FALSE(fs::exists(s / "run/completions/step-000002.jsonl"));  // the second update of a rollout
  const auto completions = lines_of(s / "run/completions/step-000003.jsonl");
  CHECK(completions.size() == 12);
  for (const char* key : {"prompt", "text", "rewards", "total", "verdict", "advantage", "stop"}) CHECK(completions[0].contains(key));
  CHECK(completions[0].at("rewards").contains("radicals"));
  for (const Json& j : lines_of(s / "run/metrics.jsonl")) {
    if (j.at("kind") == "valid") CHECK(j.contains("pass"));
    else if (j.at("kind") == "train") for (const char* key : {"reward", "pass", "zero_std", "entropy", "kl", "clip_low", "clip_high", "ratio", "length", "truncated"}) CHECK(j.contains(key));
  }
  CHECK(s.run({"grpo", "--config", s / "run/config.resolved.yaml", "--out", s / "again"}) == 0);
  CHECK(content_of(s / "again/final/model.safetensors") == content_of(s / "run/final/model.safetensors"));
  CHECK(s.run(s.grpo("dry", {"--dry-run"})) == 0);
  CHECK_THAT(s.said(), Catch::Contains("memory:") && Catch::Contains("a rollout of 3 x 4 answers"));
  CHECK_FALSE(fs::exists(s / "dry"));
}

TEST_CASE("grpo: a file of word problems, with its own keys, judged by the final number") {
  const Setting s;
  const Words w = s.grpo("run", {"--verifier", "numeric", "--data", samples + "/word_problems.jsonl", "--prompt-key", "question", "--val-frac", "0.2"});
  REQUIRE(run_process({"init", s / "words", "--data", samples + "/word_problems.jsonl", "--prompt-key", "question", "--set", "model.num_hidden_layers=2", "--set", "model.hidden_size=32"}, s / "log") == 0);
  Words with = w;
  with[1] = s / "words";
  INFO(s.said());
  REQUIRE(s.run(with) == 0);
  const auto completions = lines_of(s / "run/completions/step-000001.jsonl");
  REQUIRE(completions.size() == 12);
  CHECK(completions[0].at("prompt").get<std::string>().find("How many") != std::string::npos);
}

TEST_CASE("grpo: what cannot work is refused before anything is written") {
  const Setting s;
  const auto refused = [&](const Words& more, int code, const std::string& word) {
    INFO(word);
    CHECK(s.run(s.grpo("run", more)) == code);
    CHECK_THAT(s.said(), Catch::Contains(word));
    CHECK_FALSE(fs::exists(s / "run"));
  };
  refused({"--verifier", "radical"}, 2, "radicals");
  refused({"--verifier", "radical"}, 2, "did you mean radicals?");
  refused({"--group", "1"}, 2, "--group 1: a lone answer has nothing to be compared with");
  refused({"--temp", "0"}, 2, "--temp 0: all answers to a question would be the same");
  refused({"--temperature", "0"}, 2, "--temp 0: all answers");
  refused({"--loss", "dappo"}, 2, "did you mean dapo?");
  refused({"--scale", "grup"}, 2, "did you mean group?");
  refused({"--kl", "-1"}, 2, "--kl: \"-1\" is out of range");
  refused({"--clip-low", "-0.1"}, 2, "--clip-low: \"-0.1\" is out of range 0 to 1");
  refused({"--clip-high", "-0.1"}, 2, "--clip-high: \"-0.1\" is out of range 0 to");
  refused({"--clip-delta", "1.1", "--clip-high", "0.3"}, 2, "--clip-delta 1.1: must be above the clipped ratio, 1 + 0.3 (--clip-high)");
  refused({"--data", s / "data/train.jsonl", "--answer-key", "anser"}, 4, "train.jsonl:1: \"anser\" is missing; found answer, completion");
  refused({"--data", s / "data/train.jsonl", "--answer-key", "anser"}, 4, "did you mean answer?");
  refused({"--verifier", "numeric", "--data", s.write("words.jsonl", "{\"prompt\": \"2·3=\", \"answer\": \"2\"}\n{\"prompt\": \"2·2=\", \"answer\": \"two\"}\n")}, 4,
          "words.jsonl:2: verifier numeric: the expected answer \"two\" holds no number");
  refused({"--verifier", "exact", "--data", s / "words.jsonl", "--answer-key", "n"}, 4, "\"n\" is missing");
  refused({"--data", s / "data/train.jsonl", "--max-len", "4"}, 4, "0 of 60 rows fit max length 4");
  refused({"--top-p", "0.9"}, 2, "top-p");
  refused({"--loss", "ppo"}, 2, "dapo");
  refused({"--format", "completion"}, 2, "asks questions");
  refused({"--adapter", "lora", "--lora-dropout", "0.1"}, 2, "what samples has to be what learns");
  refused({"--verifier", "numeric", "--data", s / "data/train.jsonl", "--answer-key", "no_such"}, 4, "no_such");
  refused({"--data", samples + "/word_problems.jsonl"}, 4, "prompt");
  refused({"--resume"}, 2, "no run to resume");
}

TEST_CASE("grpo: a verifier that keeps failing ends the run with exit code 6 and a checkpoint") {
  const Setting s;
  CHECK(s.run(s.grpo("run", {"--verifier", "exec:false"})) == 6);
  CHECK_THAT(s.said(), Catch::Contains("12 rows excluded (12 of 10 allowed)") && Catch::Contains("--max-failures") && Catch::Contains("checkpoint kept"));
  CHECK(fs::exists(s / "run/checkpoints/LATEST"));
}

TEST_CASE("grpo: verifiers that die, hang, talk too much or give no numbers cost their rows, and say why") {
  const Setting s;
  for (const auto& [command, why] : {std::pair{"echo out of luck >&2; exit 3", "exit status 3; it said: out of luck"},
                                     {"kill -9 $$", "signal 9"},
                                     {"sleep 60", "no answer within "},
                                     {"yes", "it wrote more than "},
                                     {"cat > /dev/null; yes nan | head -n 2", "\"nan\" is no finite number"},
                                     {"cat > /dev/null; echo 1", "1 line for 2 samples"}}) {
    INFO(command);
    const std::string out = std::string("run ") + why;
    // Beside a verifier that works: what has no reward has none at all.
    CHECK(s.run(s.grpo(out, {"--verifier", "length:3..5", "--verifier=exec:" + std::string(command), "--reward-timeout", "0.05", "--max-failures", "100",
                             "--steps", "1", "--val-frac", "0", "--data", s / "data/train.jsonl", "--prompts-per-step", "1", "--group", "2"})) == 0);
    CHECK_THAT(s.said(), Catch::Contains("warning: step 1: reward \"exec:") && Catch::Contains(why) && Catch::Contains("2 rows excluded (2 of 100 allowed)"));
    for (const Json& j : lines_of(s / (out + "/completions/step-000001.jsonl"))) {
      CHECK(j.at("total").is_null());
      CHECK(j.at("advantage") == 0);
      CHECK(j.at("error").get<std::string>().find("exec:") != std::string::npos);
    }
  }
}

TEST_CASE("grpo: prompts that leave little room are said, those that leave none are refused") {
  const Setting s;
  REQUIRE(run_process({"init", s / "short", "--data", s / "data", "--set", "model.num_hidden_layers=2", "--set", "model.hidden_size=32", "--set",
                       "model.max_position_embeddings=14"}, s / "log") == 0);
  const auto asked = [&](const std::string& prompt, const std::string& out) {
    Words w = s.grpo(out, {"--steps", "1", "--data", s.write("asked.jsonl", "{\"prompt\": \"2·3=\"}\n{\"prompt\": \"" + prompt + "\"}\n"), "--val-frac", "0"});
    w[1] = s / "short";
    return s.run(w);
  };
  CHECK(asked("22222222", "room") == 0);
  CHECK_THAT(s.said(), Catch::Contains("after the longest prompt, of 9 tokens, there is room for 5 of --max-new 6: the model was made for 14 positions"));
  CHECK(asked("2222222222222", "none") == 4);
  CHECK_THAT(s.said(), Catch::Contains("14 tokens") || Catch::Contains("too long"));
}

TEST_CASE("grpo: other trainers' names for the same settings") {
  const Setting s;
  CHECK(s.run({"grpo", s / "m", "--data", s / "data", "--out", s / "run", "--reward", "radicals", "--max-steps", "1", "--num-generations", "2",
               "--max_completion_length", "4", "--temperature", "0.9", "--beta", "0", "--epsilon", "0.2", "--epsilon-high", "0.28", "--loss-type", "dr_grpo",
               "--scale-rewards", "none", "--num-iterations", "1", "--mask-truncated-completions", "--prompts-per-step", "2", "--threads", "1"}) == 0);
}

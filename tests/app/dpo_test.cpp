// facet dpo as a process: pairs that people have, the reference's log-probabilities kept, what it refuses.
#include <catch2/catch.hpp>

#include <algorithm>
#include <filesystem>

#include "tests/app/process.h"
#include "tests/support/temp_folder.h"

using namespace facet::test;
using Words = std::vector<std::string>;
namespace fs = std::filesystem;

namespace {

struct Setting : TempFolder {
  std::string pairs;
  Setting() {
    for (const char* who : {"cat", "dog", "bird", "fish"})
      for (const char* how : {"red", "blue", "green"})
        pairs += "{\"prompt\": \"The " + std::string(how) + " " + who + " \", \"chosen\": \"is calm.\", \"rejected\": \"ATE A SHOE!\"}\n";
    write("pairs.jsonl", pairs);
    REQUIRE(run({"init", *this / "m", "--data", *this / "pairs.jsonl", "--set", "model.num_hidden_layers=2", "--set", "model.hidden_size=32"}) == 0);
  }
  Words dpo(const std::string& out, Words more = {}) const {
    Words w = {"dpo", *this / "m", "--data", *this / "pairs.jsonl", "--out", *this / out, "--val-frac", "0.25", "--batch", "4", "--accum", "2",
               "--steps", "12", "--lr", "2e-3", "--threads", "1"};
    for (size_t i = 0; i < more.size(); ++i) {  // a flag that is there already gets another value
      const auto at = more[i].rfind("--", 0) == 0 ? std::find(w.begin(), w.end(), more[i]) : w.end();
      if (at != w.end()) at[1] = more[++i];
      else w.push_back(more[i]);
    }
    return w;
  }
  int run(const Words& w) const { return run_process(w, *this / "log"); }
  std::string said() const { return content_of(*this / "log"); }
  void refused(const Words& more, int code, const std::vector<std::string>& parts) const {
    INFO(fs::path(more.back()).filename());
    CHECK(run(dpo("refused", more)) == code);
    INFO(said());
    for (const std::string& part : parts) CHECK_THAT(said(), Catch::Contains(part));
    CHECK_FALSE(fs::exists(*this / "refused"));
  }
};

double last(const std::string& metrics, const std::string& kind, const std::string& name) {
  const size_t line = metrics.rfind("\"kind\":\"" + kind + "\"");
  const size_t begin = metrics.rfind('{', line), at = metrics.find("\"" + name + "\":", begin);
  return std::stod(metrics.substr(at + name.size() + 3));
}

}  // namespace

TEST_CASE("dpo command: the margin rises; a second run skips the reference pass and ends in the same bytes") {
  const Setting s;
  REQUIRE(s.run(s.dpo("run")) == 0);
  CHECK_THAT(s.said(), Catch::Contains("9 pairs") && Catch::Contains("log-probabilities of 12 pairs computed") &&
                           Catch::Contains("accuracy 0 loss 0.6931 margin") && Catch::Contains("[T] step    12 [100%] loss"));
  const std::string metrics = content_of(s / "run/metrics.jsonl");
  CHECK(last(metrics, "train", "rewards/margins") > 0.3);
  CHECK(last(metrics, "train", "rewards/accuracies") == 1);
  CHECK(last(metrics, "valid", "margin") > 0.3);
  CHECK(last(metrics, "valid", "loss") < 0.6);
  CHECK(last(metrics, "train", "logps/chosen") < 0);

  const auto final = files_of(s / "run/final");
  REQUIRE(s.run(s.dpo("again", {"--ref-cache", s / "run/reference.safetensors"})) == 0);
  CHECK_THAT(s.said(), Catch::Contains("the pass is skipped"));
  CHECK(files_of(s / "again/final") == final);
  CHECK_FALSE(fs::exists(s / "again/reference.safetensors"));

  REQUIRE(s.run(s.dpo("model", {"--ref", "model", "--separate"})) == 0);
  CHECK_THAT(s.said(), Catch::Contains(", reference ") && !Catch::Contains("computed"));  // in the memory plan
  CHECK(last(content_of(s / "model/metrics.jsonl"), "valid", "loss") == Approx(last(metrics, "valid", "loss")).epsilon(1e-4));

  CHECK(s.run({"dpo", "--config", s / "run/config.resolved.yaml", "--resume", "--beta", "0.2"}) == 2);
  CHECK_THAT(s.said(), Catch::Contains("beta was 0.1") && Catch::Contains("0.2 now"));
  CHECK(s.run({"dpo", "--config", s / "run/config.resolved.yaml", "--resume"}) == 0);
  CHECK(files_of(s / "run/final") == final);

  s.refused({"--ref-cache", s / "run/reference.safetensors", "--val-frac", "0.5"}, 3, {"reference.safetensors: was computed with data", "this run has data"});
  s.refused({"--ref-cache", s / "run/reference.safetensors", "--ref-model", s / "run/final"}, 3, {"was computed with reference", "weights"});
}

TEST_CASE("dpo command: an adapter is held to the base it stands on") {
  const Setting s;
  REQUIRE(s.run(s.dpo("run", {"--adapter", "lora", "--lora-rank", "4", "--lr", "1e-2", "--save-every", "6"})) == 0);
  CHECK_THAT(s.said(), Catch::Contains("reference: adapter-off") && Catch::Contains("accuracy 0 loss 0.6931 margin 0"));
  CHECK_FALSE(fs::exists(s / "run/reference.safetensors"));
  CHECK(fs::exists(s / "run/final/adapter_model.safetensors"));
  const std::string metrics = content_of(s / "run/metrics.jsonl");
  CHECK(last(metrics, "valid", "margin") > 0.2);
  const auto final = files_of(s / "run/final");
  fs::remove_all(s / "run/final");
  fs::remove_all(s / "run/checkpoints/step-12");
  REQUIRE(run_process({"dpo", "--config", s / "run/config.resolved.yaml", "--resume", "--threads", "2"}, s / "log") == 0);
  CHECK_THAT(s.said(), Catch::Contains("at step 6"));
  CHECK(files_of(s / "run/final") == final);
  REQUIRE(s.run(s.dpo("cached", {"--adapter", "lora", "--lora-rank", "4", "--lr", "1e-2", "--ref", "cache"})) == 0);
  CHECK(last(content_of(s / "cached/metrics.jsonl"), "valid", "loss") == Approx(last(metrics, "valid", "loss")).epsilon(1e-4));
}

TEST_CASE("dpo command: what is refused, and why") {
  const Setting s;
  s.refused({"--ref", "adapter-off"}, 2, {"--ref adapter-off: there is no adapter"});
  s.refused({"--adapter", "lora", "--ref", "adapter-off", "--ref-model", s / "m"}, 2, {"--ref-model", "choose one"});
  s.refused({"--ref", "model", "--ref-cache", s / "x"}, 2, {"--ref-cache", "choose one"});
  s.refused({"--ref", "both"}, 2, {"--ref", "adapter-off"});
  s.refused({"--loss", "hinge", "--label-smoothing", "0.1"}, 2, {"label smoothing is for the losses sigmoid and robust"});
  s.refused({"--loss", "robust", "--label-smoothing", "0.5"}, 2, {"below 0.5"});
  s.refused({"--ipo-sum"}, 2, {"ipo"});
  s.refused({"--loss", "logistic"}, 2, {"sigmoid"});
  s.refused({"--loss", "sigmod"}, 2, {"\"sigmod\" is none of sigmoid, robust, hinge, ipo; did you mean sigmoid?"});
  s.refused({"--beta", "0"}, 2, {"--beta 0: nothing would tell chosen from rejected"});
  s.refused({"--beta", "-0.1"}, 2, {"--beta", "out of range 0 to"});
  s.refused({"--max-len", "6"}, 4, {"pairs.jsonl: 0 of 12 rows fit max length 6 (shortest ", "raise --max-len"});
  s.refused({"--max-len", "6", "--too-long", "truncate"}, 4, {"pairs.jsonl: 0 usable rows of 12", "no target 12"});
  s.refused({"--data", s.write("empty.jsonl", s.pairs + "{\"prompt\": \"a \", \"chosen\": \"b\", \"rejected\": \"\"}\n")}, 4,
            {"empty.jsonl:13", "\"rejected\" is empty, spaces aside"});
  s.refused({"--rejected-key", "rejecte"}, 4, {"pairs.jsonl:1", "\"rejecte\" is missing; found chosen, prompt, rejected; did you mean rejected?"});
  fs::create_directories(s / "adapter");
  s.write("adapter/adapter_config.json", "{}");
  s.refused({"--ref-model", s / "adapter"}, 3, {"holds an adapter, not a model", "facet merge"});
  s.refused({"--mask", "none"}, 2, {"only the completions count"});
  s.refused({"--ref-model", s / "nowhere"}, 3, {"no such folder"});
  s.refused({"--data", s.write("equal.jsonl", s.pairs + "{\"prompt\": \"a \", \"chosen\": \"b\", \"rejected\": \"b\"}\n")}, 4,
            {"equal.jsonl:13", "\"chosen\" and \"rejected\" are identical"});
  s.refused({"--data", s.write("one.jsonl", "{\"prompt\": \"a \", \"chosen\": \"b\"}\n")}, 4, {"one.jsonl:1", "\"rejected\" is missing"});
  s.refused({"--data", s.write("texts.jsonl", "{\"text\": \"calm\"}\n"), "--val-frac", "0"}, 4, {"texts.jsonl", "preference data"});
}

// All ways to train, as command lines on one small model: what holds for every run is tested for each of them.
#pragma once
#include <catch2/catch.hpp>

#include <algorithm>
#include <string>
#include <vector>

#include "tests/app/process.h"
#include "tests/support/temp_folder.h"

namespace facet::test {

using Words = std::vector<std::string>;

struct Trainers : TempFolder {
  /// `shape`: what sets the model's sizes.
  explicit Trainers(const Words& shape = {"--set", "model.num_hidden_layers=2", "--set", "model.hidden_size=32"}) {
    REQUIRE(run_process({"data", "make", "radicals", "--out", *this / "data", "--n", "60"}, *this / "log") == 0);
    REQUIRE(run(init("m", shape)) == 0);
    write("pairs.jsonl", pairs(12));
  }
  /// `n` pairs of the radicals' characters.
  static std::string pairs(int n) {
    std::string text;
    for (int i = 0; i < n; ++i)
      text += "{\"prompt\": \"√(2·" + std::to_string(3 + i) + ")=\", \"chosen\": \"2·" + std::to_string(5 + i) + "\", \"rejected\": \"√(" + std::to_string(7 + 3 * i) +
              ")\"}\n";
    return text;
  }

  Words init(const std::string& model, const Words& shape) const {
    Words w = {"init", *this / model, "--data", *this / "data"};
    w.insert(w.end(), shape.begin(), shape.end());
    return w;
  }

  static const std::vector<std::string>& kinds() {
    static const std::vector<std::string> list = {"sft", "sft lora", "dpo cache", "dpo model", "dpo adapter-off", "grpo", "grpo updates", "grpo lora"};
    return list;
  }
  /// The words of a run. Seven steps by default, with an epoch that ends inside the third or fourth. `more`: flags and values; a flag that is
  /// there already gets another value.
  Words words(const std::string& kind, const std::string& out, const Words& more = {}) const {
    const std::string trainer = kind.substr(0, kind.find(' '));
    Words w = {trainer, *this / "m", "--out", *this / out, "--steps", "7", "--lr", "1e-3", "--save-every", "1", "--log-every", "1", "--threads", "1"};
    const auto add = [&](const Words& flags) {
      for (size_t i = 0; i < flags.size(); ++i) {
        const auto at = flags[i].rfind("--", 0) == 0 ? std::find(w.begin(), w.end(), flags[i]) : w.end();
        if (at != w.end()) at[1] = flags[++i];
        else w.push_back(flags[i]);
      }
    };
    const Words lora = {"--adapter", "lora", "--lora-rank", "4"};
    if (trainer == "sft") add({"--data", *this / "data/train.jsonl", "--batch", "18", "--accum", "3", "--val-frac", "0.1"});
    if (trainer == "dpo") add({"--data", *this / "pairs.jsonl", "--batch", "4", "--accum", "2", "--val-frac", "0.25"});
    if (trainer == "grpo")
      add({"--data", *this / "data/train.jsonl", "--val-frac", "0.1", "--verifier", "length:3..5", "--prompts-per-step", "16", "--group", "4", "--max-new", "6",
           "--accum", "2"});
    if (kind == "sft lora") add(lora), add({"--lora-dropout", "0.1", "--max-len", "60", "--pack"});
    if (kind == "sft lion") add({"--optimizer", "lion", "--schedule", "wsd", "--label-smoothing", "0.1", "--bucket", "3"});
    if (kind == "sft adafactor") add({"--optimizer", "adafactor", "--schedule", "inverse-sqrt", "--z-loss", "1e-4"});
    if (kind == "dpo model") add({"--ref", "model"});
    if (kind == "dpo adapter-off") add(lora), add({"--lora-dropout", "0.1"});
    if (kind == "grpo updates") add({"--updates-per-rollout", "3", "--kl", "0.05", "--pack", "40"});
    if (kind == "grpo lora") add(lora), add({"--kl", "0.05", "--scale", "batch"});
    add(more);
    return w;
  }
  /// The same with --resume and more.
  Words resumed(const std::string& kind, const std::string& out, const Words& more = {}) const {
    Words w = words(kind, out, more);
    w.push_back("--resume");
    return w;
  }
  int run(const Words& w, const std::function<void()>& limits = {}) const { return run_process(w, *this / "log", limits); }
  std::string said() const { return content_of(*this / "log"); }
};

}  // namespace facet::test

// A task that the small model learns in a few steps: use the first letters of the alphabet. Made for tests of GRPO.
#pragma once
#include <algorithm>
#include <optional>

#include "data/make_tokenizer.h"
#include "optim/adamw.h"
#include "tests/train/small.h"
#include "train/grpo.h"

namespace facet::test {

/// The share of characters from 'a' to 'e'; `wrong` may fail rows.
struct FirstLetters final : Verifier {
  std::string title = "first letters";
  std::optional<double> constant;  ///< what every answer is worth
  std::function<std::string(size_t row)> wrong = [](size_t) { return std::string(); };
  const std::string& name() const override { return title; }
  std::vector<Verdict> judge(std::span<const Judged> list) override {
    std::vector<Verdict> verdicts;
    for (size_t i = 0; i < list.size(); ++i) {
      const std::string& text = list[i].completion;
      const auto n = static_cast<double>(std::count_if(text.begin(), text.end(), [](char c) { return c >= 'a' && c <= 'e'; }));
      verdicts.push_back({constant ? *constant : text.empty() ? 0 : n / static_cast<double>(text.size()), n > 0 ? "some" : "none", wrong(i)});
    }
    return verdicts;
  }
};

/// Everything a run needs but its options.
struct GrpoTask {
  OneThread one_thread;
  Tokenizer tokenizer = Tokenizer::from_bytes(char_tokenizer("abcdefghijklmnopqrstuvwxyz0123"), "letters");
  std::unique_ptr<Gemma> model;
  std::vector<Question> train, valid;
  Rewards rewards;
  FirstLetters* verifier = nullptr;

  explicit GrpoTask(DType dtype = DType::f32) {
    GemmaConfig c = small_config();
    c.vocab = tokenizer.vocab_size();
    model = std::make_unique<Gemma>(c, dtype);
    model->init(key(7));
    for (const char* text : {"a", "abc", "hello", "bb", "xyz0", "longer", "c"}) {
      Question q{.prompt = text, .ids = {tokenizer.specials().bos}, .expected = {}, .row = {}, .where = "t.jsonl:1", .line = 1};
      for (const int32_t id : tokenizer.encode(text)) q.ids.push_back(id);
      (train.size() < 5 ? train : valid).push_back(q);
    }
    auto owned = std::make_unique<FirstLetters>();
    verifier = owned.get();
    rewards.add(std::move(owned));
  }

  GrpoOptions options() const {
    GrpoOptions o;
    o.rollout.group = 4;
    o.rollout.max_new = 6;
    o.rollout.stop = {tokenizer.encode("z")[0], tokenizer.encode("e")[0], tokenizer.encode("0")[0]};
    o.prompts = 3;
    return o;
  }
  Grpo objective(const GrpoOptions& o, Grpo::WithReference reference = {}) { return Grpo(*model, tokenizer, train, valid, rewards, o, std::move(reference)); }
};

}  // namespace facet::test

// Answering a file of questions and judging the answers: what eval and the demo share.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "app/model_folder.h"
#include "infer/generator.h"

namespace facet::app {

struct Asked {
  std::string prompt;    ///< as text, for people and verifiers
  Ids ids;               ///< what the model is given
  std::string expected;  ///< "answer", else "completion" of the row; may be empty
};

/// Reads rows {"prompt": text or messages, ...}. At most `limit` (0: all). Throws Error(Kind::data) with file and line.
std::vector<Asked> read_questions(const std::string& path, const Tokenizer&, int64_t limit = 0);

struct Answer {
  std::string text;
  double reward = 0;   ///< 1: right
  std::string verdict; ///< "correct", "wrong", ...
  Stop stop = Stop::running;
};

/// Judges one answer: reward and verdict.
using Verifier = std::function<std::pair<double, std::string>(const Asked&, const std::string& answer)>;
/// "radicals" (exact arithmetic on the prompt) or "exact" (equal to what was expected, ends trimmed); throws naming the choices.
Verifier verifier_named(const std::string& name);
std::vector<std::string> verifier_names();

/// answers[i][j]: the j-th of k answers to question i; greedy ones are all alike, so k is 1 then. `progress` gets answered and total.
std::vector<std::vector<Answer>> answer_all(LanguageModel&, const Tokenizer&, const std::vector<Asked>&, GenerateOptions, int64_t k,
                                            const Verifier&, const std::function<void(int64_t, int64_t)>& progress = {});

struct PassRate {
  double pass1 = 0;         ///< mean over questions of the share of right answers
  double pass1_error = 0;   ///< its standard error over distinct questions
  double pass_k = 0;        ///< share of questions with a right answer among k
  double mean_reward = 0, stopped = 0;  ///< stopped: share of answers ended by a stop token
};
PassRate pass_rate(const std::vector<std::vector<Answer>>&);

}  // namespace facet::app

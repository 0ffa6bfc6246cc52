// Answering a file of questions and judging the answers: what eval and the demo share.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "app/model_folder.h"
#include "data/verifier.h"
#include "infer/generator.h"

namespace facet::app {

struct Answer {
  std::string text;
  double reward = 0;    ///< the weighted sum
  bool right = false;   ///< the first verifier gave 1
  std::string verdict;  ///< "correct", "wrong", ...
  std::string error;    ///< not empty: a verifier failed, there is no reward
  Stop stop = Stop::running;
  Ids tokens = {};            ///< a stop token included
  std::vector<float> log_probs = {};
};

/// answers[i][j]: the j-th of k answers to question i; greedy ones are all alike, so k is 1 then. `progress` gets answered and total.
/// Without verifiers there are no rewards.
std::vector<std::vector<Answer>> answer_all(LanguageModel&, const Tokenizer&, const std::vector<Question>&, GenerateOptions, int64_t k,
                                            Rewards&, const std::function<void(int64_t, int64_t)>& progress = {});

struct PassRate {
  double pass1 = 0;         ///< mean over questions of the share of right answers
  double pass1_error = 0;   ///< its standard error over distinct clusters
  double pass_k = 0;        ///< share of questions with a right answer among k
  double mean_reward = 0, stopped = 0;  ///< stopped: share of answers ended by a stop token
  int64_t failed = 0;       ///< answers that a verifier failed on: counted nowhere else
};
/// `cluster`: which problem each question is an instance of, when several are the same one in another spelling; their answers stand
/// and fall together, so the error counts problems. Empty: every question is its own.
PassRate pass_rate(const std::vector<std::vector<Answer>>&, const std::vector<std::string>& cluster = {});

}  // namespace facet::app

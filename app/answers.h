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
  double pass_k = 0;        ///< mean over questions of the chance that of k answers one is right (pass_at)
  double mean_reward = 0, stopped = 0;  ///< stopped: share of answers ended by a stop token
  int64_t failed = 0;       ///< answers that a verifier failed on: counted nowhere else
};
/// `cluster`: which problem each question is an instance of, when several are the same one in another spelling; their answers stand
/// and fall together, so the error counts problems. Empty: every question is its own. `k`: of pass_k; 0: all answers there are.
PassRate pass_rate(const std::vector<std::vector<Answer>>&, const std::vector<std::string>& cluster = {}, int64_t k = 0);

/// The chance that k of n answers, taken without looking, hold one of the `right` ones: 1 - C(n - right, k) / C(n, k). Its mean over draws
/// of n is pass@k, whatever n >= k (Chen et al. 2021, arXiv 2107.03374, section 2.1); the share of lucky first k has the same mean and varies
/// more, and 1 - (1 - right / n)^k is too low.
double pass_at(int64_t n, int64_t right, int64_t k);

}  // namespace facet::app

#include "app/answers.h"

#include <algorithm>
#include <cmath>

namespace facet::app {
namespace {

constexpr int64_t rows_at_once = 64;

}  // namespace

std::vector<std::vector<Answer>> answer_all(LanguageModel& model, const Tokenizer& tokenizer, const std::vector<Question>& questions,
                                            GenerateOptions o, int64_t k, Rewards& rewards,
                                            const std::function<void(int64_t, int64_t)>& progress) {
  if (o.sampling.temperature == 0) k = 1;
  std::vector<std::vector<Answer>> result(questions.size());
  const int64_t total = static_cast<int64_t>(questions.size()) * k;
  const uint64_t seed = o.seed;
  for (int64_t begin = 0; begin < total; begin += rows_at_once) {
    const int64_t end = std::min(total, begin + rows_at_once);
    std::vector<std::vector<int32_t>> prompts;
    for (int64_t i = begin; i < end; ++i) prompts.push_back(questions[static_cast<size_t>(i / k)].ids);
    o.seed = seed + static_cast<uint64_t>(begin);  // rows count from 0 in every batch
    const auto generations = generate(model, prompts, o);
    std::vector<Judged> texts;
    for (int64_t i = begin; i < end; ++i) {
      const Generation& g = generations[static_cast<size_t>(i - begin)];
      Ids ids = g.tokens;
      if (g.stop == Stop::stop_token) ids.pop_back();
      texts.push_back({&questions[static_cast<size_t>(i / k)], tokenizer.decode(ids)});
      result[static_cast<size_t>(i / k)].push_back({.text = texts.back().completion, .verdict = {}, .error = {}, .stop = g.stop});
    }
    const std::vector<Reward> judged = rewards.judge(texts);
    for (int64_t i = begin; i < end && rewards.size() > 0; ++i) {
      const Reward& r = judged[static_cast<size_t>(i - begin)];
      Answer& a = result[static_cast<size_t>(i / k)][static_cast<size_t>(i % k)];
      a.error = r.error;
      if (!r.error.empty()) continue;
      a.reward = r.total;
      a.right = r.each[0] >= 1;
      a.verdict = r.verdict;
    }
    if (progress) progress(end, total);
  }
  return result;
}

PassRate pass_rate(const std::vector<std::vector<Answer>>& answers) {
  PassRate r;
  double squares = 0, count = 0, questions = 0;  // of those that were judged
  for (const auto& list : answers) {
    double right = 0, judged = 0;
    for (const Answer& a : list) {
      if (!a.error.empty()) {
        ++r.failed;
        continue;
      }
      right += a.right;
      r.mean_reward += a.reward;
      r.stopped += a.stop == Stop::stop_token;
      ++judged;
    }
    if (judged == 0) continue;
    const double share = right / judged;
    r.pass1 += share;
    squares += share * share;
    r.pass_k += right > 0;
    count += judged;
    ++questions;
  }
  if (questions == 0) return r;
  const double n = questions;
  r.pass1 /= n;
  r.pass_k /= n;
  r.mean_reward /= count;
  r.stopped /= count;
  r.pass1_error = n > 1 ? std::sqrt(std::max(0.0, squares / n - r.pass1 * r.pass1) / (n - 1)) : 0;
  return r;
}

}  // namespace facet::app

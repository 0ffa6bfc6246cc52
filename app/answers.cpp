#include "app/answers.h"

#include <algorithm>
#include <cmath>
#include <map>

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
      result[static_cast<size_t>(i / k)].push_back({.text = texts.back().completion, .verdict = {}, .error = {}, .stop = g.stop, .tokens = g.tokens, .log_probs = g.log_probs});
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

double pass_at(int64_t n, int64_t right, int64_t k) {
  if (n - right < k) return 1;
  double none = 1;
  for (int64_t i = n - right + 1; i <= n; ++i) none *= 1 - static_cast<double>(k) / static_cast<double>(i);
  return 1 - none;
}

PassRate pass_rate(const std::vector<std::vector<Answer>>& answers, const std::vector<std::string>& cluster, int64_t k) {
  PassRate r;
  double count = 0, questions = 0;                        // of those that were judged
  std::map<std::string, std::pair<double, double>> sums;  // by cluster: shares of right answers, questions
  for (size_t i = 0; i < answers.size(); ++i) {
    int64_t right = 0, judged = 0;
    for (const Answer& a : answers[i]) {
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
    const double share = static_cast<double>(right) / static_cast<double>(judged);
    r.pass1 += share;
    auto& [shares, n] = sums[cluster.empty() ? std::to_string(i) : cluster[i]];
    shares += share;
    ++n;
    r.pass_k += pass_at(judged, right, k > 0 ? std::min(k, judged) : judged);
    count += static_cast<double>(judged);
    ++questions;
  }
  if (questions == 0) return r;
  r.pass1 /= questions;
  r.pass_k /= questions;
  r.mean_reward /= count;
  r.stopped /= count;
  // The cluster-robust error of a mean (Liang and Zeger 1986): deviations add up within a cluster before they are squared.
  double squares = 0;
  for (const auto& [name, sum] : sums) squares += std::pow(sum.first - r.pass1 * sum.second, 2);
  if (const auto clusters = static_cast<double>(sums.size()); clusters > 1) r.pass1_error = std::sqrt(squares * clusters / (clusters - 1)) / questions;
  return r;
}

}  // namespace facet::app

#include "app/answers.h"

#include <algorithm>
#include <cmath>
#include <tuple>

#include "data/jsonl.h"
#include "data/radicals.h"
#include "data/row.h"
#include "tensor/io/json.h"

namespace facet::app {
namespace {

constexpr int64_t rows_at_once = 64;

std::string trimmed(const std::string& s) {
  const size_t a = s.find_first_not_of(" \t\r\n"), b = s.find_last_not_of(" \t\r\n");
  return a == std::string::npos ? "" : s.substr(a, b - a + 1);
}

}  // namespace

std::vector<Asked> read_questions(const std::string& path, const Tokenizer& tokenizer, int64_t limit) {
  std::vector<Asked> list;
  LineReader reader(path);
  const Task task = Task::prompt;
  for (std::string line; (limit <= 0 || static_cast<int64_t>(list.size()) < limit) && reader.next(line);) {
    const Row row = parse_row(line, reader.where(), {}, &task);
    Asked q;
    if (row.prompt_is_chat) {
      q.ids = encode_chat(tokenizer, row.prompt, {.generation_prompt = true, .merge_roles = false, .safe = false}).ids;
      for (const Part& p : row.prompt.back().parts) q.prompt += p.text;
    } else {
      for (const Part& p : row.prompt.front().parts) q.prompt += p.text;
      q.ids = encode_prompt(tokenizer, q.prompt);
    }
    const Json j = parse_json(line, reader.where(), Kind::data);
    for (const char* key : {"answer", "completion"})
      if (q.expected.empty() && j.contains(key) && j[key].is_string()) q.expected = j[key].get<std::string>();
    list.push_back(std::move(q));
  }
  if (list.empty()) fail(Kind::data, "{}: no questions in it", path);
  return list;
}

std::vector<std::string> verifier_names() { return {"exact", "radicals"}; }

Verifier verifier_named(const std::string& name) {
  if (name == "exact")
    return [](const Asked& q, const std::string& answer) {
      const bool right = trimmed(answer) == trimmed(q.expected);
      return std::pair<double, std::string>(right ? 1.0 : 0.0, right ? "correct" : "wrong");
    };
  if (name == "radicals")
    return [](const Asked& q, const std::string& answer) {
      const auto n = radicand(q.prompt);
      if (!n) fail(Kind::data, "verifier radicals: the prompt \"{}\" is no radical such as √(2·3·3)=", q.prompt);
      const RadicalVerdict v = judge_radical(*n, answer);
      return std::pair<double, std::string>(reward_of(v), name_of(v));
    };
  fail(Kind::usage, "--verifier {}: unknown; there are {}", name, fmt::join(verifier_names(), ", "));
}

std::vector<std::vector<Answer>> answer_all(LanguageModel& model, const Tokenizer& tokenizer, const std::vector<Asked>& questions,
                                            GenerateOptions o, int64_t k, const Verifier& judge,
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
    for (int64_t i = begin; i < end; ++i) {
      const Generation& g = generations[static_cast<size_t>(i - begin)];
      const Asked& q = questions[static_cast<size_t>(i / k)];
      Answer a;
      Ids ids = g.tokens;
      if (g.stop == Stop::stop_token) ids.pop_back();
      a.text = tokenizer.decode(ids);
      a.stop = g.stop;
      if (judge) std::tie(a.reward, a.verdict) = judge(q, a.text);
      result[static_cast<size_t>(i / k)].push_back(std::move(a));
    }
    if (progress) progress(end, total);
  }
  return result;
}

PassRate pass_rate(const std::vector<std::vector<Answer>>& answers) {
  PassRate r;
  double squares = 0, count = 0;
  for (const auto& list : answers) {
    double right = 0;
    for (const Answer& a : list) {
      right += a.reward >= 1;
      r.mean_reward += a.reward;
      r.stopped += a.stop == Stop::stop_token;
      ++count;
    }
    const double share = right / static_cast<double>(list.size());
    r.pass1 += share;
    squares += share * share;
    r.pass_k += right > 0;
  }
  const auto n = static_cast<double>(answers.size());
  r.pass1 /= n;
  r.pass_k /= n;
  r.mean_reward /= count;
  r.stopped /= count;
  r.pass1_error = n > 1 ? std::sqrt(std::max(0.0, squares / n - r.pass1 * r.pass1) / (n - 1)) : 0;
  return r;
}

}  // namespace facet::app

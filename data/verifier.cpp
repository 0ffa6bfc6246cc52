#include "data/verifier.h"

#include <charconv>
#include <cmath>

#include "data/exec_verifier.h"
#include "data/numeric.h"
#include "data/radicals.h"
#include "data/regex.h"
#include "data/utf8.h"
#include "tensor/io/text.h"

namespace facet {

namespace {

std::string_view trimmed(std::string_view s) {
  const size_t a = s.find_first_not_of(" \t\r\n"), b = s.find_last_not_of(" \t\r\n");
  return a == s.npos ? std::string_view() : s.substr(a, b - a + 1);
}

Verdict right_or_wrong(bool right) { return {right ? 1.0 : 0.0, right ? "correct" : "wrong", {}}; }

// A verifier that looks at one answer at a time.
class PerAnswer : public Verifier {
 public:
  explicit PerAnswer(std::string name) : name_(std::move(name)) {}
  const std::string& name() const override { return name_; }
  std::vector<Verdict> judge(std::span<const Judged> answers) override {
    std::vector<Verdict> r;
    for (const Judged& a : answers) r.push_back(judge_one(*a.question, a.completion));
    return r;
  }

 protected:
  virtual Verdict judge_one(const Question&, std::string_view answer) const = 0;
  void check_expected(const Question& q) const {
    if (trimmed(q.expected).empty())
      fail(Kind::data, "verifier {} needs the expected answer; there is no \"answer\" (--answer-key) or \"completion\"", name_);
  }

 private:
  std::string name_;
};

class Exact final : public PerAnswer {
 public:
  using PerAnswer::PerAnswer;
  void check(const Question& q) const override { check_expected(q); }

 protected:
  Verdict judge_one(const Question& q, std::string_view answer) const override { return right_or_wrong(trimmed(answer) == trimmed(q.expected)); }
};

class Numeric final : public PerAnswer {
 public:
  using PerAnswer::PerAnswer;
  void check(const Question& q) const override {
    check_expected(q);
    if (!final_number(q.expected)) fail(Kind::data, "verifier numeric: the expected answer \"{}\" holds no number", printable(q.expected, 60));
  }

 protected:
  Verdict judge_one(const Question& q, std::string_view answer) const override {
    const auto expected = final_number(q.expected), found = final_number(answer);
    if (!found) return {0, "no number", {}};
    return right_or_wrong(expected && *expected == *found);
  }
};

class Radicals final : public PerAnswer {
 public:
  using PerAnswer::PerAnswer;
  void check(const Question& q) const override {
    if (!radicand(q.prompt)) fail(Kind::data, "verifier radicals: the prompt \"{}\" is no radical such as √(2·3·3)=", printable(q.prompt, 60));
  }

 protected:
  Verdict judge_one(const Question& q, std::string_view answer) const override {
    const auto n = radicand(q.prompt);
    if (!n) return {0, {}, "the prompt is no radical"};
    const RadicalVerdict v = judge_radical(*n, answer);
    return {reward_of(v), name_of(v), {}};
  }
};

class Pattern final : public PerAnswer {
 public:
  Pattern(std::string name, std::string_view pattern) : PerAnswer(std::move(name)), regex_(pattern) {}

 protected:
  Verdict judge_one(const Question&, std::string_view answer) const override {
    const bool found = regex_.search(answer);
    return {found ? 1.0 : 0.0, found ? "match" : "no match", {}};
  }

 private:
  Regex regex_;
};

class Length final : public PerAnswer {
 public:
  Length(std::string name, std::string_view range) : PerAnswer(std::move(name)) {
    const auto number = [](std::string_view s, uint32_t& v) {
      const auto [end, error] = std::from_chars(s.data(), s.data() + s.size(), v);
      return s.empty() || (error == std::errc() && end == s.data() + s.size());
    };
    const size_t dots = range.find("..");
    if (dots == range.npos || range.size() == 2 || !number(range.substr(0, dots), least_) || !number(range.substr(dots + 2), most_) || least_ > most_)
      fail(Kind::usage, "verifier \"{}\": expected length:N..M, length:N.. or length:..M (characters)", printable(this->name(), 60));
  }

 protected:
  Verdict judge_one(const Question&, std::string_view answer) const override {
    const auto n = static_cast<double>(characters(answer).size());
    if (n < least_) return {n / least_, "too short", {}};
    if (n > most_) return {most_ / n, "too long", {}};
    return {1, "fits", {}};
  }

 private:
  uint32_t least_ = 0, most_ = UINT32_MAX;
};

}  // namespace

std::unique_ptr<Verifier> make_verifier(const std::string& spec, const ExecLimits& limits) {
  const size_t colon = spec.find(':');
  const std::string kind = spec.substr(0, colon), rest = colon == spec.npos ? "" : spec.substr(colon + 1);
  if (colon == spec.npos) {
    if (kind == "radicals") return std::make_unique<Radicals>(spec);
    if (kind == "exact") return std::make_unique<Exact>(spec);
    if (kind == "numeric") return std::make_unique<Numeric>(spec);
  } else if (!rest.empty()) {
    if (kind == "regex") return std::make_unique<Pattern>(spec, rest);
    if (kind == "length") return std::make_unique<Length>(spec, rest);
    if (kind == "exec") return make_exec_verifier(rest, limits);
  }
  const std::string near = nearest(kind, {"radicals", "exact", "numeric", "regex", "length", "exec"});
  fail(Kind::usage, "verifier \"{}\" is unknown{} There are radicals, exact, numeric, regex:PATTERN, length:N..M, exec:COMMAND", printable(spec, 60),
       near.empty() || near == spec ? "." : fmt::format(", did you mean {}?", near));
}

// ---- Rewards

void Rewards::add(std::unique_ptr<Verifier> verifier, double weight) {
  if (!std::isfinite(weight)) fail(Kind::usage, "the weight of reward \"{}\" is {}", printable(verifier->name(), 60), weight);
  list_.push_back({std::move(verifier), weight});
}

void Rewards::check(std::span<const Question> questions) const {
  for (const Question& q : questions)
    for (const Weighted& w : list_) {
      try {
        w.verifier->check(q);
      } catch (const Error& e) {
        throw Error(e.kind(), q.where + ": " + e.what());
      }
    }
}

std::vector<Reward> Rewards::judge(std::span<const Judged> answers) {
  std::vector<Reward> r(answers.size());
  for (const Weighted& w : list_) {
    const std::string name = printable(w.verifier->name(), 60);
    std::vector<Verdict> verdicts;
    std::string broken;
    try {
      verdicts = w.verifier->judge(answers);
      if (verdicts.size() != answers.size()) broken = fmt::format("{} verdicts for {} samples", verdicts.size(), answers.size());
    } catch (const std::bad_alloc&) {
      throw;
    } catch (const std::exception& e) {
      broken = e.what();
    }
    verdicts.resize(answers.size());
    for (size_t i = 0; i < answers.size(); ++i) {
      Verdict& v = verdicts[i];
      if (!broken.empty()) v.error = broken;
      else if (v.error.empty() && !std::isfinite(v.reward)) v.error = fmt::format("the reward is {}", v.reward);
      if (!v.error.empty() && r[i].error.empty()) r[i].error = fmt::format("reward \"{}\" raised at sample {}: {}", name, i + 1, v.error);
      r[i].each.push_back(v.error.empty() ? v.reward : 0);
      r[i].total += w.weight * r[i].each.back();
      if (&w == &list_.front()) r[i].verdict = v.name;
      else r[i].verdict += fmt::format(", {} {:.3g}", name, v.reward);
    }
  }
  return r;
}

}  // namespace facet

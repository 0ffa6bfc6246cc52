#include "tensor/gpu/waits.h"
#include "train/grpo.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>

#include "autograd/ops.h"
#include "autograd/ops/linear_loss.h"
#include "data/shuffle.h"
#include "nn/body_graphs.h"
#include "tensor/kernels/row_losses.h"
#include "tensor/trace.h"
#include "train/sft.h"

namespace facet {
namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); }

double share(int64_t part, int64_t whole) { return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : 0; }
double mean(double sum, int64_t n) { return n > 0 ? sum / static_cast<double>(n) : 0; }

constexpr double truncated_too_often = 0.9, solved = 0.99;
constexpr int64_t flat_for = 10;  // rollouts in a row: one may be odd
constexpr uint32_t rollout_stream = 0x6f6c6c;  // keeps these draws apart from others of the same seed

bool passed(double reward) { return reward >= 1; }

Ids prompt_text_ids(const Rollout& r) {
  Ids ids = r.tokens;
  if (r.stop == Stop::stop_token) ids.pop_back();
  return ids;
}

}  // namespace

// What a rollout looks like, from its numbers alone: the same before and after a resume.
struct Grpo::Figures {
  Advantages advantages;
  std::vector<int64_t> first;  // number of every completion's first token
  int64_t learnable = 0;       // tokens of completions that count, flat groups included
  int64_t flat = 0, passed = 0, truncated = 0;
  double length = 0, entropy = 0;
  std::vector<double> each;    // mean reward of every verifier
};

struct Grpo::Learned {
  double loss = 0, ratio = 0, kl = 0, kl_rollout = 0, gap = 0;
  int64_t low = 0, high = 0, tokens = 0, computed = 0;
  double flops = 0;
};

Grpo::Grpo(LanguageModel& model, const Tokenizer& tokenizer, const std::vector<Question>& train, const std::vector<Question>& valid, Rewards& rewards,
           GrpoOptions options, WithReference reference)
    : model_(model),
      tokenizer_(tokenizer),
      train_(train),
      valid_(valid),
      rewards_(rewards),
      options_(std::move(options)),
      reference_(std::move(reference)),
      roller_(model) {
  const SamplingOptions& s = options_.rollout.sampling;
  s.check();
  if (s.temperature == 0) fail(Kind::usage, "grpo: temperature 0 samples the same answer every time; there is nothing to compare");
  // The log-probabilities are those of the whole vocabulary: what a filter draws from is another distribution, and the ratio would be wrong.
  if (s.top_k != 0 || s.top_p != 1 || s.min_p != 0 || s.repetition_penalty != 1 || !s.forbidden.empty())
    fail(Kind::usage, "grpo: top-k, top-p, min-p, a repetition penalty and forbidden tokens change the distribution that is sampled; leave them off");
  if (options_.rollout.group < 2) fail(Kind::usage, "grpo: a group of {} has nothing to compare; at least 2", options_.rollout.group);
  if (options_.prompts < 1 || options_.updates < 1)
    fail(Kind::usage, "grpo: {} prompts and {} updates per rollout; at least 1 of each", options_.prompts, options_.updates);
  if (options_.policy.kl > 0 && !reference_) fail(Kind::usage, "grpo: a KL of {} needs a reference policy", options_.policy.kl);
  if (rewards_.size() == 0) fail(Kind::usage, "grpo: no verifier; there is nothing to learn from");
  if (train_.empty()) fail(Kind::data, "grpo: no questions to learn from");
  for (const auto* list : {&train_, &valid_}) {
    for (const Question& q : *list)
      if (static_cast<int64_t>(q.ids.size()) >= model_.context())
        fail(Kind::data, "{}: the prompt has {} tokens and the context {}: no room for an answer", q.where, q.ids.size(), model_.context());
    rewards_.check(*list);
  }
}

std::vector<int64_t> Grpo::questions_of(int64_t rollout) const {
  const auto n = static_cast<int64_t>(train_.size());
  std::vector<int64_t> list, order;
  int64_t shown = -1;
  for (int64_t place = rollout * options_.prompts; place < (rollout + 1) * options_.prompts; ++place) {
    if (place / n != shown) order = shuffled(n, options_.seed, ShuffleUse::epoch, static_cast<uint64_t>(shown = place / n));
    list.push_back(order[static_cast<size_t>(place % n)]);
  }
  return list;
}

// ---- sampling

void Grpo::sample(int64_t rollout, int64_t step, std::map<std::string, double>& extra) {
  const auto begin = Clock::now();
  const std::vector<int64_t> asked = questions_of(rollout);
  std::vector<Ids> prompts;
  for (const int64_t q : asked) prompts.push_back(train_[static_cast<size_t>(q)].ids);
  RolloutOptions o = options_.rollout;
  o.key = fold_in(fold_in(key(options_.seed), rollout_stream), static_cast<uint32_t>(rollout));
  RolloutFigures figures;
  const std::vector<Rollout> drawn = in_phase("rollout", [&] { return roller_(prompts, o, &figures); });

  now_ = {};
  now_.index = rollout;
  std::vector<Completion> completions;
  for (const Rollout& r : drawn) {
    now_.tokens.insert(now_.tokens.end(), r.tokens.begin(), r.tokens.end());
    now_.log_probs.insert(now_.log_probs.end(), r.log_probs.begin(), r.log_probs.end());
    now_.entropy.insert(now_.entropy.end(), r.entropy.begin(), r.entropy.end());
    now_.lengths.push_back(static_cast<int32_t>(r.tokens.size()));
    now_.ended.push_back(r.stop == Stop::stop_token);
    completions.push_back({&train_[static_cast<size_t>(asked[static_cast<size_t>(r.prompt)])], r.member, tokenizer_.decode(prompt_text_ids(r)),
                           static_cast<int64_t>(r.tokens.size()), r.stop, {}, 0});
  }
  in_phase("judge", [&] { judge(step, completions); });
  const double judged = seconds_since(begin) - figures.seconds;
  extra.insert({{"sampled", static_cast<double>(figures.sampled)},
                {"sampled_per_s", static_cast<double>(figures.sampled) / std::max(1e-9, figures.seconds)},
                {"busy", figures.busy},
                {"judge_seconds", judged}});
  if (!on_completions) return;
  const Figures f = figures_of(now_);
  for (size_t i = 0; i < completions.size(); ++i) completions[i].advantage = f.advantages.of[i];
  on_completions(step, completions);
}

void Grpo::judge(int64_t step, std::vector<Completion>& completions) {
  std::vector<Judged> list;
  for (const Completion& c : completions) list.push_back({c.question, c.text});
  std::vector<Reward> rewards = rewards_.judge(list);
  int64_t failed = 0;
  std::string first;
  for (size_t i = 0; i < completions.size(); ++i) {
    Reward& r = completions[i].reward = std::move(rewards[i]);
    const bool good = r.error.empty();
    if (!good && failed++ == 0) first = r.error;
    now_.rewards.push_back(good ? r.total : std::nan(""));
    for (size_t v = 0; v < rewards_.size(); ++v) now_.rewards.push_back(good ? r.each[v] : std::nan(""));
  }
  if (failed == 0) return;
  failures_ += failed;
  if (say)
    say(fmt::format("warning: step {}: {}; {} excluded ({} of {} allowed)", step, first, failed == 1 ? "row" : fmt::format("{} rows", failed), failures_,
                    options_.most_failures));
}

Grpo::Figures Grpo::figures_of(const Sampled& s) const {
  Figures f;
  const size_t width = 1 + rewards_.size(), n = s.lengths.size();
  std::vector<double> totals(n);
  f.each.assign(rewards_.size(), 0);
  int64_t at = 0;
  for (size_t i = 0; i < n; ++i) {
    totals[i] = s.rewards[i * width];
    f.first.push_back(at);
    at += s.lengths[i];
    f.truncated += !s.ended[i];
    if (std::isnan(totals[i])) continue;
    f.passed += passed(s.rewards[i * width + 1]);
    for (size_t v = 0; v < f.each.size(); ++v) f.each[v] += s.rewards[i * width + 1 + v];
    if (s.ended[i] || !options_.mask_truncated) f.learnable += s.lengths[i];
  }
  f.advantages = advantages(totals, options_.rollout.group, options_.scale);
  f.flat = std::accumulate(f.advantages.flat.begin(), f.advantages.flat.end(), int64_t{0});
  for (double& e : f.each) e = mean(e, f.advantages.counted);
  f.length = mean(static_cast<double>(at), static_cast<int64_t>(n));
  f.entropy = mean(std::accumulate(s.entropy.begin(), s.entropy.end(), 0.0), at);
  return f;
}

// ---- learning

// The completions that can teach something: judged, in a group whose rewards differ, not masked.
std::vector<PolicySequence> Grpo::sequences(const Figures& f) const {
  const std::vector<int64_t> asked = questions_of(now_.index);
  std::vector<PolicySequence> list;
  for (size_t i = 0; i < now_.lengths.size(); ++i) {
    const auto group = static_cast<int64_t>(i) / options_.rollout.group;
    const double advantage = f.advantages.of[i];
    if (f.advantages.flat[static_cast<size_t>(group)] || std::isnan(now_.rewards[i * (1 + rewards_.size())])) continue;
    if (!now_.ended[i] && options_.mask_truncated) continue;
    if (advantage == 0 && options_.policy.kl == 0) continue;
    const Question& q = train_[static_cast<size_t>(asked[static_cast<size_t>(group)])];
    list.push_back({q.ids, std::span(now_.tokens).subspan(static_cast<size_t>(f.first[i]), static_cast<size_t>(now_.lengths[i])), f.first[i], group,
                    static_cast<int64_t>(i)});
  }
  return list;
}

namespace {

void policy_kernel(const std::array<double, 6>& n, const RowBlock& b, const Out& stats, const Out& tokens) {
  policy_rows(stats, tokens, {.cispo = n[0] != 0, .clip_low = n[1], .clip_high = n[2], .delta = n[3], .kl = n[4]}, b.scale);
}

/// The completion tokens of a batch at the head. Its kernels run where the model is; the host sees what came of it when the head is done.
struct HeadPass {
  TrainingPass pass;
  HeadTask task;
  const PolicyBatch& batch;

  HeadPass(LanguageModel& model, const PolicyBatch& b, double temperature)
      : pass(model, b.tokens),
        task{LinearHead("grpo", pass.h, model.head().value(), b.labels, {.cap = model.final_cap(), .temperature = temperature, .exact = true}), {}, {}},
        batch(b) {
    task.rows = task.head.rows([](int64_t) { return true; });
  }
  size_t token(int64_t row) const { return static_cast<size_t>(batch.which[static_cast<size_t>(row)]); }

  /// Calls f(number of the token, its log-probability) for every token in order.
  template <class F>
  void values(F f) const {
    const Tensor log_probs = pass.values(log_prob_task(task.head, DType::f64));
    for (size_t i = 0; i < task.rows.size(); ++i) f(token(task.rows[i]), log_probs.data<double>()[i]);
  }
  /// The gradients, unless under NoGrad, of what `known(number)` says of every token; then f(PolicyResult) for every token in order.
  template <class Known, class F>
  void backward(const PolicyForm& form, Known known, F f) {
    const int64_t n = std::ssize(task.rows), all = task.head.count(n);
    const Tensor asked = Tensor::empty({all, 6}, DType::f64);
    auto* to = reinterpret_cast<PolicyToken*>(asked.out().as<double>());
    for (const int64_t row : task.rows) *to++ = known(token(row));
    for (int64_t i = n; i < all; ++i, ++to) *to = to[-1], to->weight = 0;  // of rows that fill up
    task.loss = {policy_kernel, {form.cispo ? 1.0 : 0.0, form.clip_low, form.clip_high, form.delta, form.kl}, asked};
    const Tensor answers = pass.run(task);
    const auto* r = reinterpret_cast<const PolicyResult*>(answers.data<double>().data());
    for (int64_t i = 0; i < n; ++i) f(r[i]);
  }
};

}  // namespace

void Grpo::reference_log_probs(std::span<const PolicySequence> list) {
  const Phase phase("reference");
  now_.reference.assign(now_.tokens.size(), 0);
  reference_([&](LanguageModel& model) {
    const NoGrad off;
    for (const PolicyBatch& b : policy_batches(list, options_.layout))
      HeadPass(model, b, options_.rollout.sampling.temperature).values([&](size_t token, double log_prob) { now_.reference[token] = log_prob; });
  });
}

Grpo::Learned Grpo::learn(std::span<const PolicySequence> list, const Figures& f) {
  const PolicyOptions& policy = options_.policy;
  Learned sum;
  struct Share {
    double advantage, weight, log_ratio;  // log_ratio: of a whole sequence
  };
  std::vector<Share> shares(now_.lengths.size());
  std::vector<int32_t> owner(now_.tokens.size());
  for (const PolicySequence& s : list) {
    const auto n = static_cast<int64_t>(s.completion.size());
    shares[static_cast<size_t>(s.number)] = {f.advantages.of[static_cast<size_t>(s.number)],
                                             token_weight(policy.loss, n, f.advantages.counted, f.learnable, options_.rollout.max_new), 0};
    std::fill_n(owner.begin() + s.first, n, static_cast<int32_t>(s.number));
  }
  for (const PolicyBatch& b : policy_batches(list, options_.layout)) {
    std::optional<Phase> phase(std::in_place, "forward");
    HeadPass pass(model_, b, options_.rollout.sampling.temperature);
    if (policy.sequence_ratio)
      pass.values([&](size_t t, double log_prob) {
        const auto i = static_cast<size_t>(owner[t]);
        shares[i].log_ratio += (log_prob - static_cast<double>(now_.log_probs[t])) / now_.lengths[i];
      });
    const auto known = [&](size_t t) {
      const Share& s = shares[static_cast<size_t>(owner[t])];
      return PolicyToken{s.advantage, s.weight, static_cast<double>(now_.log_probs[t]), policy.sequence_ratio ? s.log_ratio : std::nan(""),
                         now_.reference.empty() ? 0 : now_.reference[t]};
    };
    phase.emplace("backward");
    pass.backward(form_of(policy), known, [&](const PolicyResult& r) {
      sum.loss += r.loss;
      sum.ratio += r.ratio;
      sum.kl += r.kl;
      sum.kl_rollout += std::expm1(-r.own) + r.own;
      sum.gap = std::max(sum.gap, std::abs(std::expm1(r.own)));
      sum.low += r.low > 0;
      sum.high += r.high > 0;
      ++sum.tokens;
    });
    sum.computed += b.computed;
    sum.flops += step_flops(model_, b.tokens.positions, static_cast<double>(std::ssize(pass.task.rows)));
  }
  return sum;
}

StepReport Grpo::accumulate(int64_t step) {
  StepReport r;
  const auto begin = Clock::now();
  const int64_t rollout = step / options_.updates;
  const bool fresh = now_.index != rollout;
  if (fresh) {
    const gpu::MaySync wait;  // for the tokens that are drawn
    sample(rollout, step + 1, r.extra);
  }
  const double sampling = fresh ? seconds_since(begin) : 0;
  sampling_seconds_ += sampling;
  const Figures f = figures_of(now_);
  const std::vector<PolicySequence> list = sequences(f);
  if (options_.policy.kl > 0 && now_.reference.empty()) reference_log_probs(list);
  const Learned l = learn(list, f);
  const double all = seconds_since(begin);
  done_ = step + 1;

  const auto completions = static_cast<int64_t>(now_.lengths.size()), groups = static_cast<int64_t>(f.advantages.flat.size());
  const double pass = share(f.passed, f.advantages.counted), truncated = share(f.truncated, completions);
  const double low = share(l.low, l.tokens), high = share(l.high, l.tokens), kl = mean(l.kl, l.tokens), kl_rollout = mean(l.kl_rollout, l.tokens);
  r.loss = l.loss;
  r.tokens = l.computed;
  r.supervised = l.tokens;
  r.flops = l.flops + (fresh ? sampling_flops() : 0);
  r.extra.insert({{"reward", f.advantages.mean}, {"reward_std", f.advantages.std}, {"pass", pass}, {"zero_std", share(f.flat, groups)},
                  {"length", f.length}, {"truncated", truncated}, {"entropy", f.entropy}, {"excluded", static_cast<double>(completions - f.advantages.counted)},
                  {"clip_low", low}, {"clip_high", high}, {"ratio", l.tokens > 0 ? mean(l.ratio, l.tokens) : 1}, {"kl_rollout", kl_rollout},
                  {"learned_per_s", static_cast<double>(l.computed) / std::max(1e-9, all - sampling)}, {"sampling_share", sampling / std::max(1e-9, all)}});
  for (size_t v = 0; v < f.each.size(); ++v) r.extra["reward." + rewards_.name(v)] = f.each[v];
  if (options_.policy.kl > 0) r.extra["kl"] = kl;
  if (fresh && l.tokens > 0) r.extra["gap"] = l.gap;
  r.line = fmt::format("reward {:.3f} pass {:.3f} zero-std {:.2f} len {:.1f} clip {:.3f}/{:.3f} entropy {:.3f} kl {} gap {} surrogate {:.4f}",
                       f.advantages.mean, pass, share(f.flat, groups), f.length, low, high, f.entropy,
                       options_.policy.kl > 0 ? fmt::format("{:.2g}", kl) : "-", r.extra.count("gap") ? fmt::format("{:.1g}", l.gap) : "-", l.loss);

  if (truncated > truncated_too_often && !said_truncated_ && say)
    say(fmt::format("warning: step {}: {:.0f}% of the completions were cut off at {} tokens; raise --max-new, or reward an end", step + 1, 100 * truncated,
                    options_.rollout.max_new));
  said_truncated_ = truncated > truncated_too_often;
  if (fresh) flat_ = f.flat == groups ? flat_ + 1 : 0;
  if (fresh && flat_ == flat_for && say)
    say(fmt::format("warning: step {}: for {} rollouts all answers to a question were worth the same (mean reward {:.3g}): nothing is learned; {}", step + 1,
                    flat_, f.advantages.mean,
                    pass > solved ? "the questions are solved, ask harder ones"
                                  : "raise --group or --temp, ask easier questions, or show how it is done first (facet sft)"));
  const double per_completion = mean(std::max(l.kl, l.kl_rollout), static_cast<int64_t>(list.size()));
  r.stop = guard_.check(f.advantages.mean, f.entropy, per_completion, fresh ? std::optional(share(f.flat, groups)) : std::nullopt);
  if (failures_ > options_.most_failures)
    r.stop = fmt::format("{} rows had no reward, {} are allowed; the warnings above say why (--max-failures)", failures_, options_.most_failures);
  return r;
}

double Grpo::repeat(int64_t) {
  const Figures f = figures_of(now_);
  return learn(sequences(f), f).loss;
}

std::string Grpo::samples(int64_t step) const {
  std::vector<std::string> where;
  for (const int64_t q : questions_of(step / options_.updates)) where.push_back(train_[static_cast<size_t>(q)].where);
  return fmt::format("{}", fmt::join(where, ", "));
}

// The prompts once, then token by token.
double Grpo::sampling_flops() const {
  double tokens = 0, seen = 0, drawn = 0;
  const auto asked = questions_of(now_.index);
  for (size_t i = 0; i < now_.lengths.size(); ++i) {
    const auto prompt = static_cast<double>(train_[static_cast<size_t>(asked[i / static_cast<size_t>(options_.rollout.group)])].ids.size());
    const auto n = static_cast<double>(now_.lengths[i]);
    if (i % static_cast<size_t>(options_.rollout.group) == 0) tokens += prompt, seen += prompt * prompt / 2;
    tokens += n, seen += n * (prompt + n / 2), drawn += n;
  }
  return tokens > 0 ? model_.forward_flops(tokens, seen / tokens, drawn) : 0;
}

std::map<std::string, double> Grpo::evaluate() {
  if (valid_.empty()) return {};
  RolloutOptions o = options_.rollout;
  o.group = 1;
  o.sampling.temperature = 0;
  if (options_.eval_max_new > 0) o.max_new = options_.eval_max_new;
  std::vector<Ids> prompts;
  for (const Question& q : valid_) prompts.push_back(q.ids);
  const std::vector<Rollout> answers = roller_(prompts, o);
  std::vector<Judged> list;
  double length = 0;
  int64_t ended = 0, counted = 0, right = 0;
  for (size_t i = 0; i < answers.size(); ++i) {
    list.push_back({&valid_[i], tokenizer_.decode(prompt_text_ids(answers[i]))});
    length += static_cast<double>(answers[i].tokens.size());
    ended += answers[i].stop == Stop::stop_token;
  }
  double reward = 0;
  for (const Reward& r : rewards_.judge(list)) {
    if (!r.error.empty()) continue;
    ++counted;
    reward += r.total;
    right += passed(r.each.front());
  }
  const auto n = static_cast<int64_t>(answers.size());
  return {{"pass", share(right, counted)}, {"reward", mean(reward, counted)}, {"length", mean(length, n)}, {"ended", share(ended, n)}};
}

}  // namespace facet

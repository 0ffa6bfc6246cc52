// The objective: what samples is what learns, the gradient does not depend on how a step is computed, and rows that cannot teach do not.
#include "train/grpo.h"

#include <catch2/catch.hpp>

#include "autograd/ops.h"
#include "tensor/io/json.h"
#include "tests/support/compare.h"
#include "tests/train/grpo_small.h"

using namespace facet;
using namespace facet::test;

namespace {

struct Step {
  StepReport report;
  std::vector<Completion> completions;
  std::vector<Tensor> gradients;
};

Step one_step(GrpoTask& task, const GrpoOptions& o, int64_t step = 0, Grpo::WithReference reference = {}) {
  Grpo g = task.objective(o, std::move(reference));
  Step s;
  g.on_completions = [&](int64_t, std::span<const Completion> list) { s.completions.assign(list.begin(), list.end()); };
  s.report = g.accumulate(step);
  s.gradients = gradients(*task.model);
  for (Parameter* p : parameters(*task.model)) p->clear_grad();
  return s;
}

void move_weights(LanguageModel& model, double by) {
  for (Parameter* p : parameters(model)) {
    const Tensor v = p->value().detach();
    if (v.rank() < 2) continue;
    for (float& x : std::span(v.out().as<float>(), static_cast<size_t>(v.numel()))) x *= static_cast<float>(1 + by);
  }
}

}  // namespace

TEST_CASE("grpo: what samples is what learns: no ratio leaves 1 before the first update") {
  for (const double temperature : {1.0, 0.6, 1.4})
    for (const int64_t row_len : {0, 100}) {
      GrpoTask task;
      GrpoOptions o = task.options();
      o.rollout.sampling.temperature = temperature;
      o.layout.row_len = row_len;
      const Step s = one_step(task, o);
      INFO("temperature " << temperature << ", rows of " << row_len);
      CHECK(s.report.extra.at("gap") == 0);
      CHECK(s.report.extra.at("ratio") == 1);
      CHECK(s.report.supervised > 0);
      CHECK(s.report.line.find("gap") != std::string::npos);
    }
}

TEST_CASE("grpo: prompts computed once for their group leave the ratio at 1") {
  for (const int64_t row_len : {0, 100}) {
    GrpoTask task;
    GrpoOptions o = task.options();
    const int64_t apart = one_step(task, o).report.tokens;
    o.layout.share_prompts = true;
    o.layout.row_len = row_len;
    const Step s = one_step(task, o);
    INFO("rows of " << row_len);
    CHECK(s.report.extra.at("gap") == 0);
    CHECK(s.report.extra.at("ratio") == 1);
    CHECK(s.report.tokens < apart);
  }
}

TEST_CASE("grpo: weights that moved between sampling and learning show in the gap") {
  GrpoTask task;
  Grpo g = task.objective(task.options());
  g.on_completions = [&](int64_t, std::span<const Completion>) { move_weights(*task.model, 1e-3); };
  CHECK(g.accumulate(0).extra.at("gap") > 1e-4);
}

namespace {

// The rollout of an objective that has updates to serve, out of its checkpoint.
struct Drawn {
  std::vector<Ids> completions;
  std::vector<std::vector<float>> log_probs;
  std::vector<double> totals;
  explicit Drawn(const Grpo& g) {
    Snapshot s;
    g.save(s);
    std::map<std::string, Tensor> f(s.files.at("objective").begin(), s.files.at("objective").end());
    int64_t at = 0;
    for (const int32_t n : f.at("lengths").data<int32_t>()) {
      const auto tokens = f.at("tokens").data<int32_t>().subspan(static_cast<size_t>(at), static_cast<size_t>(n));
      const auto old = f.at("log_probs").data<float>().subspan(static_cast<size_t>(at), static_cast<size_t>(n));
      completions.emplace_back(tokens.begin(), tokens.end());
      log_probs.emplace_back(old.begin(), old.end());
      totals.push_back(f.at("rewards").at({2 * static_cast<int64_t>(totals.size())}));
      at += n;
    }
  }
};

// The loss of one update in plain operations on one sequence at a time, and its gradients in the model.
double composite(GrpoTask& task, const GrpoOptions& o, const Grpo& g, const Drawn& drawn, Gemma* reference) {
  const Advantages a = advantages(drawn.totals, o.rollout.group, o.scale);
  int64_t tokens = 0;
  for (const Ids& c : drawn.completions) tokens += static_cast<int64_t>(c.size());
  const std::vector<int64_t> asked = g.questions_of(0);
  Tensor total = Tensor::scalar(0);
  for (size_t i = 0; i < drawn.completions.size(); ++i) {
    if (a.flat[i / static_cast<size_t>(o.rollout.group)]) continue;
    const Ids& completion = drawn.completions[i];
    Ids ids = task.train[static_cast<size_t>(asked[i / static_cast<size_t>(o.rollout.group)])].ids;
    const auto prompt = static_cast<int64_t>(ids.size()), own = static_cast<int64_t>(completion.size()), n = prompt + own - 1;
    ids.insert(ids.end(), completion.begin(), completion.end());
    const Tensor input = Tensor::from(Ids(ids.begin(), ids.end() - 1), {1, n}), labels = Tensor::from(completion, {1, own});
    const auto log_probs = [&](Gemma& m) {
      return linear_log_probs(slice(m.hidden(plain_tokens(input)), 1, prompt - 1, n), m.head().value(), labels, 0, o.rollout.sampling.temperature);
    };
    const Tensor lp = log_probs(*task.model), ratio = exp(lp - Tensor::from(drawn.log_probs[i], {1, own}));
    const Tensor low = Tensor::scalar(1 - o.policy.clip_low), high = Tensor::scalar(1 + o.policy.clip_high);
    Tensor loss = neg(minimum(ratio * a.of[i], minimum(maximum(ratio, low), high) * a.of[i]));
    if (o.policy.loss == PolicyLoss::cispo) loss = minimum(ratio, Tensor::scalar(o.policy.clip_high)).detach().clone() * lp * -a.of[i];
    if (reference) {
      Tensor of_reference;
      {
        const NoGrad off;
        of_reference = log_probs(*reference);
      }
      const Tensor d = of_reference - lp;
      loss = loss + (exp(d) - d + -1.0) * o.policy.kl;
    }
    total = total + sum(loss) * token_weight(o.policy.loss, own, a.counted, tokens, o.rollout.max_new);
  }
  backward(total);
  return total.item();
}

void clear(Module& m) {
  for (Parameter* p : parameters(m)) p->clear_grad();
}

}  // namespace

TEST_CASE("grpo: the gradient is that of the formula, written with plain operations") {
  for (const PolicyLoss loss : {PolicyLoss::grpo, PolicyLoss::dapo, PolicyLoss::dr_grpo, PolicyLoss::cispo})
    for (const double kl : {0.0, 0.2}) {
      INFO("loss " << static_cast<int>(loss) << ", kl " << kl);
      GrpoTask task, other;
      move_weights(*other.model, 0.05);
      GrpoOptions o = task.options();
      o.rollout.sampling.temperature = 1.3;
      o.updates = 2;
      o.policy.loss = loss;
      o.policy.kl = kl;
      o.policy.clip_low = 0.02;
      o.policy.clip_high = loss == PolicyLoss::cispo ? 1.02 : 0.03;
      Grpo g = task.objective(o, [&](const auto& f) { f(*other.model); });
      g.accumulate(0);
      clear(*task.model);
      const Drawn drawn(g);
      move_weights(*task.model, 0.02);  // some ratios leave the clip's range
      const StepReport r = g.accumulate(1);
      const std::vector<Tensor> actual = gradients(*task.model);
      clear(*task.model);
      CHECK(r.extra.at("clip_high") + r.extra.at("clip_low") > 0);
      CHECK(r.extra.count("gap") == 0);  // of a rollout's first update only
      CHECK(r.loss == Approx(composite(task, o, g, drawn, kl > 0 ? other.model.get() : nullptr)).epsilon(1e-4).margin(1e-6));
      CHECK(largest_difference(gradients(*task.model), actual) <= 2e-4);
    }
}

TEST_CASE("grpo: one ratio a sequence, its gradient checked by differences") {
  GrpoTask task;
  GrpoOptions o = task.options();
  o.updates = 3;
  o.policy.sequence_ratio = true;
  o.policy.clip_low = o.policy.clip_high = 10;  // smooth
  Grpo g = task.objective(o);
  g.accumulate(0);
  clear(*task.model);
  move_weights(*task.model, 0.02);
  g.accumulate(1);
  double slope = 0;  // along the weights' own direction
  for (Parameter* p : parameters(*task.model)) {
    if (p->value().rank() < 2) continue;
    const auto v = p->value().to_vector(), d = p->grad().to_vector();
    for (size_t i = 0; i < v.size(); ++i) slope += v[i] * d[i];
  }
  clear(*task.model);
  const auto loss_at = [&](double by) {
    move_weights(*task.model, by);
    const double loss = g.accumulate(1).loss;
    clear(*task.model);
    move_weights(*task.model, 1 / (1 + by) - 1);
    return loss;
  };
  const double e = 2e-3;
  CHECK(slope == Approx((loss_at(e) - loss_at(-e)) / (2 * e)).epsilon(0.02));
}

TEST_CASE("grpo: micro-batches, packing and shared prompts add up to the step") {
  GrpoTask task;
  GrpoOptions o = task.options();
  o.policy.loss = PolicyLoss::grpo;
  const Step whole = one_step(task, o);
  CHECK(whole.report.loss == Approx(one_step(task, o).report.loss));
  for (const bool share : {false, true})
    for (const int64_t accum : {1, 2, 5, 100})
      for (const int64_t row_len : {0, 30, 60}) {
        INFO(accum << " micro-batches, rows of " << row_len << ", shared prompts " << share);
        o.layout.share_prompts = share;
        o.layout.accum = accum;
        o.layout.row_len = row_len;
        const Step cut = one_step(task, o);
        CHECK(cut.report.loss == Approx(whole.report.loss).epsilon(1e-5).margin(1e-7));
        CHECK(largest_difference(whole.gradients, cut.gradients) <= 1e-4);
        CHECK(cut.report.supervised == whole.report.supervised);
      }
}

TEST_CASE("grpo: flat groups are counted and cost nothing") {
  GrpoTask task;
  int rows = 0;
  struct Constant final : Verifier {
    std::string title = "constant";
    const std::string& name() const override { return title; }
    std::vector<Verdict> judge(std::span<const Judged> l) override { return std::vector<Verdict>(l.size(), Verdict{1, "correct", ""}); }
  };
  Rewards same;
  same.add(std::make_unique<Constant>());
  Grpo g(*task.model, task.tokenizer, task.train, task.valid, same, task.options());
  g.on_completions = [&](int64_t, std::span<const Completion> list) {
    for (const Completion& c : list) CHECK(c.advantage == 0);
    rows = static_cast<int>(list.size());
  };
  const StepReport r = g.accumulate(0);
  CHECK(rows == 12);
  CHECK(r.extra.at("zero_std") == 1);
  CHECK(r.extra.at("pass") == 1);
  CHECK(r.tokens == 0);
  CHECK(r.loss == 0);
  for (Parameter* p : parameters(*task.model)) CHECK(!p->grad());
}

TEST_CASE("grpo: completions that were cut off teach nothing when they are masked") {
  GrpoTask task;
  GrpoOptions o = task.options();
  const Step all = one_step(task, o);
  int64_t of_whole = 0, of_ended = 0;
  for (const Completion& c : all.completions)
    if (c.advantage != 0) (c.stop == Stop::stop_token ? of_ended : of_whole) += c.tokens;
  REQUIRE(of_ended > 0);
  REQUIRE(of_whole > 0);
  CHECK(all.report.supervised == of_ended + of_whole);
  o.mask_truncated = true;
  const Step masked = one_step(task, o);
  CHECK(masked.report.supervised == of_ended);
  CHECK(masked.report.extra.at("truncated") == all.report.extra.at("truncated"));
  CHECK(masked.report.extra.at("reward") == all.report.extra.at("reward"));
  CHECK(largest_difference(all.gradients, masked.gradients) > 0.01);
}

TEST_CASE("grpo: a verifier that fails excludes its rows, says so, and too many end the run") {
  GrpoTask task;
  task.verifier->wrong = [](size_t row) { return row == 3 || row == 4 ? "it broke" : ""; };
  GrpoOptions o = task.options();
  o.most_failures = 3;
  std::vector<std::string> said;
  Grpo g = task.objective(o);
  g.say = [&](const std::string& s) { said.push_back(s); };
  std::vector<Completion> list;
  g.on_completions = [&](int64_t, std::span<const Completion> l) { list.assign(l.begin(), l.end()); };
  const StepReport first = g.accumulate(0);
  CHECK(first.stop.empty());
  CHECK(first.extra.at("excluded") == 2);
  REQUIRE(said.size() == 1);
  CHECK(said[0].find("step 1") != std::string::npos);
  CHECK(said[0].find("it broke") != std::string::npos);
  CHECK(said[0].find("2 rows excluded (2 of 3 allowed)") != std::string::npos);
  CHECK(list[3].advantage == 0);
  CHECK(!list[3].reward.error.empty());
  const Json line = Json::parse(completions_jsonl(std::span(list).subspan(3, 1), task.rewards));
  CHECK(line.at("total").is_null());
  CHECK(line.at("error").get<std::string>().find("it broke") != std::string::npos);
  const StepReport second = g.accumulate(1);
  CHECK(second.stop.find("4 rows had no reward, 3 are allowed") != std::string::npos);
}

TEST_CASE("grpo: what is sampled can be read") {
  GrpoTask task;
  const Step s = one_step(task, task.options());
  REQUIRE(s.completions.size() == 12);
  const std::string text = completions_jsonl(s.completions, task.rewards);
  CHECK(std::count(text.begin(), text.end(), '\n') == 12);
  const Json j = Json::parse(text.substr(0, text.find('\n')));
  CHECK(j.at("prompt") == s.completions[0].question->prompt);
  CHECK(j.at("text") == s.completions[0].text);
  CHECK(j.at("rewards").at("first letters") == j.at("total"));
  CHECK(j.at("stop") == name_of(s.completions[0].stop));
  CHECK(j.at("advantage") == s.completions[0].advantage);
  std::vector<Completion> odd(1, s.completions[0]);
  odd[0].text = "\xff\xfe";
  CHECK_NOTHROW(Json::parse(completions_jsonl(odd, task.rewards)));
}

TEST_CASE("grpo: every epoch asks every question, in another order") {
  GrpoTask task;
  const Grpo g = task.objective(task.options());  // 5 questions, 3 a rollout
  std::vector<int64_t> asked;
  for (int64_t r = 0; r < 10; ++r)
    for (const int64_t q : g.questions_of(r)) asked.push_back(q);
  std::vector<std::vector<int64_t>> epochs;
  for (size_t e = 0; e < 6; ++e) {
    std::vector<int64_t> one(asked.begin() + static_cast<std::ptrdiff_t>(5 * e), asked.begin() + static_cast<std::ptrdiff_t>(5 * e + 5));
    epochs.push_back(one);
    std::sort(one.begin(), one.end());
    CHECK((one == std::vector<int64_t>{0, 1, 2, 3, 4}));
  }
  CHECK(epochs[0] != epochs[1]);
  CHECK(task.objective(task.options()).questions_of(7) == g.questions_of(7));
}

TEST_CASE("grpo: settings that would teach something else are refused") {
  GrpoTask task;
  const auto refused = [&](const std::function<void(GrpoOptions&)>& change, const std::string& word) {
    GrpoOptions o = task.options();
    change(o);
    CHECK_THROWS_WITH(task.objective(o), Catch::Contains(word));
  };
  refused([](GrpoOptions& o) { o.rollout.sampling.temperature = 0; }, "temperature 0");
  refused([](GrpoOptions& o) { o.rollout.sampling.top_p = 0.9; }, "top-p");
  refused([](GrpoOptions& o) { o.rollout.sampling.top_k = 5; }, "top-k");
  refused([](GrpoOptions& o) { o.rollout.group = 1; }, "nothing to compare");
  refused([](GrpoOptions& o) { o.policy.kl = 0.1; }, "reference");
  task.train[1].ids.assign(64, 5);
  refused([](GrpoOptions&) {}, "no room for an answer");
}

TEST_CASE("grpo: a reward is learned") {
  GrpoTask task;
  GrpoOptions o = task.options();
  o.rollout.group = 8;
  o.prompts = 5;
  Grpo g = task.objective(o);
  AdamW optimizer({{.parameters = parameters(*task.model)}});
  const double before = g.evaluate().at("reward");
  double first = 0, last = 0;
  for (int64_t step = 0; step < 40; ++step) {
    const StepReport r = g.accumulate(step);
    optimizer.step(3e-3);
    (step < 5 ? first : last) += step < 5 || step >= 35 ? r.extra.at("reward") / 5 : 0;
  }
  CHECK(first < 0.4);
  CHECK(last > 0.8);
  CHECK(g.evaluate().at("reward") > before + 0.5);
}

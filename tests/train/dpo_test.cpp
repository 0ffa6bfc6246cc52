// The objective of preference data: its gradient against a composite on the tape, and its independence of how a step is computed.
#include "train/dpo.h"

#include <catch2/catch.hpp>

#include "autograd/ops.h"
#include "optim/adamw.h"
#include "tests/support/compare.h"
#include "tests/train/small.h"

using namespace facet;
using namespace facet::test;

namespace {

const double ln2 = std::log(2.0);

// A reference that is not the policy: other weights.
struct Pair {
  std::unique_ptr<Gemma> policy, other;
  explicit Pair(DType dtype) : policy(small_model(dtype)), other(small_model(dtype, 8)) {}
  Reference reference(const Dataset& data) const {
    return [this, &data](const Batch& b) { return completion_log_probs(*other, data, b); };
  }
};

struct Step {
  DpoStep step;
  std::vector<Tensor> gradients;
};

Step step_of(DType dtype, const Dataset& data, std::span<const Batch> micro, const DpoLossOptions& o, Recompute recompute = Recompute::none) {
  const Pair models(dtype);
  models.policy->recompute = recompute;
  Step r;
  r.step = accumulate_dpo(*models.policy, data, micro, models.reference(data), o);
  r.gradients = gradients(*models.policy);
  return r;
}

void check_same(const Step& a, const Step& b, double tolerance) {
  CHECK(b.step.figures.loss == Approx(a.step.figures.loss).epsilon(tolerance));
  CHECK(b.step.figures.margin() == Approx(a.step.figures.margin()).epsilon(tolerance).margin(tolerance));
  CHECK(b.step.figures.accuracy == a.step.figures.accuracy);
  CHECK(b.step.figures.chosen_log_prob == Approx(a.step.figures.chosen_log_prob).epsilon(tolerance));
  CHECK(b.step.figures.rejected_log_prob == Approx(a.step.figures.rejected_log_prob).epsilon(tolerance));
  CHECK(b.step.figures.pairs == a.step.figures.pairs);
  CHECK(b.step.supervised == a.step.supervised);
  CHECK(largest_difference(a.gradients, b.gradients) <= tolerance);
}

// The sum of the log-probabilities of an example's learned tokens, from whole logits.
Tensor composite_log_prob(Gemma& model, const Dataset::View& v) {
  const auto n = static_cast<int64_t>(v.ids.size());
  const Tensor ids = Tensor::from(std::vector<int32_t>(v.ids.begin(), v.ids.end() - 1), {1, n - 1});
  const Tensor log_probs = log_softmax(model.logits(model.hidden(plain_tokens(ids))));  // [1, n-1, V]
  std::vector<Tensor> terms;
  for (int64_t t = 1; t < n; ++t)
    if (const auto at = static_cast<size_t>(t); v.mask[at]) terms.push_back(sum(slice(slice(log_probs, 1, t - 1, t), 2, v.ids[at], v.ids[at] + 1)));
  Tensor total = terms[0];
  for (size_t i = 1; i < terms.size(); ++i) total = total + terms[i];
  return total;
}

}  // namespace

TEST_CASE("dpo: value and gradient are those of the formula written on the tape") {
  const Dataset data = small_pairs(5);
  const std::vector<Batch> batches = batches_in_order(data, 5);
  const Pair models(DType::f64);
  const double beta = 0.3, e = 0.1;
  Tensor loss;
  for (int64_t i = 0; i < data.size(); i += 2) {
    const auto ratio = [&](int64_t example) {
      const NoGrad off;
      const double fixed = composite_log_prob(*models.other, data[example]).item();
      const WithGrad on;
      return composite_log_prob(*models.policy, data[example]) - fixed;
    };
    const Tensor x = (ratio(i) - ratio(i + 1)) * beta;
    const Tensor pair = log_sigmoid(x) * -(1 - e) + log_sigmoid(-x) * -e;
    loss = loss ? loss + pair : pair;
  }
  loss = loss * (1.0 / 5);
  backward(loss);
  const Step r = step_of(DType::f64, data, batches, {.beta = beta, .label_smoothing = e});
  CHECK(r.step.figures.loss == Approx(loss.item()).epsilon(1e-12));
  CHECK(r.step.figures.loss != Approx(ln2).epsilon(1e-3));
  CHECK(largest_difference(gradients(*models.policy), r.gradients) <= 1e-10);
}

TEST_CASE("dpo: ln 2 and no margin while the policy is the reference, in batches of any order") {
  const Dataset data = small_pairs();
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16}) {
    const auto model = small_model(dtype);
    for (const auto& [pack, share] : {std::pair{false, false}, {true, false}, {false, true}, {true, true}}) {
      INFO(name_of(dtype) << ", packed " << pack << ", shared " << share);
      LogProbs all;
      reference_pass(*model, data, 5, share, 0, all, {});
      const Loader loader(data, {.batch = pack ? 2 : 4, .accum = 2, .pack = pack, .row_len = pack ? 48 : 0, .share = share});
      Dpo dpo(*model, loader, [&](const Batch& b) {
        LogProbs r;
        for (const int64_t i : b.examples) r.push_back(all[static_cast<size_t>(i)]);
        return r;
      }, {}, {});
      const StepReport r = dpo.accumulate(0);
      CHECK(r.loss == Approx(ln2).margin(1e-6));
      CHECK(r.extra.at("rewards/margins") == Approx(0).margin(2e-6));
      CHECK_THAT(r.line, Catch::Contains("loss 0.6931 margin"));
    }
  }
}

TEST_CASE("dpo: 8 = 2 x 4 = 8 x 1 pairs of unequal length") {
  const Dataset data = small_pairs();
  for (const auto& [dtype, tolerance] : {std::pair{DType::f64, 1e-11}, std::pair{DType::f32, 1e-5}}) {
    const Step whole = step_of(dtype, data, Loader(data, {.batch = 8}).at(1), {});
    for (const int64_t accum : {2, 8}) {
      INFO(name_of(dtype) << ", " << accum << " micro-batches");
      check_same(whole, step_of(dtype, data, Loader(data, {.batch = 8, .accum = accum}).at(1), {}), tolerance);
    }
  }
}

TEST_CASE("dpo: packed pairs are pairs in rows of their own") {
  const Dataset data = small_pairs(7);
  const std::vector<Batch> apart = batches_in_order(data, 7);
  const Batch packed = make_batch(data, std::vector<std::vector<int64_t>>{{0, 1, 2, 3, 4, 5}, {6, 7}, {8, 9, 10, 11, 12, 13}});
  for (const DpoLossOptions& o : {DpoLossOptions{}, DpoLossOptions{.form = PreferenceLoss::ipo}})
    check_same(step_of(DType::f64, data, apart, o), step_of(DType::f64, data, {&packed, 1}, o), 1e-11);
}

TEST_CASE("dpo: a prompt computed once for both completions is a prompt computed twice") {
  const Dataset data = small_pairs(7);
  for (const auto& [dtype, tolerance] : {std::pair{DType::f64, 1e-11}, std::pair{DType::f32, 2e-5}}) {
    INFO(name_of(dtype));
    const Step twice = step_of(dtype, data, batches_in_order(data, 7), {});
    const std::vector<Batch> once = batches_in_order(data, 3, 0, 1, true);
    CHECK(once[0].tokens < Loader(data, {.batch = 3, .shuffle = false}).at(0)[0].tokens);
    check_same(twice, step_of(dtype, data, once, {}), tolerance);
    const Batch packed = make_batch(data, std::vector<std::vector<int64_t>>{{0, 1, 2, 3, 4, 5}, {6, 7}, {8, 9, 10, 11, 12, 13}}, 0, 4, true);
    check_same(twice, step_of(dtype, data, {&packed, 1}, {}), tolerance);
    const Step again = step_of(dtype, data, once, {}, Recompute::block);
    check_same(twice, again, tolerance);
  }
}

TEST_CASE("dpo: branches see their trunk, and neither each other nor another pair") {
  // Tokens: 0-9 the first pair's prompt, 10-19 its chosen, 20-29 its rejected completion, 30-39 all of the second pair.
  Dataset data(Task::preference);
  const auto add = [&](std::vector<int32_t> prompt, std::vector<int32_t> answer) {
    Example e;
    for (const int32_t id : prompt) e.add(id, false);
    for (const int32_t id : answer) e.add(id, true);
    data.add(e, data.size() / 2 + 1);
  };
  add({0, 1, 2, 3}, {10, 11, 12});
  add({0, 1, 2, 3}, {20, 21, 22, 23});
  add({30, 31, 32}, {33, 34});
  add({30, 31, 32}, {35, 36, 37});
  const auto model = small_model();
  const Batch b = make_batch(data, std::vector<std::vector<int64_t>>{{0, 1, 2, 3}}, 0, 1, true);
  for (size_t i = 0; i < 4; ++i) {
    INFO("example " << i);
    model->embed_tokens.weight.clear_grad();
    const Tensor part = slice(model->hidden({b.ids, b.positions, b.segments}), 1, b.places[i].begin, b.places[i].end);
    backward(sum(mul(part, part)));
    const Tensor g = model->embed_tokens.weight.grad();  // [V, D]
    double of[4] = {};
    for (int64_t id = 0; id < 40; ++id)
      for (int64_t d = 0; d < g.dim(1); ++d) of[id / 10] += std::abs(g.at({id, d}));
    CHECK((of[0] > 0) == (i < 2));
    CHECK((of[1] > 0) == (i == 0));
    CHECK((of[2] > 0) == (i == 1));
    CHECK((of[3] > 0) == (i >= 2));
  }
}

TEST_CASE("dpo: no gradient reaches the other completion or another pair of the row") {
  // Every example has tokens of its own.
  Dataset data(Task::preference);
  for (int32_t i = 0; i < 4; ++i) {
    Example e;
    for (int32_t t = 0; t < 4 + i; ++t) e.add(10 * i + t, t >= 2);
    data.add(e, i / 2 + 1);
  }
  const auto model = small_model();
  const Batch b = make_batch(data, std::vector<std::vector<int64_t>>{{0, 1, 2, 3}});
  for (size_t i = 0; i < 4; ++i) {
    model->embed_tokens.weight.clear_grad();
    const Tensor part = slice(model->hidden({b.ids, b.positions, b.segments}), 1, b.places[i].begin, b.places[i].end);
    backward(sum(mul(part, part)));
    const Tensor g = model->embed_tokens.weight.grad();  // [V, D]
    double own = 0, foreign = 0;
    for (int64_t id = 0; id < 40; ++id)
      for (int64_t d = 0; d < g.dim(1); ++d) (id / 10 == static_cast<int64_t>(i) ? own : foreign) += std::abs(g.at({id, d}));
    CHECK(own > 0);
    CHECK(foreign == 0);
  }
}

TEST_CASE("dpo: what is computed again is the same to the last bit") {
  const Dataset data = small_pairs();
  const std::vector<Batch> micro = Loader(data, {.batch = 4, .accum = 2}).at(0);
  const Step kept = step_of(DType::f32, data, micro, {});
  const Step again = step_of(DType::f32, data, micro, {}, Recompute::block);
  CHECK(again.step.figures.loss == kept.step.figures.loss);
  for (size_t i = 0; i < kept.gradients.size(); ++i) CHECK(bitwise_equal(kept.gradients[i], again.gradients[i]));
}

TEST_CASE("dpo: a hinge that every pair has passed asks for nothing") {
  const Dataset data = small_pairs(3);
  const auto model = small_model();
  const Reference below = [&](const Batch& b) {
    LogProbs r = completion_log_probs(*model, data, b);
    for (size_t i = 0; i < r.size(); ++i) r[i] += i % 2 == 0 ? -20 : 20;
    return r;
  };
  const std::vector<Batch> batches = batches_in_order(data, 3);
  const DpoStep s = accumulate_dpo(*model, data, batches, below, {.form = PreferenceLoss::hinge});
  CHECK(s.figures.loss == 0);
  CHECK(s.figures.accuracy == 1);
  CHECK(s.figures.margin() == Approx(4).epsilon(1e-6));
  for (const Tensor& g : gradients(*model))
    for (const double x : g.to_vector()) CHECK(x == 0);
}

TEST_CASE("dpo: the margin rises, on held-out pairs too") {
  const Dataset data = small_pairs(24), held_out = small_pairs(40).part(std::vector<int64_t>{60, 61, 62, 63, 64, 65, 70, 71});
  const auto model = small_model(), start = small_model();
  const Loader loader(data, {.batch = 8});
  const auto reference = [&](const Dataset& d) { return [&](const Batch& b) { return completion_log_probs(*start, d, b); }; };
  Dpo dpo(*model, loader, reference(data), {&held_out, batches_in_order(held_out, 4), reference(held_out)}, {});
  AdamW optimizer({{.parameters = parameters(*model)}});
  double first = 0, last = 0;
  CHECK(dpo.evaluate().at("loss") == Approx(ln2).margin(1e-6));
  for (int64_t step = 0; step < 20; ++step) {
    const StepReport r = dpo.accumulate(step);
    if (step == 0) first = r.loss;
    last = r.loss;
    CHECK(r.extra.at("rewards/margins") == Approx(r.extra.at("rewards/chosen") - r.extra.at("rewards/rejected")).margin(1e-12));
    optimizer.step(3e-3);
  }
  CHECK(first == Approx(ln2).margin(1e-6));
  CHECK(last < 0.4);
  const auto f = dpo.evaluate();
  CHECK(f.at("accuracy") == 1);
  CHECK(f.at("margin") > 0.5);
  CHECK(f.at("loss") < 0.5);
}

TEST_CASE("dpo: pairs that teach nothing are named by their line") {
  const auto pair = [](std::vector<uint8_t> mask, int32_t last) {
    Dataset d = small_pairs(1);
    Example chosen{{2, 3, 4, 5}, {0, 0, 1, 1}}, rejected{{2, 3, 4, last}, std::move(mask)};
    d.add(chosen, 7);
    d.add(rejected, 7);
    return d;
  };
  CHECK_NOTHROW(check_pairs(pair({0, 0, 1, 1}, 6)));
  CHECK_THROWS_WITH(check_pairs(pair({0, 0, 1, 1}, 5)), Catch::Contains("pairs.jsonl:7: \"chosen\" and \"rejected\" are identical"));
  CHECK_THROWS_WITH(check_pairs(pair({1, 0, 0, 0}, 6)), Catch::Contains("pairs.jsonl:7: \"rejected\" has no token to learn"));
  CHECK_THROWS_WITH(check_pairs(small_data()), Catch::Contains("preference data"));
}

namespace {

// All hidden rows are (2, 0); the table says which tokens are impossible.
struct Stub final : LanguageModel {
  Parameter table;
  explicit Stub(std::vector<float> rows) : table(Tensor::from(rows, {std::ssize(rows) / 2, 2})) {}
  void visit(Visitor& v) override { v("table", table); }
  Tensor hidden(const Tokens& t, KvCache*) override {
    const Tensor h = Tensor::zeros({t.ids.dim(0), t.ids.dim(1), 2}, DType::f32);
    for (int64_t i = 0; i < t.ids.numel(); ++i) h.out().as<float>()[2 * i] = 2;
    return h;
  }
  const Parameter& head() const override { return table; }
  double final_cap() const override { return 0; }
  int64_t vocab() const override { return table.value().dim(0); }
  int64_t layers() const override { return 1; }
  int64_t context() const override { return 64; }
  KvCache new_cache(int64_t, int64_t, int64_t) const override { return {}; }
  double forward_flops(double, double, double) const override { return 0; }
  double activation_bytes(double, Recompute) const override { return 0; }
};

}  // namespace

TEST_CASE("dpo: a completion without probability is named by its line") {
  Dataset data(Task::preference, "pairs.jsonl");
  for (const int32_t rejected : {1, 2}) {
    data.add({{0, 0}, {0, 1}}, 10 * rejected);
    data.add({{0, rejected}, {0, 1}}, 10 * rejected);
  }
  const std::vector<Batch> batches = batches_in_order(data, 2);
  Stub model({0, 0, 1, 0, -3e38f, 0});  // the logit of token 2 is beyond f32
  const Reference zeros = [](const Batch& b) { return LogProbs(b.examples.size()); };
  const auto expected = Catch::Contains("pairs.jsonl:20: the log-probability of \"rejected\" is -inf");
  CHECK_THROWS_WITH(accumulate_dpo(model, data, batches, zeros, {}), expected);
  LogProbs none;
  CHECK_THROWS_WITH(reference_pass(model, data, 1, false, 0, none, {}), expected);
  Stub broken({0, 0, NAN, 0, 1, 0});
  CHECK_THROWS_WITH(reference_pass(broken, data, 1, false, 0, none = {}, {}), Catch::Contains("NaN for pairs.jsonl:10"));
  CHECK(std::isnan(accumulate_dpo(broken, data, batches, zeros, {}).figures.loss));  // what the loop's guard looks at
}

#include "train/dpo.h"

#include <algorithm>
#include <cmath>

#include "autograd/ops/linear_loss.h"
#include "nn/body_graphs.h"
#include "nn/dropout.h"
#include "tensor/trace.h"
#include "train/sft.h"

namespace facet {
namespace {

LinearHead head_of(const LanguageModel& model, const Tensor& h, const Batch& b) {
  return {"dpo", h, model.head().value(), b.labels, {.cap = model.final_cap(), .exact = true}};
}

// In what statistics are kept: so the reference's are the bits that a file of them was made of.
HeadTask asking(const LinearHead& head) { return log_prob_task(head, head.acc); }

double value(const Tensor& t, size_t i) { return t.dtype() == DType::f64 ? t.data<double>()[i] : t.data<float>()[i]; }

// Of the task's answers. Sums in f64 and in the order of the tokens, so that they do not depend on where in a batch an example stands.
LogProbs sums(const HeadTask& task, const Tensor& answers, const Dataset& data, const Batch& b) {
  LogProbs r;
  for (size_t i = 0; i < b.places.size(); ++i) {
    double sum = 0;
    const auto end = std::ranges::lower_bound(task.rows, b.places[i].end);
    for (auto at = std::ranges::lower_bound(task.rows, b.places[i].begin); at != end; ++at) sum += value(answers, static_cast<size_t>(at - task.rows.begin()));
    // NaN is a broken model, for the loop's guard. A row of zero probability is the row's fault.
    if (std::isinf(sum))
      fail(Kind::data, "{}:{}: the log-probability of \"{}\" is {}; leave the row out", data.path(), data[b.examples[i]].line,
           i % 2 == 0 ? "chosen" : "rejected", sum);
    r.push_back(sum);
  }
  return r;
}

int64_t learned(const Dataset::View& v) {
  int64_t n = 0;
  for (size_t t = 1; t < v.mask.size(); ++t) n += v.mask[t];
  return n;
}

// Adds up the pairs of a batch; `use(i, loss)` gets each one's loss, i the number of its chosen example in the batch.
template <class Use>
void for_each_pair(const Dataset& data, const Batch& b, const LogProbs& policy, const LogProbs& reference, const DpoLossOptions& o,
                   DpoFigures& sum, Use use) {
  if (reference.size() != policy.size())
    fail(Kind::usage, "dpo: the reference gave {} log-probabilities for {} completions", reference.size(), policy.size());
  for (size_t i = 0; i + 1 < b.examples.size(); i += 2) {
    const CompletionLogProbs chosen{policy[i], reference[i], learned(data[b.examples[i]])};
    const CompletionLogProbs rejected{policy[i + 1], reference[i + 1], learned(data[b.examples[i + 1]])};
    const DpoLoss r = dpo_loss(chosen, rejected, o);
    sum.loss += r.loss;
    sum.accuracy += r.right();
    sum.chosen_reward += r.chosen_reward;
    sum.rejected_reward += r.rejected_reward;
    sum.chosen_log_prob += chosen.policy;
    sum.rejected_log_prob += rejected.policy;
    ++sum.pairs;
    use(i, r);
  }
}

void take_means(DpoFigures& f) {
  if (f.pairs == 0) return;
  const double k = 1.0 / static_cast<double>(f.pairs);
  for (double* x : {&f.loss, &f.accuracy, &f.chosen_reward, &f.rejected_reward, &f.chosen_log_prob, &f.rejected_log_prob}) *x *= k;
}

}  // namespace

LogProbs completion_log_probs(LanguageModel& model, const Dataset& data, const Batch& b) {
  const NoGrad off;
  const Tensor h = model.hidden({b.ids, b.positions, b.segments});
  const HeadTask task = asking(head_of(model, h, b));
  return sums(task, task.values(), data, b);
}

void reference_pass(LanguageModel& model, const Dataset& data, int64_t batch, bool share, int32_t pad_id, LogProbs& all,
                    const std::function<void(int64_t done, int64_t of)>& progress) {
  // Whole batches alone: what goes on is then what would have been, whatever the kernels make of a batch's size.
  if (std::ssize(all) < data.size()) all.resize(all.size() - all.size() % static_cast<size_t>(2 * batch));
  for (const Batch& b : batches_in_order(data, batch, pad_id, 1, share)) {
    if (b.examples[0] < std::ssize(all)) continue;
    const LogProbs some = completion_log_probs(model, data, b);
    for (size_t i = 0; i < some.size(); ++i)
      if (std::isnan(some[i])) fail(Kind::file, "the reference gives NaN for {}:{}; are its weights finite?", data.path(), data[b.examples[i]].line);
    all.insert(all.end(), some.begin(), some.end());
    if (progress) progress(std::ssize(all) / 2, data.size() / 2);
  }
}

Reference adapter_off_reference(Adapters& adapters, const Dataset& data) {
  return [&](const Batch& b) {
    const AdapterOff off(adapters);
    return completion_log_probs(adapters.model(), data, b);
  };
}

void check_pairs(const Dataset& data) {
  if (data.group() != 2) fail(Kind::data, "{}: dpo learns from preference data, rows with \"chosen\" and \"rejected\"; these are of another kind", data.path());
  for (int64_t i = 0; i + 1 < data.size(); i += 2) {
    const auto chosen = data[i], rejected = data[i + 1];
    for (const auto& v : {chosen, rejected})
      if (learned(v) == 0)
        fail(Kind::data, "{}:{}: \"{}\" has no token to learn (empty, or cut away)", data.path(), v.line, v.ids.data() == chosen.ids.data() ? "chosen" : "rejected");
    if (std::equal(chosen.ids.begin(), chosen.ids.end(), rejected.ids.begin(), rejected.ids.end()))
      fail(Kind::data, "{}:{}: \"chosen\" and \"rejected\" are identical as tokens (differing in blanks, or cut before they differ?)", data.path(), chosen.line);
  }
}

DpoStep accumulate_dpo(LanguageModel& model, const Dataset& data, std::span<const Batch> micro, const Reference& reference, const DpoLossOptions& o,
                       std::optional<Key> dropout) {
  DpoStep step;
  int64_t pairs = 0;  // of the whole step: micro-batches of any cut add up to the big batch's mean
  for (const Batch& b : micro) {
    pairs += std::ssize(b.examples) / 2;
    step.tokens += b.tokens;
    step.supervised += b.supervised;
    step.flops += step_flops(model, b.positions, static_cast<double>(b.supervised));
  }
  for (size_t m = 0; m < micro.size(); ++m) {
    const Batch& b = micro[m];
    const LogProbs fixed = in_phase("reference", [&] { return reference(b); });  // before the policy's graph takes its memory, and without dropout
    const DropoutScope scope(dropout ? std::optional(fold_in(*dropout, static_cast<uint32_t>(m))) : std::nullopt);
    std::optional<Phase> phase(std::in_place, "forward");
    const TrainingPass pass(model, {b.ids, b.positions, b.segments});
    const LinearHead head = head_of(model, pass.h, b);
    const HeadTask task = asking(head);
    const LogProbs policy = sums(task, pass.values(task), data, b);
    pool_vector<double> slopes(static_cast<size_t>(head.N));
    const auto spread = [&](const Batch::Place& place, double slope) { std::fill(slopes.begin() + place.begin, slopes.begin() + place.end, slope); };
    for_each_pair(data, b, policy, fixed, o, step.figures, [&](size_t i, const DpoLoss& r) {
      spread(b.places[i], r.chosen_slope / static_cast<double>(pairs));
      spread(b.places[i + 1], r.rejected_slope / static_cast<double>(pairs));
    });
    phase.emplace("backward");
    pass.run(log_prob_gradient_task(head, slopes));
  }
  take_means(step.figures);
  return step;
}

DpoFigures evaluate_dpo(LanguageModel& model, const Dataset& data, std::span<const Batch> batches, const Reference& reference, const DpoLossOptions& o) {
  DpoFigures f;
  for (const Batch& b : batches)
    for_each_pair(data, b, completion_log_probs(model, data, b), reference(b), o, f, [](size_t, const DpoLoss&) {});
  take_means(f);
  return f;
}

Dpo::Dpo(LanguageModel& model, const Loader& train, Reference reference, HeldOut valid, const DpoLossOptions& options)
    : model_(model), train_(train), reference_(std::move(reference)), valid_(std::move(valid)), options_(options) {
  options_.check();
  check_pairs(train_.data());
  if (valid_.data) check_pairs(*valid_.data);
}

StepReport Dpo::accumulate(int64_t step) {
  const std::vector<Batch> micro = in_phase("data", [&] { return train_.at(step); });
  const DpoStep s = accumulate_dpo(model_, train_.data(), micro, reference_, options_,
                                  fold_in(key(train_.options().seed), static_cast<uint32_t>(step)));
  const DpoFigures& f = s.figures;
  StepReport r;
  r.loss = f.loss;
  r.tokens = s.tokens;
  r.supervised = s.supervised;
  r.flops = s.flops;
  r.extra = {{"rewards/chosen", f.chosen_reward}, {"rewards/rejected", f.rejected_reward}, {"rewards/margins", f.margin()},
             {"rewards/accuracies", f.accuracy},  {"logps/chosen", f.chosen_log_prob},     {"logps/rejected", f.rejected_log_prob}};
  r.line = fmt::format("loss {:.4f} margin {:+.3f} acc {:.2f} logp {:.1f} / {:.1f}", f.loss, f.margin(), f.accuracy, f.chosen_log_prob, f.rejected_log_prob);
  return r;
}

std::string Dpo::samples(int64_t step) const { return sample_lines(train_.data(), train_.at(step)); }

std::map<std::string, double> Dpo::evaluate() {
  if (!valid_.data) return {};
  const DpoFigures f = evaluate_dpo(model_, *valid_.data, valid_.batches, valid_.reference, options_);
  return {{"loss", f.loss}, {"accuracy", f.accuracy}, {"margin", f.margin()}};
}

}  // namespace facet

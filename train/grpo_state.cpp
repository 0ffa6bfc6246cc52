// What a run of GRPO needs beside weights and moments to go on bit for bit: counts, the guard, and a rollout that still has updates to serve.
#include "train/grpo.h"
#include "train/state_text.h"

namespace facet {
namespace {

template <class T>
Tensor column(const std::vector<T>& values) {
  return Tensor::from(values, {static_cast<int64_t>(values.size())});
}

template <class T>
std::vector<T> values(const FoundCheckpoint& found, const Snapshot::Tensors& all, const std::string& name, size_t count) {
  for (const auto& [n, t] : all) {
    if (n != name) continue;
    if (t.dtype() != dtype_of<T>() || t.numel() != static_cast<int64_t>(count)) break;
    const std::span<const T> d = t.template data<T>();
    return {d.begin(), d.end()};
  }
  fail(Kind::file, "{}: \"{}\" of the rollout is missing, or has not {} values", found.path, name, count);
}

}  // namespace

void Grpo::save(Snapshot& s) const {
  const bool serves = done_ % options_.updates != 0;  // this rollout has updates to come
  s.state["objective.rollout"] = std::to_string(serves ? now_.index : -1);
  s.state["objective.failures"] = std::to_string(failures_);
  s.state["objective.flat"] = std::to_string(flat_);
  s.state["objective.said_truncated"] = std::to_string(said_truncated_);
  s.state["objective.guard.reward"] = exact_text(guard_.reward);
  s.state["objective.guard.best"] = exact_text(guard_.best);
  s.state["objective.guard.steps"] = std::to_string(guard_.steps);
  s.state["objective.guard.certain"] = std::to_string(guard_.certain);
  s.state["objective.guard.far"] = std::to_string(guard_.far);
  s.state["objective.guard.silent"] = std::to_string(guard_.silent);
  if (!serves) return;
  Snapshot::Tensors& f = s.files["objective"];
  f = {{"lengths", column(now_.lengths)}, {"ended", column(now_.ended)}, {"tokens", column(now_.tokens)},
       {"log_probs", column(now_.log_probs)}, {"entropy", column(now_.entropy)}, {"rewards", column(now_.rewards)}};
  if (!now_.reference.empty()) f.push_back({"reference", column(now_.reference)});
}

void Grpo::restore(const FoundCheckpoint& found) {
  const StateText state(found, "objective.");
  done_ = found.step;
  failures_ = state.count("failures");
  flat_ = state.count("flat");
  said_truncated_ = state.count("said_truncated") != 0;
  guard_ = {state.number("guard.reward"), state.number("guard.best"), state.count("guard.steps"), state.count("guard.certain"), state.count("guard.far"), state.count("guard.silent")};
  now_ = {};
  if (const int64_t rollout = state.count("rollout"); rollout >= 0) {
    const auto n = static_cast<size_t>(options_.prompts * options_.rollout.group);
    const Snapshot::Tensors f = read_tensors(found, "objective");
    Sampled s;
    s.index = rollout;
    s.lengths = values<int32_t>(found, f, "lengths", n);
    size_t total = 0;
    for (const int32_t length : s.lengths) {
      if (length < 1) fail(Kind::file, "{}: a completion of {} tokens in the rollout", found.path, length);
      total += static_cast<size_t>(length);
    }
    s.ended = values<int32_t>(found, f, "ended", n);
    s.tokens = values<int32_t>(found, f, "tokens", total);
    s.log_probs = values<float>(found, f, "log_probs", total);
    s.entropy = values<float>(found, f, "entropy", total);
    s.rewards = values<double>(found, f, "rewards", n * (1 + rewards_.size()));
    if (options_.policy.kl > 0) s.reference = values<double>(found, f, "reference", total);
    for (const int32_t token : s.tokens)
      if (token < 0 || token >= model_.vocab()) fail(Kind::file, "{}: token {} in the rollout, the vocabulary has {}", found.path, token, model_.vocab());
    now_ = std::move(s);
  }
}

}  // namespace facet

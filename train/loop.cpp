#include "train/loop.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <set>
#include <utility>

#include "autograd/anomaly.h"
#include "tensor/gpu/waits.h"
#include "tensor/io/crc32c.h"
#include "tensor/io/text.h"
#include "tensor/kernels/adamw.h"
#include "tensor/trace.h"
#include "train/movement.h"
#include "train/signals.h"
#include "train/state_text.h"

namespace facet {
namespace {

// The pool fills, products choose their algorithms, passes are recorded.
constexpr int64_t warm_up_steps = 4;

constexpr std::string_view setting = "setting.";  // before the names of the identity in a checkpoint's state

bool all_finite(const Tensor& t) {
  const Tensor x = t.detach().to(acc_dtype(t.dtype()));
  const Tensor sums = Tensor::empty({(x.numel() + squares_block - 1) / squares_block}, DType::f64, x.device());
  sum_of_squares(x.view(), sums.out());
  for (double s : sums.to(Device::cpu).data<double>())
    if (!std::isfinite(s)) return false;
  return true;
}

bool due(int64_t step, int64_t every) { return every > 0 && step % every == 0; }

/// Since the last call: what the phases took, as "forward_seconds", and all there was, as "wall_seconds".
class Times {
 public:
  std::map<std::string, double> operator()() {
    const auto now = std::chrono::steady_clock::now();
    const auto in_micros = [](double s) { return std::round(s * 1e6) / 1e6; };  // a clock's noise needs no room in a log
    std::map<std::string, double> values = {{"wall_seconds", in_micros(std::chrono::duration<double>(now - std::exchange(last_, now)).count())}};
    for (const PhaseTime& p : take_phases()) values[std::string(p.name) + "_seconds"] = in_micros(p.seconds);
    return values;
  }

 private:
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

}  // namespace

Loop::Loop(Module& model, Optimizer& optimizer, Objective& objective, RunFolder& folder, LoopOptions options,
           std::map<std::string, std::string> identity)
    : model_(model),
      optimizer_(optimizer),
      objective_(objective),
      folder_(folder),
      options_(std::move(options)),
      identity_(std::move(identity)),
      parameters_(parameters(model)),
      guard_({.spikes = options_.spike_guard, .loss = objective.loss_compares(), .clip = options_.clip}) {
  clean_checkpoints(folder_.file("checkpoints"));
}

std::optional<FoundCheckpoint> Loop::find(const std::vector<std::string>& allow_changed) const {
  auto found = newest_checkpoint(folder_.file("checkpoints"), [&](const std::string& s) { folder_.say(s); });
  if (!found) return found;
  std::map<std::string, std::string> then;
  for (const auto& [key, value] : found->state)
    if (key.rfind(setting, 0) == 0) then[key.substr(setting.size())] = value;
  std::set<std::string> names;
  for (const auto& [name, value] : then) names.insert(name);
  for (const auto& [name, value] : identity_) names.insert(name);
  const auto in = [](const std::map<std::string, std::string>& list, const std::string& name) {
    const auto at = list.find(name);
    return at == list.end() ? std::string("not set") : printable(at->second, 200);
  };
  std::string changes, changed;
  for (const std::string& name : names) {
    if (in(then, name) == in(identity_, name)) continue;
    if (std::find(allow_changed.begin(), allow_changed.end(), name) != allow_changed.end()) continue;
    changes += fmt::format("{}{} was {}, {} now", changes.empty() ? "" : "; ", name, in(then, name), in(identity_, name));
    changed += (changed.empty() ? "" : ",") + name;
  }
  if (changed.find(' ') != changed.npos) changed = "'" + changed + "'";
  if (!changes.empty())
    fail(Kind::usage, "resume: {} ({}); --allow-changed {} accepts {} (no longer bitwise)", changes, found->path, changed,
         changed.find(',') == changed.npos ? "it" : "them");
  return found;
}

bool Loop::resume(const std::vector<std::string>& allow_changed) {
  const auto found = find(allow_changed);
  restore(found);
  return found.has_value();
}

void Loop::restore(const std::optional<FoundCheckpoint>& found) {
  if (!found) return folder_.rewind(-1);  // of a run that ended before its first checkpoint
  load(*found);
  folder_.say(fmt::format("resumed from {} at step {}", found->path, step_));
}

void Loop::load(const FoundCheckpoint& found) {
  restore_tensors(found, "model", named_values(model_, true));
  optimizer_.load_state(read_tensors(found, "optimizer"));
  const StateText state(found);
  step_ = saved_ = found.step;
  tokens_ = state.count("tokens");
  skip_begin_ = state.count("skip_begin");
  skip_end_ = state.count("skip_end");
  went_back_to_ = state.count("went_back_to");
  guard_.restore(found);
  objective_.restore(found);
  folder_.rewind(step_);
  settle_checkpoints(folder_.file("checkpoints"), step_, options_.keep);
}

void Loop::save() {
  if (saved_ == step_) return;
  const Phase phase("checkpoint");
  for (Parameter* p : parameters_)
    if (p->trains() && !all_finite(p->value()))
      fail(Kind::guard, "step {}: \"{}\" holds NaN or infinity; not saved, the last checkpoint is that of step {}", step_, p->name,
           std::max<int64_t>(0, saved_));
  Snapshot s;
  s.files["model"] = named_values(model_, true);
  s.files["optimizer"] = optimizer_.state();
  for (const auto& [name, value] : {std::pair("tokens", tokens_), std::pair("skip_begin", skip_begin_), std::pair("skip_end", skip_end_),
                                    std::pair("went_back_to", went_back_to_)})
    s.state[name] = std::to_string(value);
  for (const auto& [name, value] : identity_) s.state[std::string(setting) + name] = value;
  guard_.save(s);
  objective_.save(s);
  folder_.sync_metrics();
  save_checkpoint(folder_.file("checkpoints"), step_, s, options_.keep);
  saved_ = step_;
}

void Loop::try_save() {
  try {
    save();
  } catch (const Error& e) {
    if (e.kind() != Kind::environment) throw;
    const std::string newest = saved_ < 0 ? "there is none yet" : fmt::format("the newest is that of step {}", saved_);
    folder_.say(fmt::format("warning: no checkpoint of step {} ({}): {}; training goes on and tries again at the next one", step_, e.what(), newest));
  }
}

void Loop::stop(Kind kind, const std::string& why) {
  std::string kept = "checkpoint kept";
  try {
    save();
  } catch (const Error& e) {
    if (e.kind() != Kind::environment && e.kind() != Kind::guard) throw;
    kept = fmt::format("no checkpoint of this step ({})", e.what());
  }
  fail(kind, "step {}: {}; {}", step_, why, kept);
}

void Loop::evaluate() {
  auto figures = in_phase("evaluate", [&] { return objective_.evaluate(); });
  if (figures.empty()) return;
  folder_.metrics(step_, "valid", figures);
  std::string line = fmt::format("[V] step {:5} ", step_);
  for (const auto& [name, value] : figures) line += fmt::format(" {} {:.4g}", name, value);
  folder_.say(line);
  evaluation_ = std::move(figures);
}

void Loop::write_sample() {
  if (!sample) return;
  const Phase phase("sample");
  folder_.sample(step_, sample());
}

struct Loop::Watch {
  std::optional<Anomaly> anomaly;
  std::optional<Movement> movement;
  UpdateSize update;
  Rate tokens, flops;
  Times where_time_went;
  int64_t log_every, strict_from;
};

// What made the step's gradients not finite: they are computed again under a magnifying glass. Their first computation is forgotten.
std::string Loop::explain(int64_t step) {
  const gpu::MaySync wait;
  optimizer_.drop_gradients();
  const Anomaly look(parameters_);
  const bool finite = std::isfinite(objective_.repeat(step)) && optimizer_.clip(0).finite();
  optimizer_.drop_gradients();
  if (finite) stop(Kind::nondeterminism, "the batch was computed again, and now all is finite: the machine cannot be trusted");
  return look.found().empty() ? "no recorded operation made it: it comes from the loss itself" : look.found();
}

// Memory and processors that fail do so silently. Both computations must have the same bits.
void Loop::check_repeat(int64_t step, double loss) {
  const gpu::MaySync wait;
  const auto sums = [&] {
    std::vector<uint32_t> list;
    for (Parameter* p : optimizer_.parameters()) {
      const Tensor g = p->grad() ? p->grad().to(Device::cpu).dense() : Tensor{};
      list.push_back(g ? crc32c(g.view().data, static_cast<size_t>(g.numel() * size_of(g.dtype()))) : 0);
    }
    return list;
  };
  const auto before = sums();
  optimizer_.drop_gradients();
  const double again = objective_.repeat(step);
  const auto after = sums();
  const auto differs = std::mismatch(before.begin(), before.end(), after.begin()).first;
  if (differs == before.end() && std::memcmp(&loss, &again, sizeof loss) == 0) return;
  optimizer_.drop_gradients();
  const std::string what = differs == before.end() ? fmt::format("the loss is {:a}, and was {:a}", again, loss)
                                                   : fmt::format("the gradient of {} differs", optimizer_.parameters()[static_cast<size_t>(differs - before.begin())]->name);
  stop(Kind::nondeterminism, fmt::format("the next batch was computed twice, and {}: the machine cannot be trusted (memory, overclocking, a driver?)", what));
}

void Loop::go_back(int64_t first_spike) {
  const int64_t now = step_;
  guard_.forget_spikes();
  const auto found = newest_checkpoint(folder_.file("checkpoints"), [&](const std::string& s) { folder_.say(s); }, first_spike - 1);
  if (!found)
    stop(Kind::guard, fmt::format("the third spike since step {}, and no checkpoint from before to go back to; lower --lr, or set --save-every", first_spike));
  if (found->step == went_back_to_)
    stop(Kind::guard, fmt::format("the third spike since step {}, and the run went back to step {} once before; lower --lr or --clip", first_spike, found->step));
  load(*found);
  guard_.forget_spikes();
  went_back_to_ = step_;
  skip_begin_ = std::max(step_, now - StepGuard::spikes_among);
  skip_end_ = now;
  folder_.say(fmt::format("warning: the third spike since step {}: back to the checkpoint of step {}; the batches of steps {} to {} are passed over",
                          first_spike, step_, skip_begin_ + 1, skip_end_));
}

void Loop::pass_over() {
  ++step_;
  folder_.metrics(step_, "train", {{"skipped", 1}});
  folder_.say(fmt::format("[{}] step {:5} passed over", objective_.tag(), step_), true);
}

bool Loop::learn(Watch& w) {
  const double lr = options_.lr * options_.schedule(step_);
  std::optional<gpu::NoSync> strict(options_.assert_no_sync && step_ >= w.strict_from);
  const StepReport r = objective_.accumulate(step_);
  std::optional<Phase> update(std::in_place, "optimizer");
  const Clip clip = optimizer_.clip(options_.clip);
  if (w.anomaly && !w.anomaly->found().empty()) {
    optimizer_.drop_gradients();
    stop(Kind::guard, fmt::format("the next batch ({}) is where it begins: {}", objective_.samples(step_), w.anomaly->found()));
  }
  if (due(step_ + 1, options_.repeat_every)) check_repeat(step_, r.loss);
  const StepGuard::Judgement judgement = guard_.judge(step_ + 1, r.loss, clip.norm);
  if (judgement.verdict == StepGuard::Verdict::good) {
    const bool looks = w.update.before(step_ + 1);
    optimizer_.step(lr, clip.scale);
    if (looks)
      if (const std::string large = w.update.after(); !large.empty()) folder_.say(fmt::format("warning: step {}: {}", step_ + 1, large));
  } else {
    optimizer_.drop_gradients();
  }
  update.reset();
  strict.reset();
  ++step_;
  tokens_ += r.tokens;
  report(w, r, clip, lr, judgement);
  if (judgement.verdict == StepGuard::Verdict::good) {
    if (w.movement && lr > 0 && clip.norm > 0)
      if (const std::string still = w.movement->after_update(); !still.empty()) folder_.say("warning: " + still);
  } else {
    const bool spike = judgement.verdict == StepGuard::Verdict::spike;
    const std::string samples = objective_.samples(step_ - 1);
    folder_.say(fmt::format("warning: step {}: {}; update skipped, moments kept{}{}", step_, judgement.reason,
                            samples.empty() ? "" : "; it would have learned from " + samples, spike ? "" : "; " + explain(step_ - 1)));
    if (const std::string lost = guard_.lost(step_); !lost.empty()) stop(Kind::guard, lost + " (lower --lr or raise --warmup, then --resume)");
    if (const int64_t first = guard_.spikes_since(step_); spike && first > 0) {
      go_back(first);
      return false;
    }
  }
  if (!r.stop.empty()) stop(Kind::guard, r.stop);
  return true;
}

void Loop::report(Watch& w, const StepReport& r, const Clip& clip, double lr, const StepGuard::Judgement& judgement) {
  w.tokens.add(static_cast<double>(r.tokens));
  w.flops.add(r.flops);
  const double rate = w.tokens.per_second();
  const PoolStats memory = pool_stats(parameters_.empty() ? Device::cpu : parameters_[0]->value().device());
  std::map<std::string, double> values = r.extra;
  values.insert({{"loss", r.loss}, {"grad_norm", clip.norm}, {"clipped", guard_.clipped()}, {"lr", lr}, {"tokens", static_cast<double>(tokens_)},
                 {"supervised", static_cast<double>(r.supervised)}, {"tokens_per_s", rate}, {"peak_bytes", static_cast<double>(memory.peak_bytes)}});
  std::string light;
  if (options_.peak_flops > 0 && r.flops > 0) {
    const double share = w.flops.per_second() / options_.peak_flops;
    values["speed_of_light"] = share;
    light = fmt::format(" sol {:.0f}%", 100 * share);
  }
  if (judgement.verdict != StepGuard::Verdict::good) values["skipped"] = 1;
  values.merge(w.where_time_went());
  folder_.metrics(step_, "train", values);
  const double tokens_left = static_cast<double>(tokens_) / static_cast<double>(step_) * static_cast<double>(options_.steps - step_);
  const std::string figures = r.line.empty() ? fmt::format("loss {:.4f} ppl {:.4g}", r.loss, std::exp(r.loss)) : r.line;
  folder_.say(fmt::format("[{}] step {:5} [{:3.0f}%] {} gnorm {:.3g} lr {:.2e} tok/s {}{} mem {}B eta {}", objective_.tag(), step_,
                          100.0 * static_cast<double>(step_) / static_cast<double>(options_.steps), figures, clip.norm, lr, short_count(rate), light,
                          short_count(static_cast<double>(memory.peak_bytes)), clock_text(rate > 0 ? tokens_left / rate : 0)),
              !(due(step_, w.log_every) || step_ == options_.steps));
}

void Loop::run() {
  const StopSignals signals("stopping after this step; saving a checkpoint (again to quit at once)");
  take_phases();  // of what came before this run
  Watch w{.anomaly = {}, .movement = {}, .update = UpdateSize(parameters_, options_.schedule.warmup), .tokens = {}, .flops = {}, .where_time_went = {},
          .log_every = options_.log_every > 0 ? options_.log_every : std::max<int64_t>(1, options_.steps / 20), .strict_from = step_ + warm_up_steps};
  const int64_t begun_at = step_;
  if (step_ == 0 && options_.eval_every > 0) evaluate();
  if (options_.anomaly) w.anomaly.emplace(parameters_);
  if (step_ == 0) w.movement.emplace(parameters_);
  while (step_ < options_.steps) {
    const TraceStep traced(step_ + 1);
    if (step_ >= skip_begin_ && step_ < skip_end_) pass_over();
    else if (!learn(w)) continue;
    const bool last = step_ == options_.steps;
    if (last || due(step_, options_.eval_every)) evaluate();
    if (last || due(step_, options_.sample_every)) write_sample();
    if (last) break;
    if (due(step_, options_.save_every)) try_save();
    if (const int signal = StopSignals::requested()) {
      save();
      fail(stop_kind(signal), "stopped at step {} of {}; checkpoint saved, --resume continues", step_, options_.steps);
    }
  }
  save();
  if (step_ > begun_at) folder_.metrics(step_, "end", w.where_time_went());
  if (const double share = guard_.clipped(); share > 0) folder_.say(fmt::format("clipped: {:.0f}% of the last steps (--clip {:g})", 100 * share, options_.clip));
}

}  // namespace facet

#include "train/loop.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <set>
#include <utility>

#include "optim/clip.h"
#include "tensor/gpu/waits.h"
#include "tensor/io/text.h"
#include "tensor/kernels/adamw.h"
#include "tensor/trace.h"
#include "train/movement.h"
#include "train/signals.h"

namespace facet {
namespace {

// Ten bad steps in a row mean that the run is lost, not unlucky.
constexpr int64_t most_bad_in_a_row = 10;

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
      parameters_(parameters(model)) {
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
  restore_tensors(*found, "model", named_values(model_, true));
  optimizer_.load_state(read_tensors(*found, "optimizer"));
  const auto number = [&](const char* name) {
    const auto i = found->state.find(name);
    if (i == found->state.end()) fail(Kind::file, "{}: the state lacks \"{}\"", found->path, name);
    const std::string& text = i->second;
    int64_t value = 0;
    if (const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value); error != std::errc{} || end != text.data() + text.size())
      fail(Kind::file, "{}: the state's \"{}\" is \"{}\", expected a count", found->path, name, text);
    return value;
  };
  step_ = saved_ = found->step;
  tokens_ = number("tokens");
  bad_in_a_row_ = number("bad_in_a_row");
  objective_.restore(*found);
  folder_.rewind(step_);
  settle_checkpoints(folder_.file("checkpoints"), step_, options_.keep);
  folder_.say(fmt::format("resumed from {} at step {}", found->path, step_));
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
  s.state = {{"tokens", std::to_string(tokens_)}, {"bad_in_a_row", std::to_string(bad_in_a_row_)}};
  for (const auto& [name, value] : identity_) s.state[std::string(setting) + name] = value;
  objective_.save(s);
  folder_.sync_metrics();
  save_checkpoint(folder_.file("checkpoints"), step_, s, options_.keep);
  saved_ = step_;
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

void Loop::run() {
  const StopSignals signals("stopping after this step; saving a checkpoint (again to quit at once)");
  take_phases();  // of what came before this run
  Times where_time_went;
  if (step_ == 0 && options_.eval_every > 0) evaluate();
  std::optional<Movement> movement;
  if (step_ == 0) movement.emplace(parameters_);
  Rate rate;
  const int64_t log_every = options_.log_every > 0 ? options_.log_every : std::max<int64_t>(1, options_.steps / 20);
  const int64_t begun_at = step_, strict_from = step_ + warm_up_steps;
  while (step_ < options_.steps) {
    const double lr = options_.lr * options_.schedule(step_);
    std::optional<gpu::NoSync> strict(options_.assert_no_sync && step_ >= strict_from);
    const TraceStep traced(step_ + 1);
    const StepReport r = objective_.accumulate(step_);
    std::optional<Phase> update(std::in_place, "optimizer");
    const Clip clip = clip_global_norm(optimizer_.parameters(), options_.clip);
    const bool finite = std::isfinite(r.loss) && clip.finite();
    if (finite) {
      optimizer_.step(lr, clip.scale);
      bad_in_a_row_ = 0;
    } else {
      optimizer_.drop_gradients();
      ++bad_in_a_row_;
    }
    update.reset();
    strict.reset();
    ++step_;
    tokens_ += r.tokens;
    rate.add(static_cast<double>(r.tokens));

    const PoolStats memory = pool_stats(parameters_.empty() ? Device::cpu : parameters_[0]->value().device());
    std::map<std::string, double> values = r.extra;
    values.insert({{"loss", r.loss}, {"grad_norm", clip.norm}, {"lr", lr}, {"tokens", static_cast<double>(tokens_)},
                   {"supervised", static_cast<double>(r.supervised)}, {"tokens_per_s", rate.per_second()},
                   {"peak_bytes", static_cast<double>(memory.peak_bytes)}});
    if (!finite) values["skipped"] = 1;
    values.merge(where_time_went());
    folder_.metrics(step_, "train", values);
    const double tokens_left = static_cast<double>(tokens_) / static_cast<double>(step_) * static_cast<double>(options_.steps - step_);
    const std::string figures = r.line.empty() ? fmt::format("loss {:.4f} ppl {:.4g}", r.loss, std::exp(r.loss)) : r.line;
    folder_.say(fmt::format("[{}] step {:5} [{:3.0f}%] {} gnorm {:.3g} lr {:.2e} tok/s {} mem {}B eta {}", objective_.tag(), step_,
                            100.0 * static_cast<double>(step_) / static_cast<double>(options_.steps), figures, clip.norm, lr,
                            short_count(rate.per_second()), short_count(static_cast<double>(memory.peak_bytes)),
                            clock_text(rate.per_second() > 0 ? tokens_left / rate.per_second() : 0)),
                !(due(step_, log_every) || step_ == options_.steps));
    if (movement && finite && lr > 0 && clip.norm > 0)
      if (const std::string still = movement->after_update(); !still.empty()) folder_.say("warning: " + still);
    if (!finite) {
      folder_.say(fmt::format("warning: step {}: {} is not finite; update skipped, moments kept ({} in a row)", step_,
                              std::isfinite(r.loss) ? "the gradient norm" : "the loss", bad_in_a_row_));
      if (bad_in_a_row_ >= most_bad_in_a_row) {
        save();
        fail(Kind::guard, "step {}: {} steps in a row were not finite; checkpoint kept, lower --lr or raise --clip and --resume",
             step_, bad_in_a_row_);
      }
    }
    const bool last = step_ == options_.steps;
    if (last || due(step_, options_.eval_every)) evaluate();
    if (last || due(step_, options_.sample_every)) write_sample();
    if (last || due(step_, options_.save_every)) save();
    if (!r.stop.empty()) {
      save();
      fail(Kind::guard, "step {}: {}; checkpoint kept", step_, r.stop);
    }
    if (const int signal = StopSignals::requested(); signal && !last) {
      save();
      fail(stop_kind(signal), "stopped at step {} of {}; checkpoint saved, --resume continues",
           step_, options_.steps);
    }
  }
  save();
  if (step_ > begun_at) folder_.metrics(step_, "end", where_time_went());
}

}  // namespace facet

#include "train/guard.h"

#include <algorithm>
#include <cmath>

#include "train/state_text.h"

namespace facet {
namespace {

constexpr size_t most_bad = 10;
constexpr int64_t bad_among = 1000;
constexpr size_t most_spikes = 3;
constexpr double deviations = 6, norms = 10;
constexpr int least = 64;  // half of what is remembered: fewer say little, and the first steps of a run are unlike all others
// Nats. When a small data set is nearly learned by heart its losses hardly differ, and six of such deviations are nothing.
constexpr double least_spread = 0.02;
constexpr double normal = 1.4826;  // of a normal distribution: standard deviation over the median distance from the median

void forget_before(std::vector<int64_t>& steps, int64_t first) {
  steps.erase(steps.begin(), std::lower_bound(steps.begin(), steps.end(), first));
}

}  // namespace

void RecentValues::add(double x) {
  values_[static_cast<size_t>(next_)] = x;
  next_ = (next_ + 1) % most;
  count_ = std::min(count_ + 1, most);
}

double RecentValues::mean() const {
  double sum = 0;
  for (const double x : list()) sum += x;
  return count_ > 0 ? sum / count_ : 0;
}

double RecentValues::median_of(std::array<double, most> values) const {
  const auto middle = values.begin() + count_ / 2;
  std::nth_element(values.begin(), middle, values.begin() + count_);
  return *middle;
}

double RecentValues::median() const { return median_of(values_); }

double RecentValues::spread(double around) const {
  std::array<double, most> distances = values_;
  for (double& d : distances) d = std::abs(d - around);
  return normal * median_of(distances);
}

std::vector<double> RecentValues::list() const {
  std::vector<double> list;
  for (int i = 0; i < count_; ++i) list.push_back(values_[static_cast<size_t>((next_ - count_ + i + most) % most)]);
  return list;
}

std::string StepGuard::spike(double loss, double norm) const {
  if (options_.loss && losses_.count() >= least) {
    const double median = losses_.median(), spread = std::max(losses_.spread(median), least_spread);
    if (loss > median + deviations * spread)
      return fmt::format("loss {:.4g} is above {:.4g} + {} x {:.2g}, median and deviation of the last {}", loss, median, deviations, spread, losses_.count());
  }
  // A norm below --clip is one that the user calls ordinary: where most gradients are tiny, the rare large one is what is learned from.
  if (norms_.count() >= least && norm > options_.clip)
    if (const double median = norms_.median(); norm > norms * median)
      return fmt::format("gradient norm {:.3g} is above {} x {:.3g}, the median of the last {}", norm, norms, median, norms_.count());
  return {};
}

StepGuard::Judgement StepGuard::judge(int64_t step, double loss, double norm) {
  forget_before(bad_, step - bad_among + 1);
  forget_before(spikes_, step - spikes_among + 1);
  if (!std::isfinite(loss) || !std::isfinite(norm)) {
    bad_.push_back(step);
    return {Verdict::not_finite, std::isfinite(loss) ? "the gradient norm is not finite" : "the loss is not finite"};
  }
  const std::string reason = options_.spikes ? spike(loss, norm) : "";
  // A spike is remembered too: if the data have become harder for good, the median follows.
  losses_.add(loss);
  if (norm > 0) norms_.add(norm);
  clipped_.add(options_.clip > 0 && norm > options_.clip);
  if (reason.empty()) return {};
  spikes_.push_back(step);
  return {Verdict::spike, reason};
}

std::string StepGuard::lost(int64_t step) const {
  if (bad_.size() < most_bad) return {};
  if (bad_.front() == step - static_cast<int64_t>(most_bad) + 1) return fmt::format("{} steps in a row were not finite", most_bad);
  return fmt::format("{} of the last {} steps were not finite", bad_.size(), std::min(step, bad_among));
}

int64_t StepGuard::spikes_since(int64_t step) const {
  return spikes_.size() >= most_spikes && spikes_.back() == step ? spikes_.front() : 0;
}

void StepGuard::save(Snapshot& s) const {
  const auto put = [&](const char* name, const auto& list) { s.state[std::string("guard.") + name] = exact_text(std::vector<double>(list.begin(), list.end())); };
  put("losses", losses_.list());
  put("norms", norms_.list());
  put("clipped", clipped_.list());
  put("bad", bad_);
  put("spikes", spikes_);
}

void StepGuard::restore(const FoundCheckpoint& found) {
  const StateText state(found, "guard.");
  StepGuard g(options_);
  for (const auto& [name, values] : {std::pair("losses", &g.losses_), std::pair("norms", &g.norms_), std::pair("clipped", &g.clipped_)})
    for (const double x : state.numbers(name)) values->add(x);
  for (const auto& [name, steps] : {std::pair("bad", &g.bad_), std::pair("spikes", &g.spikes_)})
    for (const double x : state.numbers(name)) steps->push_back(static_cast<int64_t>(x));
  *this = g;
}

}  // namespace facet

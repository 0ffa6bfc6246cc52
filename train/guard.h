// Whether a step's figures can be trusted, before its update is made. Robust statistics (median, and the median of the distances from it) of
// recent steps: what is odd does not move them, and what is not finite never enters them, so that one bad step cannot blind the guard.
//
//   not finite   loss or gradient norm is NaN or infinite: no update. Ten such steps among a thousand: the run is lost
//   spike        the loss is above median + 6 deviations, or the norm above 10 medians: no update. Three among twenty steps: back to the
//                last checkpoint before them
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "train/checkpoint.h"

namespace facet {

/// The last values of something, oldest forgotten first.
class RecentValues {
 public:
  static constexpr int most = 128;
  void add(double x);
  int count() const { return count_; }
  double mean() const;    ///< 0 of none
  double median() const;  ///< of at least one
  double spread(double around) const;  ///< 1.4826 times the median distance: the standard deviation of a normal distribution
  std::vector<double> list() const;    ///< oldest first

 private:
  double median_of(std::array<double, most>) const;
  std::array<double, most> values_{};
  int count_ = 0, next_ = 0;
};

class StepGuard {
 public:
  struct Options {
    bool spikes = true;  ///< off: only what is not finite
    bool loss = true;    ///< losses of different steps can be compared (a surrogate's cannot)
    double clip = 0;     ///< the norm that gradients are clipped to; 0: none
  };
  enum class Verdict { good, not_finite, spike };
  struct Judgement {
    Verdict verdict = Verdict::good;
    std::string reason;  ///< "the loss is not finite", "loss 9.1 is above ..."
  };

  static constexpr int64_t spikes_among = 20;  ///< steps, of which three may not be spikes

  explicit StepGuard(const Options& o) : options_(o) {}
  /// Of step `step`, counted from 1, the figures before clipping; steps come in ascending order.
  Judgement judge(int64_t step, double loss, double norm);

  /// Why the run is lost, or "".
  std::string lost(int64_t step) const;
  /// The first of three spikes among the last twenty steps; 0: there were not so many.
  int64_t spikes_since(int64_t step) const;
  void forget_spikes() { spikes_.clear(); }
  /// Share of the recent steps whose gradient was clipped.
  double clipped() const { return clipped_.mean(); }

  void save(Snapshot&) const;
  void restore(const FoundCheckpoint&);

 private:
  std::string spike(double loss, double norm) const;

  Options options_;
  RecentValues losses_, norms_, clipped_;
  std::vector<int64_t> bad_, spikes_;  ///< steps, as far as they still count
};

}  // namespace facet

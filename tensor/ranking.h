// Tokens ranked by their scores, as far as somebody looks: what draw_ranked draws from (tensor/kernels/sample.h), and what a list of candidates
// shows.
#pragma once
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <span>

#include "tensor/kernels/sample.h"
#include "tensor/pool_vector.h"

namespace facet {

struct Scored {
  int32_t id;
  float score;
};

inline bool more_likely(const Scored& a, const Scored& b) { return a.score != b.score ? a.score > b.score : a.id < b.id; }

// Tokens from the most likely on. Nothing is ranked before somebody looks at it: a draw seldom needs more than a few of 262,144.
class Ranking {
 public:
  /// `list`: memory that rows share one after the other.
  Ranking(std::span<const float> scores, float top, pool_vector<Scored>& list) : scores_(scores), top_(top), list_(list) { list_.clear(); }

  /// The token in place i; null when there are fewer.
  const Scored* operator[](size_t i) {
    while (i >= sorted_) {
      if (sorted_ == list_.size() && !widen()) return nullptr;
      const auto begin = list_.begin() + static_cast<ptrdiff_t>(sorted_);
      sorted_ = std::min(list_.size(), std::max<size_t>(64, 2 * sorted_));
      const auto end = list_.begin() + static_cast<ptrdiff_t>(sorted_);
      if (end != list_.end()) std::nth_element(begin, end - 1, list_.end(), more_likely);
      std::sort(begin, end, more_likely);
    }
    return &list_[i];
  }

 private:
  // Takes the next band of scores in; false when all tokens are.
  bool widen() {
    while (band_ < 3) {
      constexpr float widths[] = {6, 20, INFINITY};
      const float below = floor_;
      floor_ = std::max(-FLT_MAX, top_ - widths[band_++]);
      const size_t before = list_.size();
      for (size_t begin = 0; begin < scores_.size(); begin += block) {
        const size_t end = std::min(begin + block, scores_.size());
        if (end == begin + block) {  // most blocks hold none; the compiler turns this question into vector code
          int any = 0;
          for (size_t i = begin; i < begin + block; ++i) any |= scores_[i] >= floor_;
          if (!any) continue;
        }
        for (size_t i = begin; i < end; ++i)
          if (scores_[i] >= floor_ && scores_[i] < below) list_.push_back({static_cast<int32_t>(i), scores_[i]});
      }
      if (list_.size() > before) return true;
    }
    return false;
  }

  static constexpr size_t block = 64;
  std::span<const float> scores_;
  float top_, floor_ = INFINITY;
  int band_ = 0;
  size_t sorted_ = 0;
  pool_vector<Scored>& list_;
};

// What is drawn from: the first `count` tokens of the ranking, whose weights add up to `mass`.
class Distribution {
 public:
  /// stats: of this row. `list`: memory that rows share one after the other.
  Distribution(std::span<const float> scores, const float* stats, const RankFilters& f, pool_vector<Scored>& list)
      : ranking_(scores, stats[0], list), top_(stats[0]), all_(stats[1]), mass_(all_) {
    if (f.top_k > 0 && static_cast<size_t>(f.top_k) < scores.size()) {
      const Scored* last = ranking_[static_cast<size_t>(f.top_k) - 1];
      if (last) keep([&, least = last->score](const Scored& t, double, double) { return t.score >= least; });
    }
    if (f.top_p < 1) keep([&, all = mass_](const Scored&, double, double before) { return before < f.top_p * all; });
    if (f.min_p > 0) keep([&](const Scored&, double w, double) { return w >= f.min_p; });  // the first one's weight is 1
  }

  /// The token in place i and its share; null when there are fewer.
  const Scored* token(size_t i) { return i < count_ ? ranking_[i] : nullptr; }
  double share(const Scored& t) const { return weight(t) / mass_; }
  size_t kept() const { return count_; }  ///< tokens left; more than there are when no filter looked
  double kept_share() const { return mass_ / all_; }  ///< of the mass of all tokens

 private:
  double weight(const Scored& t) const { return std::exp(static_cast<double>(t.score) - top_); }

  // Cuts the list where stays(token, weight, mass before it) first says no; one token stays in any case.
  template <class F>
  void keep(F&& stays) {
    size_t n = 0;
    double before = 0;
    for (const Scored* t; (t = token(n)); ++n) {
      const double w = weight(*t);
      if (n > 0 && !stays(*t, w, before)) break;
      before += w;
    }
    count_ = n, mass_ = before;
  }

  Ranking ranking_;
  double top_, all_, mass_;
  size_t count_ = SIZE_MAX;
};

}  // namespace facet

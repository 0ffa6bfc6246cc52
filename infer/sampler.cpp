#include "infer/sampler.h"

#include <algorithm>
#include <cfloat>
#include <cmath>

#include "tensor/error.h"
#include "tensor/kernels/logit_rows.h"
#include "tensor/pool_vector.h"

namespace facet {

void SamplingOptions::check() const {
  const auto range = [](const char* name, double value, double low, double high) {
    if (!(value >= low && value <= high))
      fail(Kind::usage, "--{}: {} is out of range; expected {} to {}", name, value, low, high);
  };
  range("temp", temperature, 0, 100);
  range("top-k", static_cast<double>(top_k), 0, 1e9);
  range("top-p", top_p, 0, 1);
  range("min-p", min_p, 0, 1);
  range("repetition-penalty", repetition_penalty, 1e-3, 1e3);
}

namespace {

struct Scored {
  int32_t id;
  float score;
};

bool more_likely(const Scored& a, const Scored& b) { return a.score != b.score ? a.score > b.score : a.id < b.id; }

// The largest logit and the sum of exp((x - top) / temperature) over the vocabulary.
struct Spread {
  float top;
  double total;
};

Spread spread_of(std::span<const float> x, double temperature) {
  float top = -INFINITY;
  for (float v : x) top = v > top ? v : top;
  const float inverse = static_cast<float>(std::min(1 / temperature, static_cast<double>(FLT_MAX)));
  const auto V = static_cast<int64_t>(x.size());
  const Tensor z = Tensor::empty({1, V}), stats = Tensor::empty({1, 4});
  float* to = z.out().as<float>();
  for (float v : x) *to++ = (v - top) * inverse;
  logit_stats(z.out(), Tensor::zeros({1}, DType::i32).view(), 0, 1, false, stats.out());
  const double total = stats.data<float>()[1];
  if (!std::isfinite(total))  // also when every logit is -inf: their differences are NaN
    fail(Kind::guard, "sampling: the {} logits hold NaN or infinity, or none is left to draw from; the model may have diverged", V);
  return {top, total};
}

// Logits after the filters that act on single tokens; the logits themselves when there is nothing to do.
std::span<const float> adjust(std::span<const float> logits, const SamplingOptions& o, std::span<const int32_t> history,
                              pool_vector<float>& space) {
  const bool penalty = o.repetition_penalty != 1 && !history.empty();
  if (!penalty && o.forbidden.empty()) return logits;
  space.assign(logits.begin(), logits.end());
  const auto inside = [&](int32_t id) { return id >= 0 && static_cast<size_t>(id) < logits.size(); };
  if (penalty) {
    const auto by = static_cast<float>(o.repetition_penalty);
    for (int32_t id : history) {  // from the logit itself: once, however often a token occurred
      if (!inside(id)) continue;
      const float x = logits[static_cast<size_t>(id)];
      space[static_cast<size_t>(id)] = x > 0 ? x / by : x * by;
    }
  }
  for (int32_t id : o.forbidden)
    if (inside(id)) space[static_cast<size_t>(id)] = -INFINITY;
  return space;
}

// Tokens from the most likely on. Nothing is ranked before somebody looks at it: a draw seldom needs more than a few of 262,144.
class Ranking {
 public:
  Ranking(std::span<const float> scores, float top, double temperature) : scores_(scores), top_(top), temperature_(temperature) {}

  /// The token in place i; null when there are fewer.
  const Scored* operator[](size_t i) {
    while (i >= sorted_) {
      if (sorted_ == list_.size() && !widen()) return nullptr;
      const auto begin = list_.begin() + static_cast<ptrdiff_t>(sorted_);
      sorted_ = std::min(list_.size(), std::max<size_t>(64, 2 * sorted_));
      const auto end = list_.begin() + static_cast<ptrdiff_t>(sorted_);
      std::nth_element(begin, end - 1, list_.end(), more_likely);
      std::sort(begin, end, more_likely);
    }
    return &list_[i];
  }

 private:
  // Takes the next band of scores in; false when all tokens are.
  bool widen() {
    while (band_ < 3) {
      const double widths[] = {6, 20, INFINITY};
      const float below = floor_;
      floor_ = std::max(-FLT_MAX, static_cast<float>(top_ - widths[band_++] * temperature_));
      const size_t before = list_.size();
      for (size_t i = 0; i < scores_.size(); ++i)
        if (scores_[i] >= floor_ && scores_[i] < below) list_.push_back({static_cast<int32_t>(i), scores_[i]});
      if (list_.size() > before) return true;
    }
    return false;
  }

  std::span<const float> scores_;
  float top_, floor_ = INFINITY;
  double temperature_;
  int band_ = 0;
  size_t sorted_ = 0;
  pool_vector<Scored> list_;
};

// What is drawn from: the first `count` tokens of the ranking, whose weights add up to `mass`.
class Distribution {
 public:
  Distribution(std::span<const float> scores, const Spread& s, const SamplingOptions& o)
      : ranking_(scores, s.top, o.temperature), top_(s.top), temperature_(o.temperature), mass_(s.total) {
    if (o.top_k > 0 && static_cast<size_t>(o.top_k) < scores.size()) {
      const Scored* last = ranking_[static_cast<size_t>(o.top_k) - 1];
      if (last) keep([&, least = last->score](const Scored& t, double, double) { return t.score >= least; });
    }
    if (o.top_p < 1) keep([&, all = mass_](const Scored&, double, double before) { return before < o.top_p * all; });
    if (o.min_p > 0) keep([&](const Scored&, double w, double) { return w >= o.min_p; });  // the first one's weight is 1
  }

  /// The token in place i and its share; null when there are fewer.
  const Scored* token(size_t i) { return i < count_ ? ranking_[i] : nullptr; }
  double share(const Scored& t) const { return weight(t) / mass_; }

 private:
  double weight(const Scored& t) const { return std::exp((static_cast<double>(t.score) - top_) / temperature_); }

  // Cuts the list where f(token, weight, mass before it) first says no; one token stays in any case.
  template <class F>
  void keep(F&& f) {
    size_t n = 0;
    double before = 0;
    for (const Scored* t; (t = token(n)); ++n) {
      const double w = weight(*t);
      if (n > 0 && !f(*t, w, before)) break;
      before += w;
    }
    count_ = n, mass_ = before;
  }

  Ranking ranking_;
  double top_, temperature_, mass_;
  size_t count_ = SIZE_MAX;
};

int32_t first_of(std::span<const float> x, float value) { return static_cast<int32_t>(std::find(x.begin(), x.end(), value) - x.begin()); }

}  // namespace

std::vector<Candidate> candidates(std::span<const float> logits, const SamplingOptions& o, std::span<const int32_t> history) {
  pool_vector<float> space;
  const auto scores = adjust(logits, o, history, space);
  const Spread spread = spread_of(scores, o.temperature > 0 ? o.temperature : 1);
  if (o.temperature == 0) return {{first_of(scores, spread.top), 1.0}};
  Distribution d(scores, spread, o);
  std::vector<Candidate> list;
  for (const Scored* t; (t = d.token(list.size()));) list.push_back({t->id, d.share(*t)});
  return list;
}

Draw draw(std::span<const float> logits, const SamplingOptions& o, Key key, std::span<const int32_t> history) {
  pool_vector<float> space;
  const auto scores = adjust(logits, o, history, space);
  const double t = o.temperature > 0 ? o.temperature : 1;
  const Spread spread = spread_of(scores, t);
  int32_t id = 0;
  if (o.temperature == 0) {
    id = first_of(scores, spread.top);
  } else {
    Distribution d(scores, spread, o);
    double u = uniform(key, {}).item();
    for (size_t i = 0; const Scored* token = d.token(i); ++i) {
      id = token->id;
      const double p = d.share(*token);
      if (u < p) break;
      u -= p;
    }
  }
  const Spread whole = scores.data() == logits.data() ? spread : spread_of(logits, t);
  return {id, static_cast<float>((static_cast<double>(logits[static_cast<size_t>(id)]) - whole.top) / t - std::log(whole.total))};
}

}  // namespace facet

#include "infer/sampler.h"

#include <algorithm>
#include <cfloat>
#include <cmath>

#include "tensor/error.h"
#include "tensor/kernels/logit_rows.h"
#include "tensor/parallel.h"
#include "tensor/pool_vector.h"
#include "tensor/profile.h"

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

// Of a row of scores z = logits / temperature.
struct Spread {
  float top, total;  ///< total: sum of exp(z - top)
  explicit Spread(const float* stats) : top(stats[0]), total(stats[1]) {}
  double log_sum() const { return static_cast<double>(top) + std::log(static_cast<double>(total)); }  // as loss heads compute it
};

// Colder than this is the same as greedy, and 1 / temperature must not overflow.
double scale_of(const SamplingOptions& o) { return o.temperature > 0 ? 1 / std::max(o.temperature, 1e-20) : 1; }

// Products become scores; their stats are logit_stats', the entropy included.
Tensor score(const Tensor& products, double cap, double scale) {
  const int64_t n = products.dim(0);
  const Tensor stats = Tensor::empty({n, 5});
  logit_stats(products.out(), Tensor::zeros({n}, DType::i32).view(), cap, scale, false, stats.out());
  for (int64_t r = 0; r < n; ++r)
    if (!std::isfinite(stats.data<float>()[static_cast<size_t>(5 * r + 1)]))  // also when all are -inf: their differences are NaN
      fail(Kind::guard, "sampling: the {} logits hold NaN or infinity, or none is left to draw from; the model may have diverged",
           products.dim(1));
  return stats;
}

bool alters(const SamplingOptions& o) { return o.repetition_penalty != 1 || !o.forbidden.empty(); }

// The filters that act on single tokens.
void alter(std::span<float> scores, const SamplingOptions& o, std::span<const int32_t> history) {
  const auto inside = [&](int32_t id) { return id >= 0 && static_cast<size_t>(id) < scores.size(); };
  if (o.repetition_penalty != 1) {
    const auto by = static_cast<float>(o.repetition_penalty);
    pool_vector<int32_t> seen(history.begin(), history.end());  // each token once, however often it occurred
    std::sort(seen.begin(), seen.end());
    seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
    for (int32_t id : seen) {
      if (!inside(id)) continue;
      float& x = scores[static_cast<size_t>(id)];
      x = x > 0 ? x / by : x * by;
    }
  }
  for (int32_t id : o.forbidden)
    if (inside(id)) scores[static_cast<size_t>(id)] = -INFINITY;
}

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
  Distribution(std::span<const float> scores, const Spread& s, const SamplingOptions& o, pool_vector<Scored>& list)
      : ranking_(scores, s.top, list), top_(s.top), mass_(s.total) {
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
  double weight(const Scored& t) const { return std::exp(static_cast<double>(t.score) - top_); }

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
  double top_, mass_;
  size_t count_ = SIZE_MAX;
};

int32_t first_of(std::span<const float> x, float value) { return static_cast<int32_t>(std::find(x.begin(), x.end(), value) - x.begin()); }

// Filters that need the tokens in order of their probability.
bool ranks(const SamplingOptions& o) { return o.top_k > 0 || o.top_p < 1 || o.min_p > 0; }

int32_t pick_ranked(std::span<const float> scores, const Spread& s, const SamplingOptions& o, Key key, pool_vector<Scored>& list) {
  Distribution d(scores, s, o, list);
  double u = uniform(key);
  int32_t id = 0;
  for (size_t i = 0; const Scored* token = d.token(i); ++i) {
    id = token->id;
    const double p = d.share(*token);
    if (u < p) break;
    u -= p;
  }
  return id;
}

// i32 [n], one token for each row of scores.
Tensor pick(const Tensor& scores, const Tensor& stats, const SamplingOptions& o, std::span<const DrawRow> rows) {
  const int64_t n = scores.dim(0), V = scores.dim(1);
  const Tensor ids = Tensor::empty({n}, DType::i32);
  if (o.temperature > 0 && !ranks(o)) {
    const Tensor u = Tensor::empty({n});
    std::ranges::transform(rows, u.out().as<float>(), [](const DrawRow& r) { return uniform(r.key); });
    logit_draw(scores.view(), stats.view(), u.view(), ids.out());
    return ids;
  }
  int32_t* id = ids.out().as<int32_t>();
  const float *z = scores.data<float>().data(), *s = stats.data<float>().data();
  parallel_for(n, std::clamp<int64_t>(4096 / V, 1, 16), 4 * V + 1000, [&](int64_t begin, int64_t end) {
    pool_vector<Scored> list;
    for (int64_t r = begin; r < end; ++r) {
      const std::span<const float> row(z + r * V, static_cast<size_t>(V));
      const Spread spread(s + 5 * r);
      id[r] = o.temperature == 0 ? first_of(row, spread.top) : pick_ranked(row, spread, o, rows[static_cast<size_t>(r)].key, list);
    }
  });
  return ids;
}

Tensor one_row(std::span<const float> logits) { return Tensor::from(logits, {1, static_cast<int64_t>(logits.size())}); }

}  // namespace

void draw(const Tensor& products, double cap, const SamplingOptions& o, std::span<const DrawRow> rows, std::span<Draw> draws) {
  const KernelScope scope("draw");
  const int64_t n = products.dim(0), V = products.dim(1);
  if (products.rank() != 2 || n != static_cast<int64_t>(rows.size()) || rows.size() != draws.size())
    fail(Kind::usage, "draw: products {}, {} rows, room for {} draws", to_string(products.shape()), rows.size(), draws.size());
  const Tensor stats = score(products, cap, scale_of(o));
  Tensor scores = products, scores_stats = stats;  // what is drawn from
  if (alters(o)) {
    scores = products.clone();
    float* z = scores.out().as<float>();
    for (int64_t r = 0; r < n; ++r) alter({z + r * V, static_cast<size_t>(V)}, o, rows[static_cast<size_t>(r)].history);
    scores_stats = score(scores, 0, 1);
  }
  const Tensor ids = pick(scores, scores_stats, o, rows);
  const float *z = products.data<float>().data(), *s = stats.data<float>().data();
  for (int64_t r = 0; r < n; ++r, z += V, s += 5) {
    const int32_t id = ids.data<int32_t>()[static_cast<size_t>(r)];
    draws[static_cast<size_t>(r)] = {id, static_cast<float>(z[id] - Spread(s).log_sum()), s[4]};
  }
}

Draw draw(std::span<const float> logits, const SamplingOptions& o, Key key, std::span<const int32_t> history) {
  Draw d;
  const DrawRow row{key, history};
  draw(one_row(logits), 0, o, {&row, 1}, {&d, 1});
  return d;
}

std::vector<Candidate> candidates(std::span<const float> logits, const SamplingOptions& o, std::span<const int32_t> history) {
  const Tensor scores = one_row(logits);
  Tensor stats = score(scores, 0, scale_of(o));
  if (alters(o)) {
    alter({scores.out().as<float>(), logits.size()}, o, history);
    stats = score(scores, 0, 1);
  }
  const Spread spread(stats.data<float>().data());
  if (o.temperature == 0) return {{first_of(scores.data<float>(), spread.top), 1.0}};
  pool_vector<Scored> room;
  Distribution d(scores.data<float>(), spread, o, room);
  std::vector<Candidate> list;
  for (const Scored* t; (t = d.token(list.size()));) list.push_back({t->id, d.share(*t)});
  return list;
}

}  // namespace facet

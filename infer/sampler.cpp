#include "infer/sampler.h"

#include <algorithm>
#include <cmath>

#include "tensor/error.h"

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
  double score;
};

bool more_likely(const Scored& a, const Scored& b) { return a.score != b.score ? a.score > b.score : a.id < b.id; }

// Softmax of scores relative to the largest.
double normalise(std::vector<Scored>& list, std::vector<double>& probability) {
  double top = -INFINITY, total = 0;
  for (const Scored& s : list) top = std::max(top, s.score);
  probability.resize(list.size());
  for (size_t i = 0; i < list.size(); ++i) total += probability[i] = std::exp(list[i].score - top);
  for (double& p : probability) p /= total;
  return total;
}

std::vector<Scored> scores(std::span<const float> logits, const SamplingOptions& o, std::span<const int32_t> history) {
  std::vector<Scored> list(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) list[i] = {static_cast<int32_t>(i), logits[i]};
  if (o.repetition_penalty != 1) {
    for (int32_t id : history) {  // each token once, however often it occurred
      if (id < 0 || id >= static_cast<int32_t>(logits.size())) continue;
      const double x = logits[static_cast<size_t>(id)];
      list[static_cast<size_t>(id)].score = x > 0 ? x / o.repetition_penalty : x * o.repetition_penalty;
    }
  }
  for (int32_t id : o.forbidden)
    if (id >= 0 && id < static_cast<int32_t>(logits.size())) list[static_cast<size_t>(id)].score = -INFINITY;
  std::erase_if(list, [](const Scored& s) { return !(s.score > -INFINITY); });  // NaN goes too
  if (list.empty()) fail(Kind::guard, "sampling: no finite logit is left among {}; the model may have diverged", logits.size());
  return list;
}

}  // namespace

std::vector<Candidate> candidates(std::span<const float> logits, const SamplingOptions& o, std::span<const int32_t> history) {
  std::vector<Scored> list = scores(logits, o, history);
  if (o.temperature == 0) return {{std::min_element(list.begin(), list.end(), more_likely)->id, 1.0}};
  for (Scored& s : list) s.score /= o.temperature;
  if (o.top_k > 0 && static_cast<size_t>(o.top_k) < list.size()) {
    auto kth = list.begin() + (o.top_k - 1);
    std::nth_element(list.begin(), kth, list.end(), more_likely);
    const double least = kth->score;
    std::erase_if(list, [least](const Scored& s) { return s.score < least; });
  }
  std::sort(list.begin(), list.end(), more_likely);
  std::vector<double> p;
  normalise(list, p);
  if (o.top_p < 1) {
    double before = 0;
    size_t keep = 0;
    while (keep < list.size() && (keep == 0 || before < o.top_p)) before += p[keep++];
    list.resize(keep);
    normalise(list, p);
  }
  if (o.min_p > 0) {
    size_t keep = 1;
    while (keep < list.size() && p[keep] >= o.min_p * p[0]) ++keep;
    list.resize(keep);
    normalise(list, p);
  }
  std::vector<Candidate> r(list.size());
  for (size_t i = 0; i < r.size(); ++i) r[i] = {list[i].id, p[i]};
  return r;
}

Draw draw(std::span<const float> logits, const SamplingOptions& o, Key key, std::span<const int32_t> history) {
  const std::vector<Candidate> list = candidates(logits, o, history);
  size_t pick = 0;
  if (list.size() > 1) {
    double u = uniform(key, {}).item();
    while (pick + 1 < list.size() && u >= list[pick].probability) u -= list[pick++].probability;
  }
  const double t = o.temperature > 0 ? o.temperature : 1;
  double top = -INFINITY, total = 0;
  for (float x : logits) top = std::max(top, static_cast<double>(x));
  for (float x : logits) total += std::exp((x - top) / t);
  const int32_t id = list[pick].id;
  return {id, static_cast<float>((logits[static_cast<size_t>(id)] - top) / t - std::log(total))};
}

}  // namespace facet

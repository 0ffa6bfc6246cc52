#include "infer/sampler.h"

#include <algorithm>
#include <cmath>

#include "tensor/error.h"
#include "tensor/kernels/logit_rows.h"
#include "tensor/kernels/sample.h"
#include "tensor/pool_vector.h"
#include "tensor/profile.h"
#include "tensor/ranking.h"

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

// Colder than this is the same as greedy, and 1 / temperature must not overflow.
double scale_of(const SamplingOptions& o) { return o.temperature > 0 ? 1 / std::max(o.temperature, 1e-20) : 1; }

// Products become scores; their stats are logit_stats', the entropy included.
Tensor score(const Tensor& products, double cap, double scale) {
  const int64_t n = products.dim(0);
  const Tensor stats = Tensor::empty({n, 5}, DType::f32, products.device());
  logit_stats(products.out(), Tensor::zeros({n}, DType::i32, products.device()).view(), cap, scale, false, stats.out());
  return stats;
}

[[noreturn]] void nothing_to_draw(int64_t V) {  // also when all are -inf: their differences are NaN
  fail(Kind::guard, "sampling: the {} logits hold NaN or infinity, or none is left to draw from; the model may have diverged", V);
}

bool alters(const SamplingOptions& o) { return o.repetition_penalty != 1 || !o.forbidden.empty(); }

Tensor uploaded(const pool_vector<int32_t>& ids, Device device) {
  return Tensor::from(std::span<const int32_t>(ids), {static_cast<int64_t>(ids.size())}).to(device);
}

// The filters that act on single tokens.
void alter(const Tensor& scores, const SamplingOptions& o, std::span<const DrawRow> rows) {
  if (o.repetition_penalty != 1) {
    pool_vector<int32_t> row, id;
    for (size_t r = 0; r < rows.size(); ++r) {
      const auto begin = static_cast<ptrdiff_t>(id.size());
      id.insert(id.end(), rows[r].history.begin(), rows[r].history.end());  // each token once, however often it occurred
      std::sort(id.begin() + begin, id.end());
      id.erase(std::unique(id.begin() + begin, id.end()), id.end());
      row.resize(id.size(), static_cast<int32_t>(r));
    }
    if (!id.empty()) penalize(scores.out(), uploaded(row, scores.device()).view(), uploaded(id, scores.device()).view(), o.repetition_penalty);
  }
  if (!o.forbidden.empty()) forbid(scores.out(), Tensor::from(o.forbidden, {static_cast<int64_t>(o.forbidden.size())}).to(scores.device()).view());
}

// Filters that need the tokens in order of their probability.
bool ranks(const SamplingOptions& o) { return o.top_k > 0 || o.top_p < 1 || o.min_p > 0; }
RankFilters filters_of(const SamplingOptions& o) { return {o.top_k, o.top_p, o.min_p}; }

// i32 [n], one token for each row of scores.
Tensor pick(const Tensor& scores, const Tensor& stats, const SamplingOptions& o, std::span<const DrawRow> rows) {
  const int64_t n = scores.dim(0);
  const Tensor ids = Tensor::empty({n}, DType::i32, scores.device());
  if (o.temperature == 0) {
    first_largest(scores.view(), stats.view(), ids.out());
    return ids;
  }
  const Tensor numbers = Tensor::empty({n});
  std::ranges::transform(rows, numbers.out().as<float>(), [](const DrawRow& r) { return uniform(r.key); });
  const Tensor u = numbers.to(scores.device());
  if (ranks(o)) draw_ranked(scores.view(), stats.view(), u.view(), filters_of(o), ids.out());
  else logit_draw(scores.view(), stats.view(), u.view(), ids.out());
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
    alter(scores, o, rows);
    scores_stats = score(scores, 0, 1);
  }
  const Tensor ids = pick(scores, scores_stats, o, rows), told = Tensor::empty({n, 4}, DType::f64, products.device());
  tell_draws(products.view(), stats.view(), scores_stats.view(), ids.view(), told.out());
  const Tensor here = told.to(Device::cpu);  // all that leaves the device
  const double* r = here.data<double>().data();
  for (Draw& d : draws) {
    if (r[3] == 0) nothing_to_draw(V);
    d = {static_cast<int32_t>(r[0]), static_cast<float>(r[1]), static_cast<float>(r[2])};
    r += 4;
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
  const auto spread = [&](double scale) {
    const Tensor stats = score(scores, 0, scale);
    if (!std::isfinite(stats.at({0, 1}))) nothing_to_draw(scores.dim(1));
    return stats;
  };
  Tensor stats = spread(scale_of(o));
  if (alters(o)) {
    const DrawRow row{{}, history};
    alter(scores, o, {&row, 1});
    stats = spread(1);
  }
  if (o.temperature == 0) {
    const Tensor id = Tensor::empty({1}, DType::i32);
    first_largest(scores.view(), stats.view(), id.out());
    return {{id.data<int32_t>()[0], 1.0}};
  }
  pool_vector<Scored> room;
  Distribution d(scores.data<float>(), stats.data<float>().data(), filters_of(o), room);
  std::vector<Candidate> list;
  for (const Scored* t; (t = d.token(list.size()));) list.push_back({t->id, d.share(*t)});
  return list;
}

}  // namespace facet

#include "infer/sampler.h"

#include <algorithm>
#include <cmath>

#include "tensor/error.h"
#include "tensor/gpu/waits.h"
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

bool greedy(const SamplingOptions& o) { return o.temperature == 0; }
bool alters(const SamplingOptions& o) { return o.repetition_penalty != 1 || !o.forbidden.empty(); }

template <class List>
Tensor uploaded(const List& ids, Device device) {
  return Tensor::from(std::span<const int32_t>(ids), {static_cast<int64_t>(ids.size())}).to(device);
}

// Filters that need the tokens in order of their probability.
bool ranks(const SamplingOptions& o) { return o.top_k > 0 || o.top_p < 1 || o.min_p > 0; }
RankFilters filters_of(const SamplingOptions& o) { return {o.top_k, o.top_p, o.min_p}; }

// What the filters left of the scores that draw() made.
void tell_cut(const Tensor& scores, const SamplingOptions& o, std::span<const DrawRow> rows, std::span<Draw> draws) {
  if (alters(o)) Sampler(o, scores.device()).alter(scores, rows);
  const Tensor stats = score(scores, 0, 1).to(Device::cpu), here = scores.to(Device::cpu);
  const auto V = static_cast<size_t>(scores.dim(1));
  pool_vector<Scored> room;
  for (size_t r = 0; r < draws.size(); ++r) {
    const Distribution d(here.data<float>().subspan(r * V, V), stats.data<float>().data() + 5 * r, filters_of(o), room);
    draws[r].kept = static_cast<int32_t>(std::min(d.kept(), V));
    draws[r].mass = static_cast<float>(d.kept_share());
  }
}

Tensor one_row(std::span<const float> logits) { return Tensor::from(logits, {1, static_cast<int64_t>(logits.size())}); }

}  // namespace

Sampler::Sampler(const SamplingOptions& o, Device device) : options_(o) {
  if (!o.forbidden.empty()) forbidden_ = uploaded(o.forbidden, device);
}

void Sampler::alter(const Tensor& scores, std::span<const DrawRow> rows) const {
  if (options_.repetition_penalty != 1) {
    pool_vector<int32_t> row, id;
    for (size_t r = 0; r < rows.size(); ++r) {
      const auto begin = static_cast<ptrdiff_t>(id.size());
      id.insert(id.end(), rows[r].history.begin(), rows[r].history.end());  // each token once, however often it occurred
      std::sort(id.begin() + begin, id.end());
      id.erase(std::unique(id.begin() + begin, id.end()), id.end());
      row.resize(id.size(), static_cast<int32_t>(r));
    }
    const Device device = scores.device();
    if (!id.empty()) penalize(scores.out(), uploaded(row, device).view(), uploaded(id, device).view(), options_.repetition_penalty);
  }
  if (forbidden_) forbid(scores.out(), forbidden_.view());
}

// i32 [n], one token for each row of scores.
Tensor Sampler::pick(const Tensor& scores, const Tensor& stats, const Tensor& u) const {
  const Tensor ids = Tensor::empty({scores.dim(0)}, DType::i32, scores.device());
  if (greedy(options_)) first_largest(scores.view(), stats.view(), ids.out());
  else if (ranks(options_)) draw_ranked(scores.view(), stats.view(), u.view(), filters_of(options_), ids.out());
  else logit_draw(scores.view(), stats.view(), u.view(), ids.out());
  return ids;
}

void Sampler::operator()(const Tensor& products, double cap, const Tensor& u, std::span<const DrawRow> rows, Out told) const {
  const Tensor stats = score(products, cap, scale_of(options_));
  Tensor scores = products, scores_stats = stats;  // what is drawn from
  if (alters(options_)) {
    scores = products.clone();
    alter(scores, rows);
    scores_stats = score(scores, 0, 1);
  }
  tell_draws(products.view(), stats.view(), scores_stats.view(), pick(scores, scores_stats, u).view(), told);
}

Draw read_draw(const double* told, int64_t V) {
  if (told[3] == 0) nothing_to_draw(V);
  return {static_cast<int32_t>(told[0]), static_cast<float>(told[1]), static_cast<float>(told[2])};
}

void draw(const Tensor& products, double cap, const SamplingOptions& o, std::span<const DrawRow> rows, std::span<Draw> draws) {
  const KernelScope scope("draw");
  if (products.rank() != 2 || products.dim(0) != static_cast<int64_t>(rows.size()) || rows.size() != draws.size())
    fail(Kind::usage, "draw: products {}, {} rows, room for {} draws", to_string(products.shape()), rows.size(), draws.size());
  const int64_t n = products.dim(0), V = products.dim(1);
  Tensor u;
  if (!greedy(o)) {
    u = Tensor::empty({n});
    std::ranges::transform(rows, u.out().as<float>(), [](const DrawRow& r) { return uniform(r.key); });
    u = u.to(products.device());
  }
  const Tensor told = Tensor::empty({n, 4}, DType::f64, products.device());
  Sampler(o, products.device())(products, cap, u, rows, told.out());
  const gpu::MaySync wait;  // for the tokens that are drawn
  const Tensor here = told.to(Device::cpu);  // all that leaves the device
  for (int64_t r = 0; r < n; ++r) draws[static_cast<size_t>(r)] = read_draw(here.data<double>().data() + 4 * r, V);
  if (o.tell_cut && ranks(o) && !greedy(o)) tell_cut(products, o, rows, draws);
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
    Sampler(o, Device::cpu).alter(scores, {&row, 1});
    stats = spread(1);
  }
  if (greedy(o)) {
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

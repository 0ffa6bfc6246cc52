#include "infer/decode_loop.h"

#include <algorithm>

#include "autograd/ops/linear_loss.h"
#include "nn/tap.h"
#include "tensor/gpu/graph.h"
#include "tensor/gpu/waits.h"
#include "tensor/kernels/decode_rows.h"
#include "tensor/kernels/gemm.h"

namespace facet {
namespace {

constexpr int eager_steps = 2;       // they fill the pool and let products choose their algorithms
constexpr size_t most_entries = 64;  // graphs of some hundred nodes
constexpr int64_t most_steps = 64;   // room in the log

/// Calls f(begin, end) for blocks of rows whose logits fit into memory.
template <class F>
void for_each_block(const LanguageModel& model, const Tensor& h, F f) {
  const int64_t n = h.dim(0), block = linear_loss_chunk(n, model.vocab(), h.device());
  for (int64_t begin = 0; begin < n; begin += block) f(begin, std::min(n, begin + block));
}

}  // namespace

Tensor head_products(const LanguageModel& model, const Tensor& h) {
  const Tensor w = model.head().value().detach(), rows = h.detach().dense();
  const Tensor y = Tensor::empty({rows.dim(0), w.dim(0)}, acc_dtype(rows.dtype()), rows.device());
  const View views[] = {w.view()};
  const Out outs[] = {y.out()};
  linear(rows.view(), views, outs);
  return y;
}

void draw_next(const LanguageModel& model, const Tensor& h, const SamplingOptions& o, std::span<const DrawRow> rows, std::span<Draw> draws) {
  for_each_block(model, h, [&](int64_t begin, int64_t end) {
    const auto at = static_cast<size_t>(begin), count = static_cast<size_t>(end - begin);
    draw(head_products(model, h.slice(0, begin, end)).to(DType::f32), model.final_cap(), o, rows.subspan(at, count), draws.subspan(at, count));
  });
}

struct DecodeLoop::Entry {
  int64_t first, rows;
  int seen = 0;
  Tensor state;  // i32 [row_fields, rows]
  Tensor log;    // f64 [most_steps, rows, 4]
  gpu::Graph graph;
};

DecodeLoop::DecodeLoop(LanguageModel& m, KvCache& c) : model_(&m), cache_(&c) {}
DecodeLoop::~DecodeLoop() = default;

bool DecodeLoop::alone(const SamplingOptions& o) const { return model_->device() == Device::gpu && !tapping() && o.repetition_penalty == 1 && !o.tell_cut; }

DecodeLoop::Entry& DecodeLoop::entry(int64_t first, int64_t rows) {
  const auto found = std::ranges::find_if(entries_, [&](const auto& e) { return e->first == first && e->rows == rows; });
  if (found != entries_.end()) return **found;
  if (entries_.size() >= most_entries) entries_.erase(entries_.begin());
  entries_.push_back(std::make_unique<Entry>());
  Entry& e = *entries_.back();
  e.first = first, e.rows = rows;
  e.state = Tensor::empty({row_fields, rows}, DType::i32, Device::gpu);
  e.log = Tensor::empty({most_steps, rows, 4}, DType::f64, Device::gpu);
  return e;
}

void DecodeLoop::look_at_model() {
  if (model_->device() == Device::cpu) return;
  std::vector<const void*> now;
  for (const Parameter* p : parameters(*model_)) now.push_back(p->value().view().data);
  if (now != parameters_) entries_.clear();
  parameters_ = std::move(now);
}

void DecodeLoop::set_rules(const DrawRules& rules, Counters counters) {
  if (sampler_ && rules == rules_ && counters == counters_) return;
  entries_.clear();
  rules_ = rules, counters_ = counters;
  sampler_.emplace(rules.sampling, Device::gpu);
  stop_ = rules.stop.empty() ? Tensor{} : Tensor::from(rules.stop, {static_cast<int64_t>(rules.stop.size())}).to(Device::gpu);
}

// Launches only: what happens here is recorded.
void DecodeLoop::step(const Entry& e) const {
  const auto field = [&](int64_t f) { return e.state.slice(0, f, f + 1).reshape({e.rows, 1}); };
  const Tensor h = model_->hidden({field(row_token), field(row_position), {}}, cache_).reshape({e.rows, -1});  // [n, D]
  const Tensor u = Tensor::empty({e.rows}, DType::f32, Device::gpu), told = Tensor::empty({e.rows, 4}, DType::f64, Device::gpu);
  row_uniforms(e.state.view(), counters_ == Counters::original, u.out());
  for_each_block(*model_, h, [&](int64_t begin, int64_t end) {
    (*sampler_)(head_products(*model_, h.slice(0, begin, end)), model_->final_cap(), u.slice(0, begin, end), {}, told.slice(0, begin, end).out());
  });
  advance_rows(told.view(), stop_ ? stop_.view() : View{}, e.state.out(), e.log.out());
}

void DecodeLoop::step_with_host(std::span<const Row> rows, const SamplingOptions& o) {
  const auto n = static_cast<int64_t>(rows.size());
  const Tensor ids = Tensor::empty({n, 1}, DType::i32), positions = Tensor::empty({n, 1}, DType::i32);
  int32_t *id = ids.out().as<int32_t>(), *position = positions.out().as<int32_t>();
  pool_vector<DrawRow> draw_rows;
  for (const Row& r : rows) {
    *id++ = r.token, *position++ = static_cast<int32_t>(r.position);
    draw_rows.push_back({fold_in(r.key, static_cast<uint32_t>(r.position + 1)), r.history});
  }
  draws_.resize(rows.size());
  draw_next(*model_, model_->hidden({ids, positions, {}}, cache_).reshape({n, -1}), o, draw_rows, draws_);
}

int64_t DecodeLoop::start(int64_t first, std::span<const Row> rows, const DrawRules& rules, int64_t steps) {
  const NoGrad off;
  started_ = nullptr;
  if (!alone(rules.sampling)) {
    step_with_host(rows, rules.sampling);
    return 1;
  }
  set_rules(rules, rows.front().key.counters);
  const auto n = static_cast<int64_t>(rows.size());
  const Tensor state = Tensor::zeros({row_fields, n}, DType::i32);
  int64_t most = 1;
  for (int32_t* s = state.out().as<int32_t>(); const Row& r : rows) {
    s[row_token * n] = r.token;
    s[row_position * n] = static_cast<int32_t>(r.position);
    s[row_last * n] = static_cast<int32_t>(r.position + r.most - 1);
    s[row_key_hi * n] = static_cast<int32_t>(r.key.hi);
    s[row_key_lo * n] = static_cast<int32_t>(r.key.lo);
    most = std::max(most, r.most);
    ++s;
  }
  // What a caller refuses of these tokens has overwritten no more of a ring than a chunk may.
  steps_ = std::clamp<int64_t>(steps, 1, std::min({most, most_steps, cache_->chunk}));
  Entry& e = entry(first, n);
  e.state.set(state);
  cache_->reach_all();  // every time: other rows may have been selected in between
  model_->reserve(cache_->capacity);
  for (int64_t s = 0; s < steps_; ++s) {
    if (e.seen < eager_steps || !gpu::records_graphs()) {
      ++e.seen;
      step(e);
      continue;
    }
    if (!e.graph.recorded()) {
      if (!arena_) arena_ = std::make_shared<gpu::Arena>();
      e.graph.record(arena_, [&] { step(e); });
    }
    e.graph.replay();
    ++replays_;
  }
  started_ = &e;
  return steps_;
}

std::span<const Draw> DecodeLoop::draws() {
  if (!started_) return draws_;
  const gpu::MaySync wait;  // for the tokens of all steps since the last look
  const Tensor here = std::exchange(started_, nullptr)->log.slice(0, 0, steps_).to(Device::cpu);
  const double* told = here.data<double>().data();
  draws_.resize(static_cast<size_t>(here.numel() / 4));
  for (Draw& d : draws_) {
    d = told[0] < 0 ? Draw{-1, 0, 0} : read_draw(told, model_->vocab());
    told += 4;
  }
  return draws_;
}

}  // namespace facet

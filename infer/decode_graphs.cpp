#include "infer/decode_graphs.h"

#include <algorithm>

#include "nn/tap.h"
#include "tensor/gpu/graph.h"

namespace facet {
namespace {
constexpr int eager_steps = 2;
constexpr size_t most_entries = 64;  // each keeps the activations of one token a row
}  // namespace

struct DecodeGraphs::Entry {
  int64_t first, rows;
  int seen = 0;
  Tokens tokens;
  Tensor h;
  gpu::Graph graph;
};

DecodeGraphs::DecodeGraphs(LanguageModel& m, KvCache& c) : model_(&m), cache_(&c) {}
DecodeGraphs::~DecodeGraphs() = default;
DecodeGraphs::DecodeGraphs(DecodeGraphs&&) noexcept = default;

Tensor DecodeGraphs::hidden(const Tokens& tokens, int64_t first) {
  if (model_->device() == Device::cpu || tapping()) return model_->hidden(tokens, cache_);
  const int64_t rows = tokens.ids.dim(0);
  auto found = std::find_if(entries_.begin(), entries_.end(), [&](const auto& e) { return e->first == first && e->rows == rows; });
  if (found == entries_.end()) {
    if (entries_.size() >= most_entries) return model_->hidden(tokens, cache_);
    found = entries_.insert(entries_.end(), std::make_unique<Entry>());
    (*found)->first = first, (*found)->rows = rows;
  }
  Entry& e = **found;
  if (e.seen++ < eager_steps) return model_->hidden(tokens, cache_);
  cache_->reach_all();  // every step: other rows may have been selected in between
  if (!e.graph.recorded()) {
    model_->reserve(cache_->capacity);
    e.tokens = tokens.on(Device::gpu, model_->vocab());
    e.graph.record(std::make_shared<gpu::Arena>(), [&] { e.h = model_->hidden(e.tokens, cache_); });
  } else {
    tokens.check(model_->vocab());
    e.tokens.ids.set(tokens.ids);
    e.tokens.positions.set(tokens.positions);
  }
  e.graph.replay();
  ++replays_;
  return e.h;
}

}  // namespace facet

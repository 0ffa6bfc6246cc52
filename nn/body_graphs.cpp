#include "nn/body_graphs.h"

#include <algorithm>

#include "autograd/anomaly.h"
#include "autograd/ops.h"
#include "autograd/recorded_dropout.h"
#include "autograd/recorded_loss.h"
#include "nn/dropout.h"
#include "nn/tap.h"
#include "tensor/gpu/graph.h"

namespace facet {
namespace {
constexpr int eager_passes = 2;     // they fill the pool and let products choose their algorithms
constexpr size_t most_shapes = 1;   // each keeps the memory of its pass beside what eager passes of other shapes take
}  // namespace

struct BodyGraphs::Entry {
  Shape shape;
  bool segments, plain, drops;
  int seen = 0;
  Tokens tokens;            // what the graphs read
  Tensor key;               // of a DropoutScope, its words
  Tensor h, leaf, dh;       // dh: what the backward graph reads
  std::shared_ptr<gpu::Arena> arena;
  gpu::Graph forward, backward;
  RecordedLoss loss;
  struct Gradient {
    const void* where;     // when the passes were recorded
    bool written = false;  // by the backward pass
  };
  std::vector<Gradient> gradients;  // of the parameters that train, in their order

  bool recorded() const { return forward.recorded(); }
  void forget() {
    forward.reset(), backward.reset(), loss.reset();
    h = leaf = dh = {};
    arena.reset();
  }
};

namespace {
/// While one lives, the tape says of gradients what was written since.
struct WrittenSince {
  const std::vector<Parameter*>& list;
  std::vector<bool> before;
  explicit WrittenSince(const std::vector<Parameter*>& l) : list(l) {
    for (Parameter* p : list) before.push_back(static_cast<bool>(p->grad())), p->set_grad_written(false);
  }
  WrittenSince(const WrittenSince&) = delete;
  ~WrittenSince() {
    for (size_t i = 0; i < list.size(); ++i) list[i]->set_grad_written(before[i]);
  }
};
}  // namespace

BodyGraphs::BodyGraphs(LanguageModel& m) : model_(m) {}
BodyGraphs::~BodyGraphs() = default;

BodyGraphs::Entry& BodyGraphs::entry(const Tokens& t) {
  const bool plain = t.is_plain(), drops = dropout_key().has_value();  // of these, what is recorded is right for its own kind alone
  const auto same = [&](const auto& e) {
    return e->shape == t.ids.shape() && e->segments == static_cast<bool>(t.segments) && e->plain == plain && e->drops == drops;
  };
  const auto found = std::find_if(entries_.begin(), entries_.end(), same);
  if (found != entries_.end()) return **found;
  entries_.push_back(std::make_unique<Entry>());
  entries_.back()->shape = t.ids.shape();
  entries_.back()->segments = static_cast<bool>(t.segments);
  entries_.back()->plain = plain;
  entries_.back()->drops = drops;
  return *entries_.back();
}

std::vector<Parameter*> BodyGraphs::trained() const {
  std::vector<Parameter*> list = parameters(model_);
  std::erase_if(list, [](const Parameter* p) { return !p->trains(); });
  return list;
}

bool BodyGraphs::gradients_moved(const Entry& e) const {
  return !std::ranges::equal(trained(), e.gradients, [](const Parameter* p, const Entry::Gradient& g) { return p->grad_memory().view().data == g.where; });
}

void BodyGraphs::record(Entry& e) {
  e.arena = std::make_shared<gpu::Arena>();
  e.gradients.clear();
  for (Parameter* p : trained()) {
    if (!p->grad_memory()) p->zero_grad();
    e.gradients.push_back({p->grad_memory().view().data});
  }
  e.forward.record(e.arena, [&] {
    const DropoutScope scope(e.drops ? std::optional(DropoutKey(e.key)) : std::nullopt);
    e.h = model_.hidden(e.tokens);
  });
  e.leaf = leaf(e.h, e.h.dtype());
  if (tracing(e.h)) e.dh = Tensor::empty(e.h.shape(), e.h.dtype(), Device::gpu);
  record_backward(e);  // at once: the tape belongs to the tokens of now, which may have no row that carries loss
}

Tensor BodyGraphs::forward(const Tokens& tokens) {
  now_ = nullptr, due_ = false;
  ++passes_;
  if (model_.device() == Device::cpu || !gpu::records_graphs() || !grad_enabled() || tapping() || anomaly_watch()) return model_.hidden(tokens);
  Entry& e = entry(tokens);
  if (e.seen++ < eager_passes) return model_.hidden(tokens);
  const bool recorded = e.recorded();
  if (recorded && gradients_moved(e)) {
    e.seen = 0;
    e.forget();
    return model_.hidden(tokens);
  }
  if (!recorded) {
    const auto full = std::count_if(entries_.begin(), entries_.end(), [](const auto& x) { return x->recorded(); });
    if (static_cast<size_t>(full) >= most_shapes) return model_.hidden(tokens);
    e.tokens = tokens.on(Device::gpu, model_.vocab());
    if (e.drops) e.key = words_of(dropout_key()->key).to(Device::gpu);
    try {
      record(e);
    } catch (...) {
      e.forget();  // both passes or none
      throw;
    }
  } else {
    tokens.check(model_.vocab());
    e.tokens.ids.set(tokens.ids), e.tokens.positions.set(tokens.positions);
    if (tokens.segments) e.tokens.segments.set(tokens.segments);
    if (e.drops) e.key.set(words_of(dropout_key()->key));
  }
  e.forward.replay();
  ++replays_;
  clear_grad(e.leaf);
  now_ = &e, due_ = true;
  return e.leaf;
}

void BodyGraphs::backward() {
  if (!std::exchange(due_, false)) return;
  Entry& e = *now_;
  const Tensor dh = grad_of(e.leaf);
  if (!dh || !e.dh) return;  // no row carried loss, or nothing before h trains
  e.dh.set(dh);
  clear_grad(e.leaf);
  replay_backward(e);
}

// The tape runs once, here, so this is when its sinks tell which gradients the graph writes.
void BodyGraphs::record_backward(Entry& e) {
  const std::vector<Parameter*> list = trained();
  const WrittenSince since(list);
  e.backward.record(e.arena, [&] {
    if (e.dh) facet::backward(e.h, e.dh);
  });
  for (size_t i = 0; i < list.size(); ++i) e.gradients[i].written = static_cast<bool>(list[i]->grad());
}

void BodyGraphs::replay_backward(Entry& e) {
  e.backward.replay();
  const std::vector<Parameter*> list = trained();
  for (size_t i = 0; i < list.size(); ++i)
    if (e.gradients[i].written) list[i]->set_grad_written(true);
}

Tensor BodyGraphs::run(const HeadTask& task, const Tensor& h) {
  if (!now_) return task.run_backward(h, model_.head().value());
  if (!std::exchange(due_, false)) fail(Kind::usage, "training pass: its backward pass has been run; make another pass for another loss");
  Entry& e = *now_;
  if (task.rows.empty()) return task.loss.side;
  const Parameter& head = model_.head();
  const Tensor answers = task.answers(e.loss.run(task, e.dh, head.grad_memory()));
  if (head.trains()) set_grad_written(head.value(), true);
  replay_backward(e);
  return answers;
}

Tensor BodyGraphs::values(const HeadTask& task) { return now_ && !task.rows.empty() ? task.answers(now_->loss.run(task)) : task.values(); }

int64_t BodyGraphs::loss_replays() const {
  int64_t n = 0;
  for (const auto& e : entries_) n += e->loss.replays();
  return n;
}

BodyGraphs* TrainingPass::graphs() const {
  if (graphs_ && graphs_->passes() != number_)
    fail(Kind::usage, "training pass: another one was made since, whose values took the place of this one's; finish a pass before the next is made");
  return graphs_;
}

Tensor TrainingPass::run(const HeadTask& task) const {
  BodyGraphs* const g = graphs();
  return g ? g->run(task, h) : task.run_backward(h, model_.head().value());
}

Tensor TrainingPass::values(const HeadTask& task) const {
  BodyGraphs* const g = graphs();
  return g ? g->values(task) : task.values();
}

double TrainingPass::cross_entropy(const Tensor& labels, const Tensor& weights, const CrossEntropyOptions& options) const {
  return total_loss(run(cross_entropy_task(h, model_.head().value(), labels, weights, options)));
}

}  // namespace facet

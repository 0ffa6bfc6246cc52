#include "infer/generator.h"

#include <algorithm>
#include <numeric>

#include "autograd/ops.h"
#include "tensor/pool_vector.h"

namespace facet {

const char* name_of(Stop s) {
  switch (s) {
    case Stop::running: return "running";
    case Stop::stop_token: return "stop";
    case Stop::length: return "length";
    case Stop::context: return "context";
    default: return "caller";
  }
}

Generator::Generator(LanguageModel& model, int64_t rows, int64_t capacity, int64_t chunk)
    : model_(model),
      cache_(model.new_cache(rows, capacity > 0 ? capacity : model.context(), chunk)),
      graphs_(model, cache_),
      length_(static_cast<size_t>(rows), 0),
      furthest_(static_cast<size_t>(rows), 0),
      slot_(static_cast<size_t>(rows)),
      logits_(static_cast<size_t>(rows)) {
  std::iota(slot_.begin(), slot_.end(), 0);
}

void Generator::feed(int64_t row, std::vector<int32_t> tokens) {
  const std::vector<int32_t> list[] = {std::move(tokens)};
  feed(std::span<const int64_t>(&row, 1), list);
}

void Generator::check(std::span<const int64_t> rows, std::span<const std::vector<int32_t>> tokens) const {
  if (rows.size() != tokens.size()) fail(Kind::usage, "generate: {} rows, tokens for {}", rows.size(), tokens.size());
  std::vector<bool> named(length_.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    const int64_t row = rows[i];
    const auto n = static_cast<int64_t>(tokens[i].size());
    if (row < 0 || row >= this->rows()) fail(Kind::usage, "generate: row {} does not exist; there are {}", row, this->rows());
    if (named[static_cast<size_t>(row)]) fail(Kind::usage, "generate: row {} is named twice", row);
    named[static_cast<size_t>(row)] = true;
    if (n == 0) fail(Kind::usage, "generate: row {} has no tokens; a prompt needs at least one (BOS)", row);
    if (length(row) + n > capacity())
      fail(Kind::usage, "generate: row {} would hold {} tokens, the context is {}; shorten the prompt or raise --context", row,
           length(row) + n, capacity());
    for (int32_t id : tokens[i])
      if (id < 0 || id >= model_.vocab())
        fail(Kind::usage, "generate: row {} holds token {}, the vocabulary has {}", row, id, model_.vocab());
  }
}

// Moves rows side by side in the cache, so that a step computes them and nothing else; returns the first one's slot. A row that
// has ended costs its neighbours one exchange, once.
int64_t Generator::gather(std::span<const int64_t> rows) {
  const auto slot = [this](int64_t row) -> int64_t& { return slot_[static_cast<size_t>(row)]; };
  int64_t first = this->rows();
  for (int64_t r : rows) first = std::min(first, slot(r));
  first = std::min(first, this->rows() - static_cast<int64_t>(rows.size()));
  const auto inside = [&, count = static_cast<int64_t>(rows.size())](int64_t s) { return s >= first && s < first + count; };
  std::vector<int64_t> others;  // that lie where the named ones should
  for (int64_t r = 0; r < this->rows(); ++r)
    if (inside(slot(r)) && std::find(rows.begin(), rows.end(), r) == rows.end()) others.push_back(r);
  for (int64_t r : rows) {
    if (inside(slot(r))) continue;
    cache_.swap(slot(r), slot(others.back()));
    std::swap(slot(r), slot(others.back()));
    others.pop_back();
  }
  cache_.select(first, static_cast<int64_t>(rows.size()));
  return first;
}

void Generator::feed(std::span<const int64_t> rows, std::span<const std::vector<int32_t>> tokens) {
  check(rows, tokens);
  const NoGrad off;
  size_t longest = 0;
  for (const auto& list : tokens) longest = std::max(longest, list.size());
  const auto chunk = static_cast<size_t>(cache_.chunk);
  for (size_t begin = 0; begin < longest; begin += chunk) {
    std::vector<int64_t> now;   // rows with tokens left
    std::vector<size_t> which;  // their places in `tokens`
    size_t most = 0;
    for (size_t i = 0; i < rows.size(); ++i) {
      if (begin >= tokens[i].size()) continue;
      now.push_back(rows[i]);
      which.push_back(i);
      most = std::max(most, std::min(chunk, tokens[i].size() - begin));
    }
    const int64_t first = gather(now);
    const auto B = static_cast<int64_t>(now.size()), T = static_cast<int64_t>(most);
    const Tensor ids = Tensor::zeros({B, T}, DType::i32), positions = Tensor::full({B, T}, -1, DType::i32);
    int32_t* id = ids.out().as<int32_t>();
    int32_t* position = positions.out().as<int32_t>();
    std::vector<int64_t> ended;
    std::vector<int32_t> last;  // where in [B * T] the last token of each of those lies
    for (size_t i = 0; i < now.size(); ++i) {
      const std::vector<int32_t>& list = tokens[which[i]];
      const size_t n = std::min(chunk, list.size() - begin);
      int64_t& length = length_[static_cast<size_t>(now[i])];
      const int64_t at = (slot_[static_cast<size_t>(now[i])] - first) * T;
      for (size_t t = 0; t < n; ++t) {
        id[at + static_cast<int64_t>(t)] = list[begin + t];
        position[at + static_cast<int64_t>(t)] = static_cast<int32_t>(length++);
      }
      int64_t& furthest = furthest_[static_cast<size_t>(now[i])];
      furthest = std::max(furthest, length);
      if (begin + n < list.size()) continue;
      ended.push_back(now[i]);
      last.push_back(static_cast<int32_t>(at + static_cast<int64_t>(n) - 1));
    }
    const Tokens step{ids, positions, {}};
    Tensor h = T == 1 ? graphs_.hidden(step, first) : model_.hidden(step, &cache_);  // [B, T, D]
    if (ended.empty()) continue;
    h = h.reshape({B * T, h.dim(2)});
    // The head sees only the rows that somebody will sample from.
    if (B * T > 1) h = take(h, Tensor::from(last, {static_cast<int64_t>(last.size())}).to(h.device()), 0);
    const Tensor y = model_.logits(h).to(DType::f32);  // [ended, V]
    for (size_t i = 0; i < ended.size(); ++i) logits_[static_cast<size_t>(ended[i])] = {y, static_cast<int64_t>(i)};
  }
}

const Generator::Logits& Generator::logits_of(int64_t row) const {
  const Logits& l = logits_[static_cast<size_t>(row)];
  if (!l.of_batch) fail(Kind::usage, "generate: row {} was not fed yet", row);
  return l;
}

std::span<const float> Generator::logits(int64_t row) const {
  const Logits& l = logits_of(row);
  Tensor& here = logits_[static_cast<size_t>(row)].here;
  if (!here) here = l.of_batch.slice(0, l.index, l.index + 1).to(Device::cpu);
  return here.data<float>();
}

Tensor Generator::logits(std::span<const int64_t> rows) const {
  const Tensor y = Tensor::empty({static_cast<int64_t>(rows.size()), model_.vocab()}, DType::f32, model_.device());
  for (int64_t i = 0; i < y.dim(0); ++i) {
    const Logits& l = logits_of(rows[static_cast<size_t>(i)]);
    y.slice(0, i, i + 1).set(l.of_batch.slice(0, l.index, l.index + 1));
  }
  return y;
}

void Generator::forget(int64_t row, int64_t from) {
  int64_t &length = length_[static_cast<size_t>(row)], &furthest = furthest_[static_cast<size_t>(row)];
  if (from >= length) return;
  int64_t ring = capacity();
  for (const LayerCache& l : cache_.layers) ring = std::min(ring, l.length());
  if (from > 0 && furthest > ring && from < furthest - cache_.chunk)
    fail(Kind::usage, "generate: row {} cannot go back from {} to {} tokens, its local layers kept only the last of them; forget all of it",
         row, length, from);
  cache_.forget(slot_[static_cast<size_t>(row)], static_cast<int32_t>(from));
  length = from;
  if (from == 0) furthest = 0;
  logits_[static_cast<size_t>(row)] = {};
}

std::vector<Generation> continue_rows(Generator& g, std::vector<int64_t> rows, const std::vector<std::vector<int32_t>>& tokens,
                                      const GenerateOptions& o, const OnToken& on_token) {
  o.sampling.check();
  std::vector<Generation> result(rows.size());
  std::vector<size_t> place(static_cast<size_t>(g.rows()));  // row -> index into result
  for (size_t i = 0; i < rows.size(); ++i) place[static_cast<size_t>(rows[i])] = i;
  const bool penalty = o.sampling.repetition_penalty != 1;
  std::vector<std::vector<int32_t>> next = tokens, history(rows.size());
  if (penalty) history = tokens;
  if (o.max_new <= 0) rows.clear();
  while (!rows.empty()) {
    g.feed(rows, next);
    const Tensor logits = g.logits(rows);
    pool_vector<DrawRow> draw_rows;
    for (int64_t r : rows) {
      const Key k = fold_in(fold_in(key(o.seed), static_cast<uint32_t>(r)), static_cast<uint32_t>(g.length(r)));
      draw_rows.push_back({k, history[place[static_cast<size_t>(r)]]});
    }
    pool_vector<Draw> draws(rows.size());
    draw(logits, 0, o.sampling, draw_rows, draws);
    std::vector<int64_t> running;
    next.clear();
    for (size_t i = 0; i < rows.size(); ++i) {
      const int64_t r = rows[i];
      const size_t at = place[static_cast<size_t>(r)];
      Generation& out = result[at];
      const Draw& d = draws[i];
      out.tokens.push_back(d.id);
      out.log_probs.push_back(d.log_prob);
      if (penalty) history[at].push_back(d.id);
      const bool wanted = !on_token || on_token(r, d);
      const bool stop = !o.ignore_stop && std::find(o.stop.begin(), o.stop.end(), d.id) != o.stop.end();
      if (stop) out.stop = Stop::stop_token;
      else if (!wanted) out.stop = Stop::caller;
      else if (static_cast<int64_t>(out.tokens.size()) >= o.max_new) out.stop = Stop::length;
      else if (g.length(r) >= g.capacity()) out.stop = Stop::context;
      if (out.stop != Stop::running) continue;
      running.push_back(r);
      next.push_back({d.id});
    }
    rows = std::move(running);
  }
  return result;
}

std::vector<Generation> generate(LanguageModel& model, const std::vector<std::vector<int32_t>>& prompts,
                                 const GenerateOptions& o, const OnToken& on_token) {
  if (prompts.empty()) return {};
  int64_t longest = 0;
  for (const auto& p : prompts) longest = std::max(longest, static_cast<int64_t>(p.size()));
  if (longest > model.context())
    fail(Kind::usage, "generate: a prompt has {} tokens, the context is {}; shorten it or raise --context", longest, model.context());
  const int64_t capacity = std::max<int64_t>(1, std::min(longest + o.max_new, model.context()));
  Generator g(model, static_cast<int64_t>(prompts.size()), capacity, std::min<int64_t>(256, capacity));
  std::vector<int64_t> rows(prompts.size());
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<int64_t>(i);
  return continue_rows(g, std::move(rows), prompts, o, on_token);
}

}  // namespace facet

#include "infer/generator.h"

#include <algorithm>
#include <numeric>

#include "autograd/ops.h"
#include "tensor/pool_vector.h"
#include "tensor/trace.h"

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
      loop_(model, cache_),
      length_(static_cast<size_t>(rows), 0),
      furthest_(static_cast<size_t>(rows), 0),
      slot_(static_cast<size_t>(rows)),
      products_(static_cast<size_t>(rows)) {
  std::iota(slot_.begin(), slot_.end(), 0);
}

void Generator::feed(int64_t row, std::vector<int32_t> tokens) {
  const std::vector<int32_t> list[] = {std::move(tokens)};
  feed(std::span<const int64_t>(&row, 1), list);
}

void Generator::check_row(int64_t row) const {
  if (row < 0 || row >= rows()) fail(Kind::usage, "generate: row {} does not exist; there are {}", row, rows());
}

void Generator::check(std::span<const int64_t> rows, std::span<const std::vector<int32_t>> tokens) const {
  if (rows.size() != tokens.size()) fail(Kind::usage, "generate: {} rows, tokens for {}", rows.size(), tokens.size());
  std::vector<bool> named(length_.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    const int64_t row = rows[i];
    const auto n = static_cast<int64_t>(tokens[i].size());
    check_row(row);
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
  const Phase phase("prefill");
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
    Tensor h = model_.hidden({ids, positions, {}}, &cache_);  // [B, T, D]
    if (ended.empty()) continue;
    h = h.reshape({B * T, h.dim(2)});
    // The head sees only the rows that somebody will sample from.
    if (B * T > 1) h = take(h, Tensor::from(last, {static_cast<int64_t>(last.size())}).to(h.device()), 0);
    const Tensor y = head_products(model_, h);  // [ended, V]
    for (size_t i = 0; i < ended.size(); ++i) products_[static_cast<size_t>(ended[i])] = {y, static_cast<int64_t>(i)};
  }
}

const Generator::Products& Generator::products_of(int64_t row) const {
  check_row(row);
  const Products& p = products_[static_cast<size_t>(row)];
  if (!p.of_batch) fail(Kind::usage, "generate: the last token of row {} was not fed: it has no logits", row);
  return p;
}

std::span<const float> Generator::logits(int64_t row) const {
  const Products& p = products_of(row);
  Tensor& logits = products_[static_cast<size_t>(row)].logits;
  if (!logits) {
    const NoGrad off;
    logits = p.of_batch.slice(0, p.index, p.index + 1);
    if (model_.final_cap() > 0) logits = softcap(logits, model_.final_cap());
    logits = logits.to(DType::f32).to(Device::cpu).dense();
  }
  return logits.data<float>();
}

void Generator::draw_first(std::span<const Last> rows, const SamplingOptions& o, const Accept& accept) {
  const Tensor y = Tensor::empty({static_cast<int64_t>(rows.size()), model_.vocab()}, DType::f32, model_.device());
  pool_vector<DrawRow> draw_rows;
  for (const Last& l : rows) {
    const Products& p = products_of(l.row);
    const auto i = static_cast<int64_t>(draw_rows.size());
    y.slice(0, i, i + 1).set(p.of_batch.slice(0, p.index, p.index + 1).to(DType::f32));
    draw_rows.push_back({fold_in(l.key, static_cast<uint32_t>(length(l.row))), l.history});
  }
  pool_vector<Draw> draws(rows.size());
  draw(y, model_.final_cap(), o, draw_rows, draws);
  for (size_t i = 0; i < draws.size(); ++i) accept(i, draws[i]);
}

void Generator::go_on(std::span<const Last> rows, const DrawRules& rules, int64_t steps, const Accept& accept) {
  const Phase phase("decode");
  pool_vector<int64_t> names;
  for (const Last& l : rows) names.push_back(l.row);
  const int64_t first = gather(names);
  pool_vector<DecodeLoop::Row> by_slot(rows.size());
  pool_vector<size_t> place;  // of each row among them
  for (const Last& l : rows) {
    const int64_t at = length(l.row);
    place.push_back(static_cast<size_t>(slot_[static_cast<size_t>(l.row)] - first));
    by_slot[place.back()] = {l.token, at, std::min(l.most, capacity() - at), l.key, l.history};
    products_[static_cast<size_t>(l.row)] = {};
  }
  steps = loop_.start(first, by_slot, rules, steps);
  // Tokens computed beyond a row's end are no part of it: its length does not count them, so the masks hide them until they are overwritten.
  for (size_t i = 0; i < rows.size(); ++i) {
    int64_t& furthest = furthest_[static_cast<size_t>(names[i])];
    furthest = std::max(furthest, length(names[i]) + std::min(steps, by_slot[place[i]].most));
  }
  const std::span<const Draw> draws = loop_.draws();
  pool_vector<char> ended(rows.size());
  for (int64_t s = 0; s < steps; ++s)
    for (size_t i = 0; i < names.size(); ++i) {
      const Draw& d = draws[static_cast<size_t>(s) * names.size() + place[i]];
      if (ended[i] || d.id < 0) continue;
      ++length_[static_cast<size_t>(names[i])];
      ended[i] = !accept(i, d);
    }
}

void Generator::forget(int64_t row, int64_t from) {
  check_row(row);
  if (from < 0) fail(Kind::usage, "generate: row {} cannot go back to {} tokens; 0 forgets all of it", row, from);
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
  products_[static_cast<size_t>(row)] = {};
}

std::vector<Generation> continue_rows(Generator& g, const std::vector<int64_t>& rows, const std::vector<std::vector<int32_t>>& tokens,
                                      const GenerateOptions& o, const OnToken& on_token) {
  o.sampling.check();
  std::vector<Generation> result(rows.size());
  if (o.max_new <= 0) return result;
  // Single tokens go the way of those that were drawn; prompts go in at once.
  const bool prompts = std::ranges::any_of(tokens, [](const auto& list) { return list.size() != 1; });
  g.loop_.look_at_model();
  if (prompts) g.feed(rows, tokens);
  else g.check(rows, tokens);
  const DrawRules rules{o.sampling, o.ignore_stop ? std::vector<int32_t>{} : o.stop};
  const bool penalty = o.sampling.repetition_penalty != 1;
  std::vector<std::vector<int32_t>> history(rows.size());
  if (penalty) history = tokens;
  std::vector<Generator::Last> going;
  std::vector<size_t> place(static_cast<size_t>(g.rows()));  // row -> index into result
  for (size_t i = 0; i < rows.size(); ++i) {
    place[static_cast<size_t>(rows[i])] = i;
    going.push_back({rows[i], tokens[i].back(), o.max_new, fold_in(key(o.seed), static_cast<uint32_t>(rows[i])), history[i]});
  }
  const auto result_of = [&](const Generator::Last& l) -> Generation& { return result[place[static_cast<size_t>(l.row)]]; };
  const auto accept = [&](size_t i, const Draw& d) {
    Generator::Last& last = going[i];
    Generation& out = result_of(last);
    out.tokens.push_back(d.id);
    out.log_probs.push_back(d.log_prob);
    last.token = d.id;
    --last.most;
    if (penalty) {
      std::vector<int32_t>& seen = history[place[static_cast<size_t>(last.row)]];
      seen.push_back(d.id);
      last.history = seen;
    }
    const bool wanted = !on_token || on_token(last.row, d);
    if (std::ranges::find(rules.stop, d.id) != rules.stop.end()) out.stop = Stop::stop_token;
    else if (!wanted) out.stop = Stop::caller;
    else if (last.most == 0) out.stop = Stop::length;
    else if (g.length(last.row) >= g.capacity()) out.stop = Stop::context;
    return out.stop == Stop::running;
  };
  if (prompts) g.draw_first(going, o.sampling, accept);
  for (;;) {
    std::erase_if(going, [&](const Generator::Last& l) { return result_of(l).stop != Stop::running; });
    if (going.empty()) return result;
    g.go_on(going, rules, o.poll, accept);
  }
}

std::vector<Generation> generate(LanguageModel& model, const std::vector<std::vector<int32_t>>& prompts,
                                 const GenerateOptions& o, const OnToken& on_token) {
  if (prompts.empty()) return {};
  int64_t longest = 0;
  for (const auto& p : prompts) longest = std::max(longest, static_cast<int64_t>(p.size()));
  const int64_t context = o.context > 0 ? o.context : model.context();
  if (longest > context) fail(Kind::usage, "generate: a prompt has {} tokens, the context is {}; shorten it or raise --context", longest, context);
  const int64_t capacity = std::max<int64_t>(1, std::min(longest + o.max_new, context));
  Generator g(model, static_cast<int64_t>(prompts.size()), capacity, std::min<int64_t>(256, capacity));
  std::vector<int64_t> rows(prompts.size());
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<int64_t>(i);
  return continue_rows(g, rows, prompts, o, on_token);
}

}  // namespace facet

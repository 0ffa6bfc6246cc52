#include "infer/generator.h"

#include <algorithm>

#include "autograd/ops.h"

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
      length_(static_cast<size_t>(rows), 0),
      logits_(static_cast<size_t>(rows)) {}

void Generator::feed(int64_t row, std::vector<int32_t> tokens) {
  const std::vector<int32_t> list[] = {std::move(tokens)};
  feed(std::span<const int64_t>(&row, 1), list);
}

void Generator::feed(std::span<const int64_t> rows, std::span<const std::vector<int32_t>> tokens) {
  size_t longest = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    const auto n = static_cast<int64_t>(tokens[i].size());
    if (n == 0) fail(Kind::usage, "generate: row {} has no tokens; a prompt needs at least one (BOS)", rows[i]);
    if (length(rows[i]) + n > capacity())
      fail(Kind::usage, "generate: row {} would hold {} tokens, the context is {}; shorten the prompt or raise --context", rows[i],
           length(rows[i]) + n, capacity());
    longest = std::max(longest, tokens[i].size());
  }
  const NoGrad off;
  const int64_t B = this->rows();
  for (size_t begin = 0; begin < longest; begin += static_cast<size_t>(cache_.chunk)) {
    const auto T = static_cast<int64_t>(std::min(longest - begin, static_cast<size_t>(cache_.chunk)));
    const Tensor ids = Tensor::zeros({B, T}, DType::i32), positions = Tensor::full({B, T}, -1, DType::i32);
    int32_t* id = ids.out().as<int32_t>();
    int32_t* position = positions.out().as<int32_t>();
    std::vector<std::pair<int64_t, int64_t>> last;  // row, index of its last token in this chunk
    for (size_t i = 0; i < rows.size(); ++i) {
      const std::vector<int32_t>& list = tokens[i];
      if (begin >= list.size()) continue;
      const auto n = std::min<int64_t>(T, static_cast<int64_t>(list.size() - begin));
      for (int64_t t = 0; t < n; ++t) {
        id[rows[i] * T + t] = list[begin + static_cast<size_t>(t)];
        position[rows[i] * T + t] = static_cast<int32_t>(length_[static_cast<size_t>(rows[i])]++);
      }
      if (begin + static_cast<size_t>(n) == list.size()) last.emplace_back(rows[i], n - 1);
    }
    const Tensor h = model_.hidden({ids, positions, {}}, &cache_);  // [B, T, D]
    if (last.empty()) continue;
    std::vector<int32_t> index;
    for (auto [row, t] : last) index.push_back(static_cast<int32_t>(row * T + t));
    const auto picked = static_cast<int64_t>(index.size());
    // The head sees only the rows that somebody will sample from.
    const Tensor rows_h = take(h.reshape({B * T, h.dim(2)}), Tensor::from(index, {picked}), 0);
    const Tensor y = model_.logits(rows_h).to(DType::f32);  // [picked, V]
    const auto values = y.data<float>();
    const auto V = static_cast<size_t>(y.dim(1));
    for (size_t i = 0; i < last.size(); ++i)
      logits_[static_cast<size_t>(last[i].first)].assign(values.begin() + static_cast<ptrdiff_t>(i * V),
                                                         values.begin() + static_cast<ptrdiff_t>((i + 1) * V));
  }
}

std::span<const float> Generator::logits(int64_t row) const {
  const auto& l = logits_[static_cast<size_t>(row)];
  if (l.empty()) fail(Kind::usage, "generate: row {} was not fed yet", row);
  return l;
}

void Generator::forget(int64_t row, int64_t from) {
  cache_.forget(row, static_cast<int32_t>(from));
  auto& n = length_[static_cast<size_t>(row)];
  n = std::min(n, from);
  logits_[static_cast<size_t>(row)].clear();
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
    std::vector<int64_t> running;
    next.clear();
    for (int64_t r : rows) {
      const size_t at = place[static_cast<size_t>(r)];
      Generation& out = result[at];
      const Key k = fold_in(fold_in(key(o.seed), static_cast<uint32_t>(r)), static_cast<uint32_t>(g.length(r)));
      const Draw d = draw(g.logits(r), o.sampling, k, history[at]);
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

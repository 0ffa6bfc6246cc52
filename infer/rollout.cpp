#include "infer/rollout.h"

#include <algorithm>
#include <chrono>

#include "autograd/ops.h"
#include "tensor/pool_vector.h"

namespace facet {
namespace {

using Prompts = std::span<const std::vector<int32_t>>;

// Tokens of prompts computed at once; one longer prompt goes alone.
constexpr int64_t wave_tokens = 8192;

void check(const LanguageModel& model, Prompts prompts, const RolloutOptions& o) {
  o.sampling.check();
  const auto at_least_one = [](const char* name, int64_t n) {
    if (n < 1) fail(Kind::usage, "rollout: {} is {}; expected at least 1", name, n);
  };
  at_least_one("group", o.group), at_least_one("max_new", o.max_new), at_least_one("rows", o.rows);
  for (size_t p = 0; p < prompts.size(); ++p) {
    if (prompts[p].empty()) fail(Kind::usage, "rollout: prompt {} has no tokens; it needs at least one (BOS)", p);
    if (static_cast<int64_t>(prompts[p].size()) >= model.context())
      fail(Kind::usage, "rollout: prompt {} has {} tokens and the context {}; nothing can follow", p, prompts[p].size(), model.context());
    for (int32_t id : prompts[p])
      if (id < 0 || id >= model.vocab())
        fail(Kind::usage, "rollout: prompt {} holds token {}, the vocabulary has {}", p, id, model.vocab());
  }
}

/// One call: rows 0 ... active-1 of the cache are at work.
class Run {
 public:
  Run(LanguageModel& model, KvCache& rows, DecodeLoop& loop, KvCache& prompts, int64_t places, int64_t staged, Prompts list, const RolloutOptions& o)
      : model_(model), cache_(rows), loop_(loop), prompt_cache_(prompts), places_(places), staged_most_(staged), prompts_(list), o_(o), rules_{o.sampling, o.stop} {
    result_.resize(prompts_.size() * static_cast<size_t>(o.group));
    if (o.sampling.repetition_penalty != 1) histories_.resize(result_.size());
    const auto room = static_cast<size_t>(std::min<int64_t>(o.max_new, 256));
    for (size_t s = 0; s < result_.size(); ++s) {
      result_[s].tokens.reserve(room), result_[s].log_probs.reserve(room), result_[s].entropy.reserve(room);
      result_[s].prompt = static_cast<int64_t>(s) / o.group;
      result_[s].member = static_cast<int64_t>(s) % o.group;
    }
  }

  std::vector<Rollout> operator()(RolloutFigures& figures) {
    for (start(); !rows_.empty(); start()) decode();
    figures = figures_;
    figures.busy = figures_.steps ? static_cast<double>(decoded_) / static_cast<double>(figures_.steps * places_) : 1;
    return std::move(result_);
  }

 private:
  struct Row {
    int64_t sample;
    int64_t length;  ///< tokens in the cache
    Key key;
    int32_t next;    ///< the last token drawn, not computed yet; -1: the row has ended
  };

  Rollout& rollout(const Row& r) { return result_[static_cast<size_t>(r.sample)]; }
  int64_t pending() const { return static_cast<int64_t>(result_.size()) - started_; }

  // Gives the places of rows that have ended to the next samples and draws their first tokens, until everyone is at work. Places
  // that nobody wants go to the end and away. Where rows go on alone they may stay, and cost little: only half as many rows are worth recording
  // a step anew.
  void start() {
    for (;;) {
      pool_vector<int64_t> fresh;
      pool_vector<int32_t> staged;  // rows of staged_h_
      for (int64_t i = 0; i < static_cast<int64_t>(rows_.size()) && pending(); ++i)
        if (rows_[static_cast<size_t>(i)].next < 0) begin(i, fresh, staged);
      while (static_cast<int64_t>(rows_.size()) < places_ && pending()) {
        rows_.push_back({});
        begin(static_cast<int64_t>(rows_.size()) - 1, fresh, staged);
      }
      if (fresh.empty()) break;
      flush(fresh, staged);
    }
    const auto working = static_cast<size_t>(std::ranges::count_if(rows_, [](const Row& r) { return r.next >= 0; }));
    if (loop_.alone(o_.sampling) && 2 * working > rows_.size()) return;
    for (size_t i = 0; i < rows_.size();) {
      if (rows_[i].next >= 0) {
        ++i;
        continue;
      }
      if (i + 1 < rows_.size() && rows_.back().next >= 0) {
        cache_.copy(cache_, static_cast<int64_t>(rows_.size()) - 1, static_cast<int64_t>(i));
        rows_[i] = rows_.back();
      }
      rows_.pop_back();
    }
  }

  void begin(int64_t place, pool_vector<int64_t>& fresh, pool_vector<int32_t>& staged) {
    const int64_t sample = started_, p = sample / o_.group;
    if (p >= staged_end_) {
      flush(fresh, staged);  // they still need what the next wave overwrites
      stage(p);
    }
    ++started_;
    cache_.copy(prompt_cache_, p - staged_begin_, place);
    const Key k = fold_in(o_.key, static_cast<uint32_t>(sample));
    rows_[static_cast<size_t>(place)] = {sample, static_cast<int64_t>(prompts_[static_cast<size_t>(p)].size()), k, -1};
    fresh.push_back(place);
    staged.push_back(static_cast<int32_t>(p - staged_begin_));
  }

  // First tokens of rows that have just begun.
  void flush(pool_vector<int64_t>& fresh, pool_vector<int32_t>& staged) {
    if (fresh.empty()) return;
    const auto n = static_cast<int64_t>(staged.size());
    draw_first(take(staged_h_, Tensor::from(std::span<const int32_t>(staged), {n}).to(staged_h_.device()), 0), fresh);
    fresh.clear(), staged.clear();
  }

  // Computes prompts from number `first` on, as many as fit a wave.
  void stage(int64_t first) {
    int64_t count = 0, T = 0, tokens = 0;
    for (; first + count < static_cast<int64_t>(prompts_.size()) && count < staged_most_; ++count) {
      const auto n = static_cast<int64_t>(prompts_[static_cast<size_t>(first + count)].size()), longest = std::max(T, n);
      if (count > 0 && longest * (count + 1) > wave_tokens) break;
      T = longest, tokens += n;
    }
    const Tensor ids = Tensor::zeros({count, T}, DType::i32), positions = Tensor::full({count, T}, -1, DType::i32);
    int32_t *id = ids.out().as<int32_t>(), *position = positions.out().as<int32_t>();
    pool_vector<int32_t> last;
    for (int64_t p = 0; p < count; ++p, id += T, position += T) {
      const auto& prompt = prompts_[static_cast<size_t>(first + p)];
      std::ranges::copy(prompt, id);
      for (size_t t = 0; t < prompt.size(); ++t) position[t] = static_cast<int32_t>(t);
      last.push_back(static_cast<int32_t>(p * T + static_cast<int64_t>(prompt.size()) - 1));
      prompt_cache_.forget(p);
    }
    prompt_cache_.select(0, count);
    const Tensor h = model_.hidden({ids, positions, {}}, &prompt_cache_);  // [count, T, D]
    staged_h_ = take(h.reshape({count * T, h.dim(2)}), Tensor::from(std::span<const int32_t>(last), {count}).to(h.device()), 0);
    staged_begin_ = first, staged_end_ = first + count;
    figures_.prefilled += tokens;
  }

  // The last token of every row goes in and the next one is drawn, some times over.
  void decode() {
    const auto n = static_cast<int64_t>(rows_.size());
    pool_vector<DecodeLoop::Row> rows;
    for (const Row& r : rows_) {
      if (r.next < 0) {
        rows.push_back({0, -1, 0, r.key});
        continue;
      }
      const int64_t most = std::min(o_.max_new - static_cast<int64_t>(rollout(r).tokens.size()), model_.context() - 1 - r.length);
      rows.push_back({r.next, r.length, most, r.key, history(r)});
    }
    cache_.select(0, n);
    const int64_t steps = loop_.start(0, rows, rules_, o_.poll);
    const std::span<const Draw> draws = loop_.draws();  // [steps, n]
    for (size_t d = 0; d < draws.size(); ++d) {
      Row& r = rows_[d % rows_.size()];
      if (r.next < 0 || draws[d].id < 0) continue;
      ++r.length;
      append(r, draws[d]);
      ++decoded_;
    }
    figures_.steps += steps;
  }

  // First tokens of the rows that have just begun, from their hidden rows [n, D].
  void draw_first(const Tensor& h, const pool_vector<int64_t>& which) {
    pool_vector<DrawRow> rows;
    pool_vector<Draw> draws(which.size());
    for (int64_t place : which) {
      const Row& r = row(place);
      rows.push_back({fold_in(r.key, static_cast<uint32_t>(r.length)), history(r)});
    }
    draw_next(model_, h, o_.sampling, rows, draws);
    for (size_t i = 0; i < draws.size(); ++i) append(row(which[i]), draws[i]);
  }

  Row& row(int64_t place) { return rows_[static_cast<size_t>(place)]; }

  std::span<const int32_t> history(const Row& r) {
    if (o_.sampling.repetition_penalty == 1) return {};
    pool_vector<int32_t>& h = histories_[static_cast<size_t>(r.sample)];
    const Rollout& out = rollout(r);
    if (h.empty()) h.assign(prompts_[static_cast<size_t>(out.prompt)].begin(), prompts_[static_cast<size_t>(out.prompt)].end());
    else h.push_back(out.tokens.back());
    return h;
  }

  void append(Row& r, const Draw& d) {
    Rollout& out = rollout(r);
    out.tokens.push_back(d.id);
    out.log_probs.push_back(d.log_prob);
    out.entropy.push_back(d.entropy);
    ++figures_.sampled;
    if (std::ranges::find(o_.stop, d.id) != o_.stop.end()) out.stop = Stop::stop_token;
    else if (static_cast<int64_t>(out.tokens.size()) >= o_.max_new) out.stop = Stop::length;
    else if (r.length + 1 >= model_.context()) out.stop = Stop::context;
    r.next = out.stop == Stop::running ? d.id : -1;
  }

  LanguageModel& model_;
  KvCache& cache_;
  DecodeLoop& loop_;
  KvCache& prompt_cache_;
  int64_t places_, staged_most_;
  Prompts prompts_;
  const RolloutOptions& o_;
  const DrawRules rules_;
  std::vector<Rollout> result_;
  pool_vector<pool_vector<int32_t>> histories_;
  pool_vector<Row> rows_;
  int64_t started_ = 0;  // samples
  int64_t staged_begin_ = 0, staged_end_ = 0;  // prompts whose keys and values lie in prompt_cache_
  Tensor staged_h_;                            // their last hidden rows [staged, D]
  int64_t decoded_ = 0;  // tokens that steps have drawn
  RolloutFigures figures_;
};

}  // namespace

int64_t Roller::cache_bytes() const { return (rows_ ? rows_->bytes() : 0) + (prompts_ ? prompts_->bytes() : 0); }

void Roller::make_room(int64_t rows, int64_t staged, int64_t longest, int64_t capacity) {
  // The chunk is the capacity: no ring goes round.
  if (!rows_ || row_count_ < rows || rows_->capacity < capacity) {
    loop_.reset(), rows_.reset();
    rows_ = model_.new_cache(rows, capacity, capacity);
    loop_.emplace(model_, *rows_);
    row_count_ = rows;
  }
  if (!prompts_ || staged_count_ < staged || prompts_->capacity < longest) {
    prompts_.reset();
    prompts_ = model_.new_cache(staged, longest, longest);
    staged_count_ = staged;
  }
}

std::vector<Rollout> Roller::operator()(Prompts prompts, const RolloutOptions& o, RolloutFigures* figures) {
  check(model_, prompts, o);
  RolloutFigures local;
  RolloutFigures& f = figures ? *figures : local;
  f = {};
  if (prompts.empty()) return {};
  const NoGrad off;
  const auto begin = std::chrono::steady_clock::now();
  size_t longest = 0;
  for (const auto& p : prompts) longest = std::max(longest, p.size());
  const auto count = static_cast<int64_t>(prompts.size()), most = static_cast<int64_t>(longest);
  const int64_t places = std::min(o.rows, count * o.group), staged = std::min(count, (places + o.group - 1) / o.group + 1);
  make_room(places, staged, most, std::min(most + o.max_new, model_.context()));
  loop_->look_at_model();
  std::vector<Rollout> result = Run(model_, *rows_, *loop_, *prompts_, places, staged, prompts, o)(f);
  f.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return result;
}

std::vector<Rollout> roll_out(LanguageModel& model, Prompts prompts, const RolloutOptions& o, RolloutFigures* figures) {
  return Roller(model)(prompts, o, figures);
}

}  // namespace facet

// Rollouts: many completions of every prompt, for learning from rewards. The same weights and kernels that train, in batches whose
// finished rows are replaced at once (continuous batching).
#pragma once
#include <optional>

#include "infer/generator.h"

namespace facet {

struct RolloutOptions {
  SamplingOptions sampling{};
  int64_t group = 8;              ///< completions of a prompt
  int64_t max_new = 64;           ///< tokens of a completion
  int64_t rows = 256;             ///< completions in work at a time
  std::vector<int32_t> stop = {}; ///< tokens that end a completion; they are part of it
  Key key = {};
  int64_t poll = 8;               ///< on a GPU: steps between two looks of the host, which is when the rows that ended are replaced
};

struct Rollout {
  int64_t prompt = 0, member = 0;
  std::vector<int32_t> tokens;
  std::vector<float> log_probs, entropy;  ///< of every token, see Draw
  Stop stop = Stop::running;
};

struct RolloutFigures {
  int64_t prefilled = 0;  ///< prompt tokens computed
  int64_t sampled = 0;    ///< tokens drawn
  int64_t steps = 0;      ///< decoding steps of the batch, those too that a GPU made after its last row had ended
  double seconds = 0;
  double busy = 0;        ///< mean share of the rows that draw a token in a step
};

/// Draws rollouts, keeping its cache from call to call.
///
/// A rollout depends on the weights, the prompt, its number and the options alone, never on `rows`, on who works beside it, or on threads:
/// the token at position t of member g of prompt p is drawn with fold_in(fold_in(key, p * group + g), t). log_probs are those of
/// linear_log_probs on one pass over the whole sequence, bit for bit.
class Roller {
 public:
  explicit Roller(LanguageModel& model) : model_(model) {}
  /// prompts.size() * group rollouts, prompt by prompt. Every prompt is computed once. Throws Error(Kind::usage) for options out of range and
  /// prompts that are empty, hold unknown tokens or leave no room in the context.
  std::vector<Rollout> operator()(std::span<const std::vector<int32_t>> prompts, const RolloutOptions&, RolloutFigures* = nullptr);
  int64_t cache_bytes() const;

 private:
  void make_room(int64_t rows, int64_t staged, int64_t longest, int64_t capacity);

  LanguageModel& model_;
  std::optional<KvCache> rows_;     ///< of the completions in work
  std::optional<DecodeLoop> loop_;  ///< their steps
  std::optional<KvCache> prompts_;  ///< of the prompts whose completions start next
  int64_t row_count_ = 0, staged_count_ = 0;
};

/// The same with a cache of its own.
std::vector<Rollout> roll_out(LanguageModel&, std::span<const std::vector<int32_t>> prompts, const RolloutOptions&, RolloutFigures* = nullptr);

}  // namespace facet

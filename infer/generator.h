// Batched generation with a key/value cache: rows of unequal prompts, each with its own position, its own random stream and its own end.
// A row's tokens do not depend on its neighbours. Rows can be replaced while others go on.
#pragma once
#include <functional>
#include <string>

#include "infer/decode_graphs.h"
#include "infer/sampler.h"
#include "nn/language_model.h"

namespace facet {

/// Why a row ended.
enum class Stop : uint8_t { running, stop_token, length, context, caller };
const char* name_of(Stop);

struct GenerateOptions {
  SamplingOptions sampling;
  int64_t max_new = 256;
  std::vector<int32_t> stop = {};   ///< tokens that end a row; they are part of its output
  uint64_t seed = 0;
  bool ignore_stop = false;
};

struct Generation {
  std::vector<int32_t> tokens;    ///< the new ones, a stop token included
  std::vector<float> log_probs;   ///< one per token, see Draw
  Stop stop = Stop::running;
};

/// The rows of one cache and what each has seen.
class Generator {
 public:
  /// Room for `rows` sequences of up to `capacity` positions (0: the model's context); prompts go in `chunk` tokens at a time.
  Generator(LanguageModel&, int64_t rows, int64_t capacity = 0, int64_t chunk = 256);
  Generator(const Generator&) = delete;

  /// Appends tokens to rows and computes them, all but what is already cached. Rows not named stay as they are and cost nothing. The
  /// logits of each named row's last token are in logits(row) afterwards. Throws Error(Kind::usage) when a row would pass the
  /// capacity, is named twice or does not exist; nothing has changed then.
  void feed(std::span<const int64_t> rows, std::span<const std::vector<int32_t>> tokens);
  void feed(int64_t row, std::vector<int32_t> tokens);
  /// f32 [V] after the last token of the row, on the CPU.
  std::span<const float> logits(int64_t row) const;
  /// The same of several rows, f32 [rows, V] on the model's device: a copy, what the generator holds stays.
  Tensor logits(std::span<const int64_t> rows) const;
  /// Forgets a row, or its tokens from position `from` on. Local layers keep no more than their rings hold: once those have
  /// wrapped, Error(Kind::usage) is thrown when `from` lies more than a chunk before the furthest token the row ever had (and is
  /// not 0).
  void forget(int64_t row, int64_t from = 0);

  int64_t rows() const { return static_cast<int64_t>(length_.size()); }
  int64_t length(int64_t row) const { return length_[static_cast<size_t>(row)]; }  ///< tokens of the row in the cache
  int64_t capacity() const { return cache_.capacity; }
  int64_t cache_bytes() const { return cache_.bytes(); }

 private:
  struct Logits {
    Tensor of_batch;  ///< f32 [rows that ended together, V], on the model's device
    int64_t index = 0;
    Tensor here = {}; ///< f32 [V] on the CPU, once somebody asked
  };
  const Logits& logits_of(int64_t row) const;
  void check(std::span<const int64_t> rows, std::span<const std::vector<int32_t>> tokens) const;
  int64_t gather(std::span<const int64_t> rows);

  LanguageModel& model_;
  KvCache cache_;
  DecodeGraphs graphs_;
  std::vector<int64_t> length_, furthest_;
  std::vector<int64_t> slot_;  ///< where a row lies in the cache
  mutable std::vector<Logits> logits_;
};

/// Called for every new token; false ends that row.
using OnToken = std::function<bool(int64_t row, const Draw&)>;

/// Feeds `tokens` to `rows` of a generator and lets each go on until it stops. A row draws the token at position p with the key
/// fold_in(fold_in(key(seed), row), p): the same alone or in a batch, and fresh in every turn of a conversation. The last token of
/// each row is not in the cache yet: feed it with what follows.
std::vector<Generation> continue_rows(Generator&, std::vector<int64_t> rows, const std::vector<std::vector<int32_t>>& tokens,
                                      const GenerateOptions&, const OnToken& = {});

/// Continues every prompt in a cache of its own: row r is prompts[r].
std::vector<Generation> generate(LanguageModel&, const std::vector<std::vector<int32_t>>& prompts, const GenerateOptions&,
                                 const OnToken& = {});

}  // namespace facet

// Batched generation with a key/value cache: rows of unequal prompts, each with its own position, its own random stream and its own end.
// A row's tokens do not depend on its neighbours. Rows can be replaced while others go on.
#pragma once
#include <functional>
#include <string>

#include "infer/decode_loop.h"

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
  int64_t context = 0;              ///< most tokens of a row, its prompt included; 0: what the model was made for
  /// On a GPU: tokens of a row between two looks of the host, which a caller therefore gets in handfuls. Results are the same for every
  /// number: what comes after the token that ended a row is neither handed over nor remembered. The CPU looks after every token.
  int64_t poll = 8;
};

struct Generation {
  std::vector<int32_t> tokens;    ///< the new ones, a stop token included
  std::vector<float> log_probs;   ///< one per token, see Draw
  Stop stop = Stop::running;
};

/// Called for every new token; false ends that row.
using OnToken = std::function<bool(int64_t row, const Draw&)>;

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
  /// f32 [V] after the last token of the row, on the CPU. Error(Kind::usage) unless feed() computed it.
  std::span<const float> logits(int64_t row) const;
  /// Forgets a row, or its tokens from position `from` on. Local layers keep no more than their rings hold: once those have
  /// wrapped, Error(Kind::usage) is thrown when `from` lies more than a chunk before the furthest token the row ever had (and is
  /// not 0); and for a row that does not exist, or a `from` below 0.
  void forget(int64_t row, int64_t from = 0);

  int64_t rows() const { return static_cast<int64_t>(length_.size()); }
  int64_t length(int64_t row) const { return length_[static_cast<size_t>(row)]; }  ///< tokens of the row in the cache
  int64_t capacity() const { return cache_.capacity; }
  int64_t cache_bytes() const { return cache_.bytes(); }

 private:
  friend std::vector<Generation> continue_rows(Generator&, const std::vector<int64_t>&, const std::vector<std::vector<int32_t>>&,
                                               const GenerateOptions&, const OnToken&);
  struct Products {
    Tensor of_batch;  ///< of the head, before the soft-cap: [rows that ended together, V], on the model's device
    int64_t index = 0;
    Tensor logits = {}; ///< f32 [V] on the CPU, once somebody asked
  };
  /// A row that goes on: its last token was drawn, but not computed.
  struct Last {
    int64_t row;
    int32_t token;
    int64_t most;  ///< tokens wanted
    Key key;       ///< the token at position p is drawn with fold_in(key, p)
    std::span<const int32_t> history = {};
  };
  using Accept = std::function<bool(size_t i, const Draw&)>;
  /// Draws the tokens after what was fed.
  void draw_first(std::span<const Last>, const SamplingOptions&, const Accept&);
  /// Computes the last tokens and draws the next, up to `steps` times when rows go on alone (infer/decode_loop.h). Draws are handed over step by
  /// step, rows in the order given, until one is not accepted: that row has ended. A token is in the row once its successor is handed over.
  void go_on(std::span<const Last>, const DrawRules&, int64_t steps, const Accept&);
  void check_row(int64_t row) const;
  const Products& products_of(int64_t row) const;
  void check(std::span<const int64_t> rows, std::span<const std::vector<int32_t>> tokens) const;
  int64_t gather(std::span<const int64_t> rows);

  LanguageModel& model_;
  KvCache cache_;
  DecodeLoop loop_;
  std::vector<int64_t> length_, furthest_;
  std::vector<int64_t> slot_;  ///< where a row lies in the cache
  mutable std::vector<Products> products_;
};

/// Feeds `tokens` to `rows` of a generator and lets each go on until it stops. A row draws the token at position p with the key
/// fold_in(fold_in(key(seed), row), p): the same alone or in a batch, and fresh in every turn of a conversation. The last token of
/// each row is not in the cache yet: feed it with what follows.
std::vector<Generation> continue_rows(Generator&, const std::vector<int64_t>& rows, const std::vector<std::vector<int32_t>>& tokens,
                                      const GenerateOptions&, const OnToken& = {});

/// Continues every prompt in a cache of its own: row r is prompts[r]. Its size decides no bit.
std::vector<Generation> generate(LanguageModel&, const std::vector<std::vector<int32_t>>& prompts, const GenerateOptions&,
                                 const OnToken& = {});

}  // namespace facet

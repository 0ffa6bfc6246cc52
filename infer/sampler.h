// From logits to a token. Filters act in the order of Hugging Face's processors: repetition penalty, forbidden tokens, temperature,
// top-k, top-p, min-p; then one draw, the token under one uniform number. For it tokens lie along [0, 1) in the order of their ids, or,
// when one of the last three filters has ranked them, from the most likely on. It depends on the key alone, never on what else is in the
// batch.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "tensor/rng.h"

namespace facet {

struct SamplingOptions {
  double temperature = 1;         ///< 0: greedy, the first of the largest logits
  int64_t top_k = 0;              ///< keep the k largest (ties with the k-th stay); 0: all
  double top_p = 1;               ///< keep the smallest set whose mass reaches p, the token that crosses p included
  double min_p = 0;               ///< keep tokens with at least this share of the most likely one's probability
  double repetition_penalty = 1;  ///< logits of tokens seen before: divided if positive, multiplied if negative
  std::vector<int32_t> forbidden = {}; ///< never drawn
  bool tell_cut = false;          ///< draws say what top-k, top-p and min-p left (Draw::kept); costs another pass over the scores, on the host
  /// Throws Error(Kind::usage) naming the option, its range and the value.
  void check() const;
  bool operator==(const SamplingOptions&) const = default;
};

/// A draw looks at nothing but the row's logits, this, and the options: never at what else is in the batch.
struct DrawRow {
  Key key;
  std::span<const int32_t> history = {};  ///< tokens the repetition penalty looks at
};
struct Draw {
  int32_t id;
  float log_prob;  ///< log softmax(logits / temperature)[id] over the whole vocabulary (temperature 1 when greedy)
  float entropy;   ///< of that distribution
  int32_t kept = 0;  ///< with tell_cut: tokens that the ranking filters left to draw from; 0: not told, or nothing ranks
  float mass = 1;    ///< and their share of the probability before those filters
};
/// One token for each row of `products`, f32 [n, V], whose logits are cap * tanh(products / cap) (cap 0: the products themselves). Overwrites
/// them. log_prob is to the bit what linear_log_probs (autograd/ops.h) says of the same products, cap and temperature. Throws
/// Error(Kind::guard) when a row holds NaN or infinity, or nothing is left to draw from.
void draw(const Tensor& products, double cap, const SamplingOptions&, std::span<const DrawRow>, std::span<Draw>);
/// The same for one row of logits.
Draw draw(std::span<const float> logits, const SamplingOptions&, Key, std::span<const int32_t> history = {});

/// draw() in two halves, for where nobody may wait: what draws on a device, and what reads the result.
class Sampler {
 public:
  Sampler(const SamplingOptions&, Device);
  /// products as draw() takes them, f32 [n, V]; u f32 [n] uniform numbers, unless greedy; told f64 [n, 4] as tell_draws leaves it
  /// (tensor/kernels/sample.h). All on the sampler's device. The rows are for the repetition penalty, which uploads what they name.
  void operator()(const Tensor& products, double cap, const Tensor& u, std::span<const DrawRow>, Out told) const;
  /// The filters that act on single tokens: the repetition penalty and what is forbidden.
  void alter(const Tensor& scores, std::span<const DrawRow>) const;

 private:
  Tensor pick(const Tensor& scores, const Tensor& stats, const Tensor& u) const;

  SamplingOptions options_;
  Tensor forbidden_;  // i32 [k], where the scores are
};
/// What tell_draws told of a row, four numbers on the CPU, of V words. Throws as draw() does.
Draw read_draw(const double* told, int64_t V);

struct Candidate {
  int32_t id;
  double probability;
};
/// The distribution that is drawn from: tokens that survive the filters, most likely first (ties by id), summing to 1.
/// With temperature 0: the one greedy token.
std::vector<Candidate> candidates(std::span<const float> logits, const SamplingOptions&, std::span<const int32_t> history = {});

}  // namespace facet

// Sampled completions laid out as rows for one pass that learns from them.
//
//   one a row       prompt and completion, padded to the longest: every row is what sampling computed, so a ratio against the rollout's
//                   log-probabilities is exactly 1 before the first update
//   packed          several of those in a row of up to `row_len` positions, as documents that do not see each other; the same bits
//   shared prompts  a row holds a prompt once (a trunk) and all its completions (branches, which see the trunk and themselves; see
//                   Tokens::segments). With prompts of P and completions of C tokens a group of G costs P + G C tokens, not G (P + C);
//                   the same bits while no position reaches 512, and up to rounding from there on (tensor/kernels/attention.h)
//
// A token is learned where it is predicted: the row of completion token t is that of the token before it. So a branch repeats the
// prompt's last token, at the prompt's last position, and the trunk ends before it; the last token of a completion is only a label.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "nn/language_model.h"

namespace facet {

struct PolicySequence {
  std::span<const int32_t> prompt;      ///< at least one token
  std::span<const int32_t> completion;  ///< at least one token
  int64_t first = 0;   ///< number of the completion's first token among all tokens of the rollout
  int64_t group = 0;   ///< of the prompt; sequences of a group stand side by side
  int64_t number = 0;  ///< of the completion within the rollout
};

struct PolicyLayout {
  bool share_prompts = false;
  int64_t row_len = 0;  ///< positions of a packed row; 0: a completion, or a group when prompts are shared, has a row of its own
  int64_t accum = 1;    ///< micro-batches
  int32_t pad_id = 0;
};

struct PolicyBatch {
  Tokens tokens;               ///< [B, T]; segments are absent when every row is one document
  Tensor labels;               ///< i32 [B, T]: the completion token predicted here, else -1
  std::vector<int64_t> which;  ///< of every position: the number of the token predicted here, else -1
  int64_t computed = 0;        ///< positions that are not padding
};

/// At most `accum` batches of about as many rows each; a sequence is never cut.
std::vector<PolicyBatch> policy_batches(std::span<const PolicySequence>, const PolicyLayout&);

}  // namespace facet

// What a task makes of a row: token ids, and which of them the model is to learn.
#pragma once
#include <cstdint>
#include <string_view>
#include <vector>

#include "data/tokenizer.h"

namespace facet {

struct Example {
  Ids ids;
  std::vector<uint8_t> mask;  ///< as long as ids; 1: predicting this token counts in the loss

  void add(int32_t id, bool learn) {
    ids.push_back(id);
    mask.push_back(learn);
  }
  void add(const Ids& more, bool learn) {
    ids.insert(ids.end(), more.begin(), more.end());
    mask.resize(ids.size(), learn);
  }
  /// Tokens that count in the loss; the first token is never predicted.
  int64_t supervised() const {
    int64_t n = 0;
    for (size_t i = 1; i < mask.size(); ++i) n += mask[i];
    return n;
  }
};

/// An example that holds bos and nothing else (nothing at all if the tokenizer has no bos). Every sequence starts here: bos is
/// added in no other place, which is why it can never be doubled.
Example begin_sequence(const Tokenizer&);

/// Ids of a plain prompt: bos and the text.
Ids encode_prompt(const Tokenizer&, std::string_view text);

}  // namespace facet

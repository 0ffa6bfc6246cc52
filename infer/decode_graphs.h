// A decoding step of a model over a cache, recorded once per set of rows as a CUDA graph and replayed: some hundred launches become one.
// On the CPU, under taps, and the first times a set of rows comes, steps run eagerly; replaying gives the same bits.
#pragma once
#include <memory>
#include <vector>

#include "nn/language_model.h"

namespace facet {

class DecodeGraphs {
 public:
  DecodeGraphs(LanguageModel&, KvCache&);
  ~DecodeGraphs();
  DecodeGraphs(DecodeGraphs&&) noexcept;

  /// Hidden rows [n, 1, D] of one more token for the rows [first, first + n) of the cache, which must be selected; ids and positions [n, 1]
  /// on the CPU. What a replay returns is overwritten by the next.
  Tensor hidden(const Tokens&, int64_t first);
  int64_t replays() const { return replays_; }

 private:
  struct Entry;
  LanguageModel* model_;
  KvCache* cache_;
  std::vector<std::unique_ptr<Entry>> entries_;
  int64_t replays_ = 0;
};

}  // namespace facet

// The options that decide how tokens are drawn, for every command that generates.
#pragma once
#include "app/model_folder.h"
#include "app/options.h"
#include "infer/generator.h"

namespace facet::app {

struct SamplingSettings {
  double temp = 1, top_p = 1, min_p = 0, repetition_penalty = 1;
  int64_t top_k = 0, max_new = 256, context = 0;
  bool greedy = false;
  Values stop, forbid;

  /// Returns --context: where nothing else is called so, --max-len is another name for it.
  Option& declare_sampling(Options&);
  /// Stop and forbidden texts become tokens: each must be a single piece. Throws Error(Kind::usage) otherwise.
  GenerateOptions options(const Tokenizer&, uint64_t seed) const;
};

}  // namespace facet::app

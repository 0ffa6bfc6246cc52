// Settings of every command that reads a dataset.
#pragma once
#include <string>

#include "app/options.h"
#include "data/dataset.h"

namespace facet::app {

/// Under which keys rows hold what.
struct KeySettings {
  std::string text_key = "text", prompt_key = "prompt", completion_key = "completion", messages_key = "messages";
  std::string chosen_key = "chosen", rejected_key = "rejected", answer_key;

  void declare_keys(Options&);
  RowKeys keys() const;
};

struct DataSettings : KeySettings {
  std::string data, valid, format = "auto", too_long = "drop", mask = "prompt";
  int64_t max_len = 0, max_bad_rows = 0;
  double val_frac = 0;
  bool truncate = false, chat_template = false, merge_roles = false, safe = false;

  /// Declares all of them; returns --data, which some commands require.
  Option& declare(Options&);
  static constexpr int64_t default_max_len = 512;
  /// `context`: positions the model was made for. Throws Error(Kind::usage) when --max-len asks for more.
  DataOptions options(uint64_t seed, int64_t context = 1 << 24) const;
  /// The training part and, from --valid, --val-frac or the folder, the validation part.
  Splits read(const Tokenizer&, uint64_t seed, int64_t context = 1 << 24) const;
};

}  // namespace facet::app

// A conversation that keeps its cache: every turn computes only what is new.
#pragma once
#include <functional>
#include <string>
#include <string_view>

#include "data/chat.h"
#include "infer/generator.h"

namespace facet {

class Chat {
 public:
  /// `context`: most tokens of the whole conversation (0: the model's). Throws Error(Kind::usage) when the tokenizer has no turn
  /// tags: such a model was never taught to take turns.
  Chat(LanguageModel&, Tokenizer, GenerateOptions, int64_t context = 0);

  /// Put before the first user message.
  void set_system(std::string text) { system_ = std::move(text); }
  /// Sends a message and returns the answer, without its end tag; `on_text` gets it piece by piece, whole characters only, and
  /// may return false to end it. Throws Error(Kind::usage), leaving the conversation as it was, when the context is full.
  std::string say(const std::string& message, const std::function<bool(std::string_view)>& on_text = {});
  /// Starts anew.
  void clear();

  const std::vector<int32_t>& tokens() const { return tokens_; }  ///< the whole conversation
  int64_t last_computed() const { return computed_; }             ///< tokens the last turn fed before its first new token
  Stop last_stop() const { return stop_; }

 private:
  Tokenizer tokenizer_;
  GenerateOptions options_;
  Generator generator_;
  std::string system_;
  std::vector<int32_t> tokens_;
  int64_t computed_ = 0;
  Stop stop_ = Stop::running;
};

}  // namespace facet

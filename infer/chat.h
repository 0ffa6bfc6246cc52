// A conversation that keeps its cache: every turn computes only what is new. When the context is full its oldest exchanges are forgotten,
// whole, and whoever asks is told.
#pragma once
#include "data/chat.h"
#include "infer/text.h"

namespace facet {

class Chat {
 public:
  /// options.context: most tokens of the whole conversation. Throws Error(Kind::usage) when the tokenizer has no turn tags: such a model
  /// was never taught to take turns.
  Chat(LanguageModel&, Tokenizer, GenerateOptions);

  /// What a turn had to forget to find room for its message and an answer of max_new tokens, or of a quarter of the context if that is less.
  struct Forgotten {
    int64_t exchanges = 0;  ///< a message and its answer each, the oldest ones
    int64_t tokens = 0;
  };
  using OnForgotten = std::function<void(const Forgotten&)>;

  /// Put before the first user message, also when that is forgotten; from the next turn on.
  void set_system(std::string text) { system_ = std::move(text); }
  /// Sends a message and returns the answer, without its end tag; `on_text` gets it piece by piece. What then follows has the tokens of a
  /// conversation that began with the first exchange still remembered; what had to be forgotten is told before anything is computed. Throws
  /// Error(Kind::usage), leaving the conversation as it was, when the message alone fills the context.
  std::string say(const std::string& message, const OnText& on_text = {}, const OnForgotten& on_forgotten = {});
  /// Starts anew.
  void clear();

  const std::vector<int32_t>& tokens() const { return tokens_; }  ///< the whole conversation, as far as it is remembered
  int64_t context() const { return generator_.capacity(); }
  int64_t last_computed() const { return computed_; }             ///< tokens the last turn fed before its first new token
  Stop last_stop() const { return stop_; }

 private:
  struct Exchange {
    std::string message;
    Ids answer;  ///< as drawn, a stop token included
    Stop stop = Stop::running;
  };
  Ids opened(const std::string& message, bool first) const;
  void append_closed(Ids& to, const Exchange&) const;
  Ids from_exchange(size_t first, const std::string& message) const;

  Tokenizer tokenizer_;
  GenerateOptions options_;
  Generator generator_;
  std::string system_;
  std::vector<Exchange> exchanges_;  ///< those remembered
  Ids tokens_;
  int64_t computed_ = 0;
  Stop stop_ = Stop::running;
};

}  // namespace facet

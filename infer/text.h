// From tokens to text while they are drawn, and the shortest way from a prompt to its continuation. The levels of this room: Generator deals
// in ids and logits, complete() in one text, Chat in a conversation.
#pragma once
#include <functional>
#include <string>
#include <string_view>

#include "data/tokenizer.h"
#include "infer/generator.h"

namespace facet {

/// Gets an answer piece by piece, whole characters only and never nothing; false ends it.
using OnText = std::function<bool(std::string_view)>;

/// Text of the tokens of one row. Stop tokens are no text.
class TextStream {
 public:
  TextStream(Tokenizer tokenizer, const std::vector<int32_t>& stop, OnText on_text)
      : decoder_(std::move(tokenizer)), stop_(stop), on_text_(std::move(on_text)) {}
  bool push(int32_t id);       ///< false: whoever reads has seen enough
  const std::string& finish(); ///< hands over what was held back of an unfinished character; all of the text

 private:
  bool hand_over(const std::string& piece);
  StreamDecoder decoder_;
  std::vector<int32_t> stop_;
  OnText on_text_;
  std::string text_;
  bool wanted_ = true;
};

struct Completion {
  std::string text;  ///< without the stop token
  Generation generation;
};
/// Continues a prompt. Without options.stop the tokenizer's stop tokens end the answer. Whoever wants more than text of each token gives
/// `on_token`; either may end it.
Completion complete(LanguageModel&, const Tokenizer&, const std::vector<int32_t>& prompt, GenerateOptions = {}, const OnText& = {}, const OnToken& = {});
/// The same of a plain text; its bos is added.
Completion complete(LanguageModel&, const Tokenizer&, std::string_view prompt, const GenerateOptions& = {}, const OnText& = {});

}  // namespace facet

#include "infer/text.h"

#include <algorithm>

#include "data/example.h"

namespace facet {

bool TextStream::hand_over(const std::string& piece) {
  text_ += piece;
  if (wanted_ && on_text_ && !piece.empty()) wanted_ = on_text_(piece);
  return wanted_;
}

bool TextStream::push(int32_t id) {
  if (std::ranges::find(stop_, id) != stop_.end()) return wanted_;
  return hand_over(decoder_.push(id));
}

const std::string& TextStream::finish() {
  hand_over(decoder_.finish());
  return text_;
}

Completion complete(LanguageModel& model, const Tokenizer& tokenizer, const std::vector<int32_t>& prompt, GenerateOptions options, const OnText& on_text,
                    const OnToken& on_token) {
  if (options.stop.empty()) options.stop = tokenizer.stop_ids();
  TextStream stream(tokenizer, options.stop, on_text);
  Completion c;
  c.generation = generate(model, {prompt}, options, [&](int64_t row, const Draw& d) {
    const bool wanted = !on_token || on_token(row, d);
    return stream.push(d.id) && wanted;
  })[0];
  c.text = stream.finish();
  return c;
}

Completion complete(LanguageModel& model, const Tokenizer& tokenizer, std::string_view prompt, const GenerateOptions& options, const OnText& on_text) {
  return complete(model, tokenizer, encode_prompt(tokenizer, prompt), options, on_text);
}

}  // namespace facet

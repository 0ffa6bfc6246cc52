#include "infer/chat.h"

#include <algorithm>

namespace facet {

Chat::Chat(LanguageModel& model, Tokenizer tokenizer, GenerateOptions options, int64_t context)
    : tokenizer_(std::move(tokenizer)), options_(std::move(options)), generator_(model, 1, context) {
  if (tokenizer_.specials().end_of_turn < 0)
    fail(Kind::usage, "chat: this model's tokenizer has no turn tags, so it never learned to take turns; use facet generate");
  if (options_.stop.empty()) options_.stop = tokenizer_.stop_ids();
}

void Chat::clear() {
  generator_.forget(0);
  tokens_.clear();
}

std::string Chat::say(const std::string& message, const std::function<bool(std::string_view)>& on_text) {
  std::vector<Message> turn;
  if (tokens_.empty() && !system_.empty()) turn.emplace_back("system", system_);
  turn.emplace_back("user", message);
  Ids added = encode_chat(tokenizer_, turn, {.generation_prompt = true, .merge_roles = false, .safe = true}).ids;
  if (!tokens_.empty()) {
    // The answer before is closed as the template closes it; only the first turn starts with bos.
    Ids close;
    if (tokens_.back() != tokenizer_.specials().end_of_turn) close.push_back(tokenizer_.specials().end_of_turn);
    const Ids newline = tokenizer_.encode("\n");
    close.insert(close.end(), newline.begin(), newline.end());
    const bool bos = !added.empty() && added.front() == tokenizer_.specials().bos;
    added.erase(added.begin(), added.begin() + (bos ? 1 : 0));
    added.insert(added.begin(), close.begin(), close.end());
  }
  // The last token of the answer was drawn but not computed.
  Ids feed(tokens_.begin() + generator_.length(0), tokens_.end());
  feed.insert(feed.end(), added.begin(), added.end());
  const int64_t total = generator_.length(0) + static_cast<int64_t>(feed.size());
  if (total >= generator_.capacity())
    fail(Kind::usage, "chat: the conversation would hold {} tokens, the context is {}; /clear starts anew", total,
         generator_.capacity());
  tokens_.insert(tokens_.end(), added.begin(), added.end());
  computed_ = static_cast<int64_t>(feed.size());

  StreamDecoder decoder(tokenizer_);
  std::string text;
  const auto emit = [&](const std::string& piece) {
    text += piece;
    return piece.empty() || !on_text || on_text(piece);
  };
  const auto on_token = [&](int64_t, const Draw& d) {
    tokens_.push_back(d.id);
    const auto& stop = options_.stop;
    if (std::find(stop.begin(), stop.end(), d.id) != stop.end()) return true;
    return emit(decoder.push(d.id));
  };
  stop_ = continue_rows(generator_, {0}, {feed}, options_, on_token)[0].stop;
  emit(decoder.finish());
  return text;
}

}  // namespace facet

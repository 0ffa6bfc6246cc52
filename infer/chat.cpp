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
  stop_ = Stop::running;
}

std::string Chat::say(const std::string& message, const std::function<bool(std::string_view)>& on_text) {
  std::vector<Message> turn;
  if (tokens_.empty() && !system_.empty()) turn.emplace_back("system", system_);
  turn.emplace_back("user", message);
  Ids added = encode_chat(tokenizer_, turn, {.generation_prompt = true, .merge_roles = false, .safe = true}).ids;
  Ids all = tokens_;
  if (!all.empty()) {
    // The answer before is closed as the template closes it, whatever ended it; only the first turn starts with bos. The last token
    // was drawn but not computed, so it can still be taken back.
    const int32_t end = tokenizer_.specials().end_of_turn;
    if (stop_ == Stop::stop_token && all.back() != end) all.pop_back();
    if (all.back() != end) all.push_back(end);
    const Ids newline = tokenizer_.encode("\n");
    all.insert(all.end(), newline.begin(), newline.end());
    if (added.front() == tokenizer_.specials().bos) added.erase(added.begin());
  }
  all.insert(all.end(), added.begin(), added.end());
  const auto total = static_cast<int64_t>(all.size());
  if (total >= generator_.capacity())
    fail(Kind::usage, "chat: the conversation would hold {} tokens, the context is {}; /clear starts anew", total,
         generator_.capacity());
  tokens_ = std::move(all);
  const Ids feed(tokens_.begin() + generator_.length(0), tokens_.end());
  computed_ = static_cast<int64_t>(feed.size());

  StreamDecoder decoder(tokenizer_);
  std::string text;
  bool wanted = true;
  const auto emit = [&](const std::string& piece) {
    text += piece;
    if (wanted && on_text && !piece.empty()) wanted = on_text(piece);
    return wanted;
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

#include "infer/chat.h"

#include <algorithm>

namespace facet {

Chat::Chat(LanguageModel& model, Tokenizer tokenizer, GenerateOptions options)
    : tokenizer_(std::move(tokenizer)), options_(std::move(options)), generator_(model, 1, options_.context) {
  if (tokenizer_.specials().end_of_turn < 0)
    fail(Kind::usage, "chat: this model's tokenizer has no turn tags, so it never learned to take turns; use facet generate");
  if (options_.stop.empty()) options_.stop = tokenizer_.stop_ids();
}

void Chat::clear() {
  generator_.forget(0);
  exchanges_.clear();
  tokens_.clear();
  stop_ = Stop::running;
}

// A message and the opening of its answer; only the first begins with bos and the system text.
Ids Chat::opened(const std::string& message, bool first) const {
  std::vector<Message> turn;
  if (first && !system_.empty()) turn.emplace_back("system", system_);
  turn.emplace_back("user", message);
  Ids ids = encode_chat(tokenizer_, turn, {.generation_prompt = true, .merge_roles = false, .safe = true}).ids;
  if (!first && ids.front() == tokenizer_.specials().bos) ids.erase(ids.begin());
  return ids;
}

// An answer closed as the template closes it, whatever ended it. Its last token was drawn but not computed, so it can still be taken back.
void Chat::append_closed(Ids& to, const Exchange& e) const {
  const int32_t end = tokenizer_.specials().end_of_turn;
  to.insert(to.end(), e.answer.begin(), e.answer.end());
  if (!e.answer.empty() && e.stop == Stop::stop_token && to.back() != end) to.pop_back();
  if (e.answer.empty() || to.back() != end) to.push_back(end);
  const Ids newline = tokenizer_.encode("\n");
  to.insert(to.end(), newline.begin(), newline.end());
}

// The tokens of a conversation that begins with exchange `first`, up to where the message is to be answered.
Ids Chat::from_exchange(size_t first, const std::string& message) const {
  Ids ids;
  for (size_t i = first; i < exchanges_.size(); ++i) {
    const Ids asked = opened(exchanges_[i].message, i == first);
    ids.insert(ids.end(), asked.begin(), asked.end());
    append_closed(ids, exchanges_[i]);
  }
  const Ids asked = opened(message, first == exchanges_.size());
  ids.insert(ids.end(), asked.begin(), asked.end());
  return ids;
}

std::string Chat::say(const std::string& message, const OnText& on_text, const OnForgotten& on_forgotten) {
  const int64_t room = std::min(options_.max_new, context() / 4);
  Ids all = from_exchange(0, message);
  const size_t whole = all.size();
  size_t first = 0;
  while (std::ssize(all) + room > context() && first < exchanges_.size()) all = from_exchange(++first, message);
  if (std::ssize(all) >= context())
    fail(Kind::usage, "chat: this message alone makes {} tokens, the context is {}; shorten it or raise --context", all.size(), context());
  if (first > 0 && on_forgotten) on_forgotten({static_cast<int64_t>(first), static_cast<int64_t>(whole - all.size())});
  const int64_t cached = generator_.length(0);  // all of it stays, unless exchanges were forgotten or the system text is another one
  if (std::ssize(all) < cached || !std::equal(tokens_.begin(), tokens_.begin() + cached, all.begin())) generator_.forget(0);
  exchanges_.erase(exchanges_.begin(), exchanges_.begin() + static_cast<ptrdiff_t>(first));
  exchanges_.push_back({message, {}});
  tokens_ = std::move(all);
  const Ids feed(tokens_.begin() + generator_.length(0), tokens_.end());
  computed_ = std::ssize(feed);

  Exchange& now = exchanges_.back();
  TextStream stream(tokenizer_, options_.stop, on_text);
  const auto on_token = [&](int64_t, const Draw& d) {
    tokens_.push_back(d.id);
    now.answer.push_back(d.id);
    return stream.push(d.id);
  };
  stop_ = now.stop = continue_rows(generator_, {0}, {feed}, options_, on_token)[0].stop;
  return stream.finish();
}

}  // namespace facet

// The chat format of Gemma 1-3, written out by hand: <bos>, then per message <start_of_turn>, the role (user or model), a newline,
// the trimmed content, <end_of_turn>, a newline. A leading system message goes, with two newlines, before the first user content.
// data/tests hold renderings by transformers to compare with.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "data/example.h"
#include "data/tokenizer.h"

namespace facet {

/// A piece of a message: text, or the place of an image (rendered as `<start_of_image>`).
struct Part {
  std::string text;
  bool image = false;
  bool operator==(const Part&) const = default;
};

struct Message {
  std::string role;  ///< "user", "model" (or "assistant"), or "system" in first place
  std::vector<Part> parts;
  bool from_model() const { return role == "model" || role == "assistant"; }
  bool operator==(const Message& o) const { return parts == o.parts && (role == o.role || (from_model() && o.from_model())); }
  Message(std::string role_, std::string text) : role(std::move(role_)), parts{{std::move(text), false}} {}
  Message(std::string role_, std::vector<Part> parts_) : role(std::move(role_)), parts(std::move(parts_)) {}
};

struct ChatOptions {
  bool generation_prompt = false;  ///< end with "<start_of_turn>model\n", for the model to go on
  bool merge_roles = false;        ///< join neighbours of one role with two newlines instead of refusing them
  bool safe = false;               ///< tags inside contents are spelled as ordinary text (Tokenizer::encode_without_tags)
  size_t learn_from = 0;           ///< messages before this one are a prompt: turns of the model that begin there are not learned
};

/// Token ids of a conversation, bos included. The mask marks the model's contents and the `<end_of_turn>` after them.
/// Throws Error(Kind::data) naming the turn when the roles do not alternate, and Error(Kind::file) when the tokenizer has no turn tags.
Example encode_chat(const Tokenizer&, const std::vector<Message>&, const ChatOptions& = {});

/// The same conversation as text, `<bos>` written out: for people and for tests. Encode it with encode_chat, not by hand.
std::string render_chat(const std::vector<Message>&, const ChatOptions& = {});

/// The format as a Jinja template, for exported model folders.
std::string_view chat_template_jinja();

}  // namespace facet

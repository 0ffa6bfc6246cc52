#include "data/chat.h"

#include "tensor/io/text.h"

namespace facet {

namespace {

constexpr std::string_view image_tag = "<start_of_image>", open_tag = "<start_of_turn>", close_tag = "<end_of_turn>";

// Length of the whitespace character (as Python's str.strip sees it, which is what the template's trim calls) that text starts
// with, or 0.
size_t leading_space(std::string_view text) {
  const auto b = [&](size_t i) { return i < text.size() ? static_cast<uint8_t>(text[i]) : 0u; };
  if ((b(0) >= 0x09 && b(0) <= 0x0D) || (b(0) >= 0x1C && b(0) <= 0x20)) return 1;
  if (b(0) == 0xC2 && (b(1) == 0x85 || b(1) == 0xA0)) return 2;
  const uint32_t three = b(0) << 16 | b(1) << 8 | b(2);
  const bool space = three == 0xE19A80 || (three >= 0xE28080 && three <= 0xE2808A) || three == 0xE280A8 || three == 0xE280A9 ||
                     three == 0xE280AF || three == 0xE2819F || three == 0xE38080;
  return space ? 3 : 0;
}

std::string_view trim(std::string_view text) {
  while (const size_t n = leading_space(text)) text.remove_prefix(n);
  for (;;) {
    size_t n = 1;  // bytes of the last character
    while (n < text.size() && n < 4 && (static_cast<uint8_t>(text[text.size() - n]) & 0xC0) == 0x80) ++n;
    if (text.empty() || leading_space(text.substr(text.size() - n)) != n) return text;
    text.remove_suffix(n);
  }
}

struct Turn {
  bool model = false, learn = false;
  std::vector<Part> parts;
};

// Roles checked, system text merged, contents trimmed.
std::vector<Turn> normal_turns(const std::vector<Message>& messages, const ChatOptions& options) {
  if (messages.empty()) fail(Kind::data, "a conversation needs at least one message");
  std::vector<Turn> turns;
  std::string system;
  for (size_t i = 0; i < messages.size(); ++i) {
    const Message& m = messages[i];
    const bool model = m.from_model();
    if (m.role == "system") {
      if (i != 0) fail(Kind::data, "turn {} is \"system\"; only the first turn can be", i + 1);
      for (const Part& p : m.parts) system += p.text;
      system += "\n\n";
      continue;
    }
    if (!model && m.role != "user")
      fail(Kind::data, "turn {} is \"{}\"; roles are user, model (or assistant), and system in first place", i + 1, printable(m.role, 40));
    const bool same_as_last = !turns.empty() && turns.back().model == model;
    if (turns.empty() && model) fail(Kind::data, "turn {} is \"{}\"; the first turn must be \"user\"", i + 1, m.role);
    if (same_as_last && !options.merge_roles)
      fail(Kind::data, "turn {} is \"{}\" after \"{}\"; turns must alternate (--merge-roles joins neighbours)", i + 1, m.role,
           messages[i - 1].role);
    if (!same_as_last) turns.push_back({model, model && i >= options.learn_from, {}});
    auto& parts = turns.back().parts;
    if (same_as_last) parts.push_back({"\n\n", false});
    if (turns.size() == 1 && !same_as_last && !system.empty()) parts.push_back({system, false});  // not trimmed
    for (const Part& p : m.parts) parts.push_back({std::string(trim(p.text)), p.image});
  }
  if (turns.empty()) fail(Kind::data, "the conversation holds only a system message");
  if (options.generation_prompt && turns.back().model)
    fail(Kind::data, "the last turn is \"{}\"; a prompt must end with \"user\"", messages.back().role);
  return turns;
}

const char* role_name(const Turn& turn) { return turn.model ? "model" : "user"; }

}  // namespace

std::string render_chat(const std::vector<Message>& messages, const ChatOptions& options) {
  std::string text = "<bos>";
  for (const Turn& turn : normal_turns(messages, options)) {
    text.append(open_tag).append(role_name(turn)).append("\n");
    for (const Part& p : turn.parts) text.append(p.image ? image_tag : std::string_view(p.text));
    text.append(close_tag).append("\n");
  }
  if (options.generation_prompt) text.append(open_tag).append("model\n");
  return text;
}

Example encode_chat(const Tokenizer& tokenizer, const std::vector<Message>& messages, const ChatOptions& options) {
  const Specials& special = tokenizer.specials();
  if (special.start_of_turn < 0 || special.end_of_turn < 0)
    fail(Kind::file, "the tokenizer has no {} and {} pieces, so it cannot hold a conversation; use prompt/completion data", open_tag, close_tag);
  Example e = begin_sequence(tokenizer);
  // Text between two tags is encoded as a whole (tags stop merges anyway), except at the start of the model's content: there
  // generation starts, so nothing may merge across.
  std::string text;
  bool learn = false;
  const auto flush = [&] {
    e.add(options.safe ? tokenizer.encode_without_tags(text) : tokenizer.encode(text), learn);
    text.clear();
  };
  for (const Turn& turn : normal_turns(messages, options)) {
    flush();
    e.add(special.start_of_turn, false);
    text = std::string(role_name(turn)) + "\n";
    if (turn.model) flush();
    learn = turn.learn;
    for (const Part& p : turn.parts) {
      if (!p.image) {
        text += p.text;
        continue;
      }
      if (special.start_of_image < 0) fail(Kind::data, "a message holds an image, but the tokenizer has no {}", image_tag);
      flush();
      e.add(special.start_of_image, false);
    }
    flush();
    e.add(special.end_of_turn, turn.learn);
    learn = false;
    text.assign(1, '\n');
  }
  flush();
  if (options.generation_prompt) {
    e.add(special.start_of_turn, false);
    e.add(tokenizer.encode("model\n"), false);
  }
  return e;
}

std::string_view chat_template_jinja() {
  return R"({{- bos_token -}}
{%- set first = messages[0] -%}
{%- if first.role == 'system' -%}
  {%- set lead = (first.content if first.content is string else first.content[0].text) + '\n\n' -%}
  {%- set turns = messages[1:] -%}
{%- else -%}
  {%- set lead = '' -%}
  {%- set turns = messages -%}
{%- endif -%}
{%- for turn in turns -%}
  {%- set role = 'model' if turn.role == 'assistant' else turn.role -%}
  {%- if role != ('user' if loop.index0 is even else 'model') -%}
    {{- raise_exception('roles must alternate: user, assistant, user, ...') -}}
  {%- endif -%}
  {{- '<start_of_turn>' + role + '\n' + (lead if loop.first else '') -}}
  {%- if turn.content is string -%}
    {{- turn.content | trim -}}
  {%- else -%}
    {%- for part in turn.content -%}
      {{- '<start_of_image>' if part.type == 'image' else part.text | trim -}}
    {%- endfor -%}
  {%- endif -%}
  {{- '<end_of_turn>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<start_of_turn>model\n' -}}
{%- endif -%}
)";
}

}  // namespace facet

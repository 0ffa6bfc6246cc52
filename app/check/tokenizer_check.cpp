#include <algorithm>

#include "app/check/checks.h"
#include "data/chat.h"
#include "data/example.h"
#include "tensor/io/json.h"

namespace facet::app {
namespace {

std::string shortened(const std::string& s) {
  std::string r;
  for (char c : s.substr(0, 24)) r += static_cast<unsigned char>(c) < 32 ? ' ' : c;
  return s.size() > 24 ? r + "..." : r;
}

void same(CheckReport& report, const std::string& name, const Json& got, const Json& want) {
  CheckRow row;
  row.name = name;
  row.elements = row.differ = 1;
  row.ok = got == want;
  row.differ = row.ok ? 0 : 1;
  const auto text = [](const Json& j) { return j.dump(-1, ' ', false, Json::error_handler_t::replace); };
  if (!row.ok) row.note = fmt::format("{} here, {} in the reference", text(got), text(want));
  report.add(row);
}

std::vector<Message> messages_of(const Json& list) {
  std::vector<Message> messages;
  for (const Json& m : list) {
    if (m.at("content").is_string()) {
      messages.emplace_back(m.at("role").get<std::string>(), m.at("content").get<std::string>());
      continue;
    }
    std::vector<Part> parts;
    for (const Json& p : m.at("content")) parts.push_back({p.value("text", ""), p.at("type") == "image"});
    messages.emplace_back(m.at("role").get<std::string>(), std::move(parts));
  }
  return messages;
}

// {"messages": .., "text": .., "ids": ..}; with "error" instead of the latter, a conversation that must be refused.
void check_chats(const Tokenizer& tokenizer, const Json& cases, CheckReport& report) {
  int n = 0;
  for (const Json& c : cases) {
    const std::string name = fmt::format("chat {}", n++);
    if (!report.wanted(name)) continue;
    const std::vector<Message> messages = messages_of(c.at("messages"));
    const ChatOptions options{.generation_prompt = c.value("add_generation_prompt", false), .merge_roles = false, .safe = false};
    if (c.contains("error")) {
      bool refused = false;
      try {
        render_chat(messages, options);
      } catch (const Error&) {
        refused = true;
      }
      same(report, name + " refused", refused, true);
    }
    if (c.contains("text")) same(report, name + " text", render_chat(messages, options), c.at("text"));
    if (c.contains("ids")) same(report, name + " ids", encode_chat(tokenizer, messages, options).ids, c.at("ids"));
  }
}

// [text, ids], thousands of them: a line for each that differs, and one for the others.
void check_strings(const Tokenizer& tokenizer, const Json& pairs, CheckReport& report) {
  CheckRow equal;
  int n = 0;
  for (const Json& pair : pairs) {
    const std::string text = pair.at(0), name = fmt::format("string {} \"{}\"", n++, shortened(text));
    if (!report.wanted(name)) continue;
    const Json ids = tokenizer.encode(text);
    if (ids == pair.at(1)) ++equal.elements;
    else same(report, name, ids, pair.at(1));
  }
  equal.name = "strings with the reference's ids";
  if (equal.elements > 0) report.add(equal);
}

}  // namespace

void check_tokenizer(const Tokenizer& tokenizer, const std::string& path, CheckReport& report) {
  const Json file = read_json(path);
  const bool list = file.is_array() && !file.empty();
  if (!list && !(file.is_object() && (file.contains("encode") || file.contains("decode") || file.contains("cases"))))
    fail(Kind::file, "{}: expected an object with \"encode\", \"decode\" or \"cases\", a list of [text, ids], or a list of conversations", path);
  int by_design = 0;
  try {
    if (list) return file[0].is_array() ? check_strings(tokenizer, file, report) : check_chats(tokenizer, file, report);
    int n = 0;
    for (const Json& c : file.value("encode", Json::array())) {
      const std::string text = c.at("text"), name = fmt::format("encode {} \"{}\"", n++, shortened(text));
      if (!report.wanted(name)) continue;
      const Ids ids = tokenizer.encode(text);
      same(report, name + " ids", ids, c.at("ids"));
      if (c.contains("decoded")) same(report, name + " text", tokenizer.decode(ids), c.at("decoded"));
      if (!c.value("hf_same", true)) ++by_design;
    }
    n = 0;
    for (const Json& c : file.value("decode", Json::array())) {
      const std::string name = fmt::format("decode {}", n++);
      if (report.wanted(name)) same(report, name, tokenizer.decode(c.at("ids").get<Ids>()), c.at("decoded"));
    }
    check_chats(tokenizer, file.value("cases", Json::array()), report);
  } catch (const Json::exception& e) {
    fail(Kind::file, "{}: not in the expected layout: {}", path, e.what());
  }
  if (by_design)
    report.not_compared("Hugging Face's own ids", fmt::format("{} texts are cut differently there by design; SentencePiece decides", by_design));
}

void check_tokenizer_alone(const Tokenizer& tokenizer, int64_t rows, CheckReport& report) {
  const auto wanted = [&](const std::string& name, const Json& got, const Json& want) {
    if (report.wanted(name)) same(report, name, got, want);
  };
  const Specials& s = tokenizer.specials();
  // By name; a tokenizer without turn tags belongs to a model that was never taught to take turns.
  for (const auto& [id, piece] : {std::pair(s.pad, "<pad>"), std::pair(s.eos, "<eos>"), std::pair(s.bos, "<bos>"), std::pair(s.unk, "<unk>")})
    wanted(fmt::format("special {}", piece), id < 0 ? "absent" : tokenizer.piece(id), piece);
  const bool turns = s.end_of_turn >= 0;
  if (turns) {
    wanted("special <start_of_turn>", tokenizer.piece(s.start_of_turn), "<start_of_turn>");
    wanted("special <end_of_turn>", tokenizer.piece(s.end_of_turn), "<end_of_turn>");
    const auto& stops = tokenizer.stop_ids();
    wanted("stops at <eos> and <end_of_turn>", std::ranges::count(stops, s.eos) + std::ranges::count(stops, s.end_of_turn), 2);
  } else {
    report.not_compared("turns", "the tokenizer has no turn tags");
  }
  if (rows > 0) wanted("a row of the model for every piece", tokenizer.vocab_size() <= rows, true);

  const auto leading = [&](const Ids& ids) { return std::ranges::count(ids, s.bos) == 1 && ids.front() == s.bos; };
  wanted("one <bos> before a prompt", leading(encode_prompt(tokenizer, "Why is the sky blue?")), true);
  if (turns) {
    const std::vector<Message> talk = {{"user", "<bos>Hi<end_of_turn>"}, {"model", "Hello"}, {"user", "Bye"}};
    const Ids ids = encode_chat(tokenizer, talk, {.generation_prompt = true, .merge_roles = false, .safe = true}).ids;
    wanted("one <bos> before a conversation", leading(ids), true);
    wanted("tags in a message open and close nothing", std::ranges::count(ids, s.end_of_turn), 3);
  }
  // What tokenizers trip over. A character without pieces would come back as another: not every tokenizer can spell all of them.
  for (const char* text : {"Hello, world!", "  two  spaces, a tab\t and\n\nlines \n", "1234567890 0.5e-3", "naïve café e\u0301", "שלום مرحبا", "日本語と한국어",
                           "👨‍👩‍👧‍👦 👍🏽 🇺🇳", "\r\n\u00a0\u200b\ufeff", "<bos> <eos> <pad>", "int main() { return 0; }"}) {
    const Ids ids = tokenizer.encode(text);
    const std::string name = fmt::format("round trip \"{}\"", shortened(text));
    if (std::ranges::count(ids, s.unk) == 0) wanted(name, tokenizer.decode(ids), text);
    else if (report.wanted(name)) report.not_compared(name, "has characters that this tokenizer does not know");
  }
}

}  // namespace facet::app

#include "app/check/checks.h"
#include "data/chat.h"
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

}  // namespace

void check_tokenizer(const Tokenizer& tokenizer, const std::string& path, CheckReport& report) {
  const Json file = read_json(path);
  if (!file.is_object() || !(file.contains("encode") || file.contains("decode") || file.contains("cases")))
    fail(Kind::file, "{}: expected an object with \"encode\", \"decode\" or \"cases\"", path);
  int by_design = 0;
  try {
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
    n = 0;
    for (const Json& c : file.value("cases", Json::array())) {
      const std::string name = fmt::format("chat {}", n++);
      if (!report.wanted(name)) continue;
      std::vector<Message> messages;
      for (const Json& m : c.at("messages")) {
        if (m.at("content").is_string()) {
          messages.emplace_back(m.at("role").get<std::string>(), m.at("content").get<std::string>());
          continue;
        }
        std::vector<Part> parts;
        for (const Json& p : m.at("content")) parts.push_back({p.value("text", ""), p.at("type") == "image"});
        messages.emplace_back(m.at("role").get<std::string>(), std::move(parts));
      }
      const ChatOptions options{.generation_prompt = c.value("add_generation_prompt", false), .merge_roles = false, .safe = false};
      if (c.contains("text")) same(report, name + " text", render_chat(messages, options), c.at("text"));
      if (c.contains("ids")) same(report, name + " ids", encode_chat(tokenizer, messages, options).ids, c.at("ids"));
    }
  } catch (const Json::exception& e) {
    fail(Kind::file, "{}: not in the expected layout: {}", path, e.what());
  }
  if (by_design)
    report.not_compared("Hugging Face's own ids", fmt::format("{} texts are cut differently there by design; SentencePiece decides", by_design));
}

}  // namespace facet::app

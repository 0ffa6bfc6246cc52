#include "data/row.h"

#include <algorithm>

#include "tensor/io/json.h"
#include "tensor/io/text.h"

namespace facet {

namespace {

constexpr const char* task_names[] = {"text", "completion", "chat", "preference", "prompt", "document"};

// Fields of one row, with errors that say where.
class Fields {
 public:
  Fields(const Json& row, const std::string& where) : row_(row), where_(where) {}

  bool has(const std::string& key) const { return row_.contains(key); }

  const Json& get(const std::string& key) const {
    const auto at = row_.find(key);
    if (at == row_.end()) fail(Kind::data, "{}: \"{}\" is missing; found {}", where_, key, keys());
    return *at;
  }

  std::string string(const std::string& key) const {
    const Json& v = get(key);
    if (!v.is_string()) fail(Kind::data, "{}: \"{}\" must be a string; found {}", where_, key, type_name(v));
    return v.get<std::string>();
  }

  bool is_text_or_number(const std::string& key) const { return has(key) && (row_[key].is_string() || row_[key].is_number()); }
  std::string text_or_number(const std::string& key) const {
    const Json& v = get(key);
    if (!is_text_or_number(key)) fail(Kind::data, "{}: \"{}\" must be a string or a number; found {}", where_, key, type_name(v));
    return v.is_string() ? v.get<std::string>() : v.dump();
  }

  std::vector<Message> messages(const std::string& key) const {
    const Json& list = get(key);
    if (!list.is_array() || list.empty())
      fail(Kind::data, "{}: \"{}\" must be a non-empty list; found {}", where_, key, list.is_array() ? "an empty list" : type_name(list));
    std::vector<Message> r;
    for (size_t i = 0; i < list.size(); ++i) {
      const std::string place = fmt::format("{}: \"{}\" turn {}", where_, key, i + 1);
      const Json& m = list[i];
      if (!m.is_object()) fail(Kind::data, "{} must be an object with \"role\" and \"content\"; found {}", place, type_name(m));
      const Fields fields(m, place);
      std::string role = fields.string("role");
      r.emplace_back(std::move(role), fields.parts("content"));
    }
    return r;
  }

  std::string keys() const {
    std::string s;
    for (const auto& [key, value] : row_.items()) s += (s.empty() ? "" : ", ") + printable(key, 40);
    return s.empty() ? "no keys" : printable(s, 200);
  }

 private:
  std::vector<Part> parts(const std::string& key) const {
    const Json& v = get(key);
    if (v.is_string()) return {{v.get<std::string>(), false}};
    if (!v.is_array()) fail(Kind::data, "{}: \"{}\" must be a string or a list of parts; found {}", where_, key, type_name(v));
    std::vector<Part> r;
    for (const Json& p : v) {
      const std::string type = p.is_object() && p.contains("type") && p["type"].is_string() ? p["type"].get<std::string>() : "";
      if (type == "image") r.push_back({"", true});
      else if (type == "text") r.push_back({Fields(p, where_).string("text"), false});
      else fail(Kind::data, "{}: a part of \"{}\" must be {{\"type\": \"text\" or \"image\"}}", where_, key);
    }
    return r;
  }

  const Json& row_;
  const std::string& where_;
};

Task detect(const Fields& f, const std::string& where, const RowKeys& k) {
  if (f.has(k.messages)) return Task::chat;
  if (f.has(k.chosen) || f.has(k.rejected)) return Task::preference;
  if (f.has(k.prompt)) return f.has(k.completion) || f.has("response") ? Task::completion : Task::prompt;
  if (f.has(k.text)) return Task::text;
  fail(Kind::data, "{}: no known field; expected \"{}\", \"{}\" with \"{}\", or \"{}\"; found {}", where, k.text, k.prompt, k.completion,
       k.messages, f.keys());
}

}  // namespace

const char* name_of(Task t) { return task_names[static_cast<int>(t)]; }

Task task_named(std::string_view name) {
  for (size_t i = 0; i < std::size(task_names); ++i)
    if (name == task_names[i]) return static_cast<Task>(i);
  fail(Kind::usage, "data format \"{}\" is unknown; expected text, completion, chat, preference, prompt or document", printable(name, 40));
}

Row parse_row(std::string_view line, const std::string& where, const RowKeys& keys, const Task* task) {
  JsonLimits limits;
  limits.place = "column";
  const Json json = parse_json(line, where, Kind::data, limits);
  if (!json.is_object()) fail(Kind::data, "{}: a row must be an object; found {}", where, type_name(json));
  const Fields f(json, where);
  Row row;
  row.task = task ? *task : detect(f, where, keys);
  std::vector<std::string> used;
  const auto use = [&](const std::string& key) -> const std::string& { return used.push_back(key), key; };
  const auto read_prompt = [&] {
    use(keys.prompt);
    row.prompt_is_chat = f.get(keys.prompt).is_array();
    if (row.prompt_is_chat) row.prompt = f.messages(keys.prompt);
    else row.prompt.emplace_back("user", f.string(keys.prompt));
  };
  switch (row.task) {
    case Task::document:
    case Task::text: row.text = f.string(use(keys.text)); break;
    case Task::chat: row.prompt = f.messages(use(keys.messages)); break;
    case Task::prompt:
      read_prompt();
      if (!keys.answer.empty()) row.expected = f.text_or_number(keys.answer);
      else if (f.is_text_or_number("answer")) row.expected = f.text_or_number("answer");
      else if (f.is_text_or_number("completion")) row.expected = f.text_or_number("completion");
      break;
    case Task::completion:
      read_prompt();
      row.text = f.string(use(!f.has(keys.completion) && f.has("response") ? "response" : keys.completion));
      break;
    case Task::preference:
      read_prompt();
      row.text = f.string(use(keys.chosen));
      row.rejected = f.string(use(keys.rejected));
      if (row.text == row.rejected) fail(Kind::data, "{}: \"{}\" and \"{}\" are identical", where, keys.chosen, keys.rejected);
      break;
  }
  for (const auto& [key, value] : json.items())
    if (std::find(used.begin(), used.end(), key) == used.end()) row.other_keys.push_back(key);
  return row;
}

}  // namespace facet

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
    if (at == row_.end()) {
      std::vector<std::string> there;
      for (const auto& [name, value] : row_.items()) there.push_back(name);
      const std::string near = nearest(key, there);
      fail(Kind::data, "{}: \"{}\" is missing; found {}{}", where_, key, keys(), near.empty() ? "" : fmt::format("; did you mean {}?", printable(near, 40)));
    }
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

// Moves the turns that two whole conversations begin with to row.prompt, which may hold some of them already.
void take_shared_prompt(Row& row, const std::string& where, const RowKeys& k) {
  const auto parted = std::mismatch(row.answer.begin(), row.answer.end(), row.rejected.begin(), row.rejected.end());
  const auto n = parted.first - row.answer.begin();
  const std::vector<Message> shared(row.answer.begin(), parted.first);
  if (n == 0) fail(Kind::data, "{}: \"{}\" and \"{}\" have no first turn in common and no \"{}\" in front of both", where, k.chosen, k.rejected, k.prompt);
  if (parted.first == row.answer.end() || parted.second == row.rejected.end())
    fail(Kind::data, "{}: one of \"{}\" and \"{}\" is only the beginning of the other", where, k.chosen, k.rejected);
  if (!parted.first->from_model() || !parted.second->from_model())
    fail(Kind::data, "{}: \"{}\" and \"{}\" part at turn {}; expected a turn of the model there", where, k.chosen, k.rejected, n + 1);
  // A prompt beside whole conversations repeats one of their turns (as text) or their first turns.
  const auto holds = [&](const std::vector<Message>& some) { return std::search(shared.begin(), shared.end(), some.begin(), some.end()) != shared.end(); };
  if (!holds(row.prompt))
    fail(Kind::data, "{}: \"{}\" is not in the turns that \"{}\" and \"{}\" begin with", where, k.prompt, k.chosen, k.rejected);
  row.prompt = shared;
  row.answer.erase(row.answer.begin(), parted.first);
  row.rejected.erase(row.rejected.begin(), parted.second);
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
  const auto read = [&](const std::string& key, const char* role) {
    use(key);
    if (!f.get(key).is_array()) return std::vector<Message>{{role, f.string(key)}};
    row.is_chat = true;
    return f.messages(key);
  };
  const auto add_system = [&] {
    if (!f.has("system")) return;
    use("system");
    if (json["system"].is_null() || f.string("system").empty()) return;
    if (row.prompt.front().role == "system") fail(Kind::data, "{}: \"system\", and a first turn of that role; one of them is too many", where);
    row.prompt.emplace(row.prompt.begin(), "system", f.string("system"));
    row.is_chat = true;
  };
  switch (row.task) {
    case Task::document:
    case Task::text: row.text = f.string(use(keys.text)); break;
    case Task::chat:
      row.prompt = f.messages(use(keys.messages));
      add_system();
      break;
    case Task::completion:
      row.prompt = read(keys.prompt, "user");
      row.answer = read(!f.has(keys.completion) && f.has("response") ? "response" : keys.completion, "model");
      add_system();
      break;
    case Task::preference:
      row.answer = read(keys.chosen, "model");
      row.rejected = read(keys.rejected, "model");
      if (row.answer == row.rejected) fail(Kind::data, "{}: \"{}\" and \"{}\" are identical", where, keys.chosen, keys.rejected);
      if (f.has(keys.prompt)) row.prompt = read(keys.prompt, "user");
      else if (!f.get(keys.chosen).is_array() || !f.get(keys.rejected).is_array())
        fail(Kind::data, "{}: \"{}\" is missing; found {}", where, keys.prompt, f.keys());
      if (row.prompt.empty() || !row.answer.front().from_model() || !row.rejected.front().from_model()) take_shared_prompt(row, where, keys);
      add_system();
      break;
    case Task::prompt:
      row.prompt = read(keys.prompt, "user");
      add_system();
      if (!keys.answer.empty()) row.expected = f.text_or_number(keys.answer);
      else if (f.is_text_or_number("answer")) row.expected = f.text_or_number("answer");
      else if (f.is_text_or_number("completion")) row.expected = f.text_or_number("completion");
      break;
  }
  for (const auto& [key, value] : json.items())
    if (std::find(used.begin(), used.end(), key) == used.end()) row.other_keys.push_back(key);
  return row;
}

}  // namespace facet

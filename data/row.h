// One row of a data file, taken apart but not yet tokenised.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "data/chat.h"

namespace facet {

/// What the rows of a file are, told by their keys.
enum class Task {
  text,        ///< {"text"}: learn every token
  completion,  ///< {"prompt", "completion"} (or "response"): learn the completion
  chat,        ///< {"messages": [{"role", "content"}, ...]}: learn the model's turns
  preference,  ///< {"prompt", "chosen", "rejected"}: two completions; lists of messages may hold the prompt themselves
  prompt,      ///< {"prompt", ...}: the model writes, a verifier that sees the whole row judges
  document,    ///< a *.txt file: one long text, cut into windows
};
const char* name_of(Task);
/// The task of that name; throws Error(Kind::usage) listing the names.
Task task_named(std::string_view name);

/// Keys under which files hold their fields.
struct RowKeys {
  std::string text = "text", prompt = "prompt", completion = "completion", messages = "messages", chosen = "chosen", rejected = "rejected";
  std::string answer = {};  ///< of task prompt; empty: "answer", or else "completion", if there is one
};

/// `prompt`, `completion`, `chosen`, `rejected` are text or lists of messages. Beside `prompt` or `messages` there may be a text "system",
/// the first message of the conversation.
struct Row {
  Task task = Task::text;
  std::vector<Message> prompt;      ///< the conversation up to the answer (task chat: all of it); a plain prompt is one "user" message
  std::vector<Message> answer, rejected;  ///< completion or chosen, and rejected; a plain one is one "model" message
  bool is_chat = false;             ///< something was a list of messages, or there is a "system" text
  std::string text;                 ///< of tasks text and document
  std::string expected;             ///< task prompt: what the answer should be; may be empty
  std::vector<std::string> other_keys;  ///< keys that mean nothing to the task
};

/// Parses one line. `task`: nullptr to tell it from the keys. Throws Error(Kind::data) with `where`, and the column where the JSON is
/// broken, or the field that is missing or of the wrong type.
Row parse_row(std::string_view line, const std::string& where, const RowKeys& keys, const Task* task);

}  // namespace facet

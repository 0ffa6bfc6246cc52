// What a model is asked and what a verifier needs to judge the answer: rows of the task `prompt`.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "data/dataset.h"

namespace facet {

struct Question {
  std::string prompt;    ///< as text, for people and verifiers; of a conversation, its last message
  Ids ids;               ///< what the model is given, bos included; a conversation ends with the opened turn of the model
  std::string expected;  ///< the row's answer as it stands there ("... #### 42"); may be empty
  std::string row;       ///< the whole line of JSON: its columns are the verifier's
  std::string where;     ///< "train.jsonl:417", for messages
  int64_t line = 0;
};

/// The rows of a file as questions. Columns are named by options.keys: `prompt` (text or messages) and `answer`; without an `answer` key,
/// "answer" or else "completion" is taken, if there is one. --limit, broken and too long rows: as read_dataset, which see for errors.
std::vector<Question> read_questions(const std::string& path, const Tokenizer&, DataOptions = {}, DataReport* = nullptr);

/// The same of a dataset that was read with task prompt, e.g. a part of read_splits.
std::vector<Question> questions_of(const Dataset&, const RowKeys& = {});

}  // namespace facet

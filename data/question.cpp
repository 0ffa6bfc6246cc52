#include "data/question.h"

namespace facet {

std::vector<Question> questions_of(const Dataset& data, const RowKeys& keys) {
  if (data.size() > 0 && data.task() != Task::prompt) fail(Kind::usage, "{}: rows of task {} are no questions", data.path(), name_of(data.task()));
  const Task task = Task::prompt;
  std::vector<Question> list;
  for (int64_t i = 0; i < data.size(); ++i) {
    const Dataset::View v = data[i];
    Question q{.prompt = {}, .ids = {v.ids.begin(), v.ids.end()}, .expected = {}, .row = data.row(i), .where = {}, .line = v.line};
    q.where = fmt::format("{}:{}", data.path(), v.line);
    Row row = parse_row(q.row, q.where, keys, &task);
    for (const Part& p : row.prompt.back().parts) q.prompt += p.text;
    q.expected = std::move(row.expected);
    list.push_back(std::move(q));
  }
  return list;
}

std::vector<Question> read_questions(const std::string& path, const Tokenizer& tokenizer, DataOptions options, DataReport* report) {
  options.format = Task::prompt;
  const Dataset data = read_dataset(path, tokenizer, options);
  if (report) *report = data.report();
  return questions_of(data, options.keys);
}

}  // namespace facet

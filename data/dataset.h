// Data files as token sequences: which tokens a row becomes, which of them are learned, and an account of everything left out.
#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/example.h"
#include "data/row.h"

namespace facet {

/// What happens to a sequence longer than max_len. Never silent: the report counts it.
enum class TooLong {
  drop,      ///< leave the row out
  truncate,  ///< cut its end; rows whose learned part is cut away entirely are left out
  split,     ///< text only: go on in the next example
};
const char* name_of(TooLong);

struct DataOptions {
  int64_t max_len = 1024;  ///< positions per example; the sequence may hold one token more, which is only ever predicted
  TooLong too_long = TooLong::drop;
  int64_t max_bad_rows = 0;      ///< broken rows to skip before the file is refused
  bool learn_prompt = false;     ///< every token counts in the loss, not only completions and the model's turns
  bool chat_template = false;    ///< plain prompts and completions become user and model turns; else they are joined and end with eos
  bool merge_roles = false;      ///< see ChatOptions
  bool safe = false;             ///< see ChatOptions; prompts only
  std::optional<Task> format = std::nullopt;  ///< instead of telling it from the keys
  RowKeys keys = {};
  int64_t limit = 0;             ///< at most so many rows are used; 0: all
  double val_frac = 0;           ///< of a single file: the share of rows (of a document: its end) kept for validation
  uint64_t seed = 1;             ///< of that choice
  bool use_prepared = true;      ///< take tokens prepared beside the file (data/prepared.h), if they are of this file, tokenizer and options
};

/// What became of a file's rows.
struct DataReport {
  int64_t rows = 0;  ///< read, bad ones included
  int64_t used = 0, bad = 0, too_long = 0, truncated = 0, no_target = 0;
  int64_t shortest = 0, longest = 0;  ///< positions of the shortest and longest row before anything was cut; of a document those of its windows
  int64_t unknown_tokens = 0;
  std::map<std::string, int64_t> ignored_keys;  ///< with the rows they occur in
  std::vector<std::string> bad_rows;            ///< the first few messages
  bool prepared = false;                        ///< the tokens were read from beside the file
  std::string not_prepared;                     ///< what stands there is not used, and why
  /// "4,980 of 5,000 rows used; too long 12, ..." and a line for what a user should know.
  std::string summary() const;
};

/// Sequences in one block of memory. Preference data holds them in pairs: chosen, rejected.
class Dataset {
 public:
  struct View {
    std::span<const int32_t> ids;
    std::span<const uint8_t> mask;  ///< 1: predicting this token counts in the loss
    int64_t line = 0;               ///< where it came from; of documents, the number of the window
  };
  Dataset() = default;
  explicit Dataset(Task task, std::string path = "") : task_(task), path_(std::move(path)) {}
  int64_t size() const { return static_cast<int64_t>(lines_.size()); }
  View operator[](int64_t i) const;
  int64_t group() const { return task_ == Task::preference ? 2 : 1; }  ///< neighbours that stay together
  Task task() const { return task_; }
  const std::string& path() const { return path_; }
  const DataReport& report() const { return report_; }
  /// The line of the file, for verifiers (task prompt only).
  const std::string& row(int64_t i) const;

  /// Of all tokens and what is learned of them: the same data give the same number on every machine.
  uint64_t fingerprint() const;

  void add(const Example&, int64_t line);
  void add_row(std::string line) { rows_.push_back(std::move(line)); }
  Dataset part(std::span<const int64_t> examples) const;  ///< copies

 private:
  friend Dataset read_dataset(const std::string&, const Tokenizer&, const DataOptions&);
  friend void write_prepared(const Dataset&, const std::string& key);
  friend std::optional<Dataset> read_prepared(const std::string& source, const std::string& key, int64_t vocab, std::string& why_not);
  Task task_ = Task::text;
  std::string path_;
  Ids ids_;
  std::vector<uint8_t> mask_;
  std::vector<size_t> ends_;
  std::vector<int64_t> lines_;
  std::vector<std::string> rows_;
  DataReport report_;
};

/// Reads *.jsonl, or *.txt as one document. Throws Error(Kind::data) with file, line and reason.
Dataset read_dataset(const std::string& path, const Tokenizer&, const DataOptions& = {});

/// The sequences of one row, for tools and tests: one, or chosen and rejected.
std::vector<Example> encode_row(const Tokenizer&, const Row&, const DataOptions&);

/// Windows of a long text: bos, then max_len tokens; every token is predicted once. With `end`, eos follows the text.
std::vector<Example> encode_document(const Tokenizer&, std::string_view text, int64_t max_len, bool end = false);

struct Splits {
  Dataset train, valid, test;  ///< valid and test may be empty
};
/// A folder with train.jsonl (or .txt) and perhaps valid and test files, or one file with val_frac.
Splits read_splits(const std::string& path, const Tokenizer&, const DataOptions& = {});

/// The files that read_splits reads.
std::vector<std::string> data_files(const std::string& path);

/// The texts of a file or folder's training part, for learning a tokenizer from them.
std::vector<std::string> read_texts(const std::string& path, const DataOptions& = {});

struct DataStats {
  int64_t examples = 0, tokens = 0, supervised = 0;  ///< preference data: a pair is one example of two sequences
  int64_t rejected = 0;                              ///< supervised tokens of rejected halves
  int64_t shortest = 0, median = 0, p95 = 0, longest = 0;  ///< positions
  double entropy = 0;  ///< nats per learned token of their own frequencies: the loss of a model that knows nothing else
};
DataStats stats(const Dataset&);

/// One sequence for people: where it is from, its first ids, and its text with the learned parts between marks.
std::string preview(const Dataset&, const Tokenizer&, int64_t sequence, std::string_view open = "[[", std::string_view close = "]]");

}  // namespace facet

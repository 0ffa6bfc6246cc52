// Rows to sequences, splits, accounts.
#include "data/dataset.h"

#include <catch2/catch.hpp>
#include <cmath>

#include "data/jsonl.h"
#include "data/make_tokenizer.h"
#include "tests/data/files.h"

using namespace facet;

namespace {

Tokenizer letters() { return Tokenizer::from_bytes(char_tokenizer("abcdefghijklmnopqrstuvwxyz \n.?0123456789AB"), "letters"); }

std::string marked(const Tokenizer& t, const Dataset& d, int64_t i) {
  const std::string s = preview(d, t, i);
  return s.substr(s.find('\n') + 1);
}

}  // namespace

TEST_CASE("dataset: tasks are told by their keys", "[data]") {
  const Files files;
  const Tokenizer t = letters();
  const auto read = [&](const std::string& row, const DataOptions& o = {}) { return read_dataset(files.write("a.jsonl", row), t, o); };

  Dataset d = read(R"({"text": "ab c"})");
  CHECK(d.task() == Task::text);
  CHECK(marked(t, d, 0) == "<bos>[[ab c<eos>]]");
  d = read(R"({"prompt": "ab", "completion": "cd", "note": 1})");
  CHECK(d.task() == Task::completion);
  CHECK(marked(t, d, 0) == "<bos>ab[[cd<eos>]]");
  CHECK(d.report().ignored_keys.count("note") == 1);
  CHECK(d.report().summary() == "1 of 1 rows used\nkey \"note\" ignored in 1 rows");
  CHECK(marked(t, read(R"({"prompt": "ab", "response": "cd"})"), 0) == "<bos>ab[[cd<eos>]]");
  CHECK(marked(t, read(R"({"prompt": "ab", "completion": "cd"})", {.learn_prompt = true}), 0) == "<bos>[[abcd<eos>]]");
  CHECK(marked(t, read(R"({"prompt": "ab", "completion": "cd"})", {.chat_template = true}), 0) ==
        "<bos><start_of_turn>user\nab<end_of_turn>\n<start_of_turn>model\n[[cd<end_of_turn>]]\n");
  CHECK(marked(t, read(R"({"q": "ab", "a": "cd"})", {.keys = {.prompt = "q", .completion = "a"}}), 0) == "<bos>ab[[cd<eos>]]");
  d = read(R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": [{"type": "text", "text": "b"}]}]})");
  CHECK(d.task() == Task::chat);
  CHECK(marked(t, d, 0) == "<bos><start_of_turn>user\na<end_of_turn>\n<start_of_turn>model\n[[b<end_of_turn>]]\n");
  CHECK(preview(d, t, 0).starts_with("example 1 (" + files.path("a.jsonl") + ":1): 20 tokens, 2 learned; ids 2 4 26 24 "));
  d = read("{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\"}\n{\"prompt\": [{\"role\": \"user\", \"content\": \"a\"}], \"chosen\": \"b\", \"rejected\": \"c d\"}");
  CHECK(d.task() == Task::preference);
  CHECK(d.size() == 4);
  CHECK(marked(t, d, 1) == "<bos>a[[c<eos>]]");
  CHECK(marked(t, d, 3) == "<bos><start_of_turn>user\na<end_of_turn>\n<start_of_turn>model\n[[c d<end_of_turn>]]\n");
  d = read(R"({"prompt": "ab", "n": 12, "verifier": "exact"})");
  CHECK(d.task() == Task::prompt);
  CHECK(marked(t, d, 0) == "<bos>ab");
  CHECK(d.row(0) == R"({"prompt": "ab", "n": 12, "verifier": "exact"})");
  CHECK(read(R"({"prompt": "ab", "completion": "cd"})", {.format = Task::prompt}).row(0).size() > 20);
}

TEST_CASE("dataset: a document is cut into windows that predict every token once", "[data]") {
  const Files files;
  const Tokenizer t = letters();
  std::string text;
  for (int i = 0; i < 103; ++i) text += static_cast<char>('a' + i % 26);
  const Dataset d = read_dataset(files.write("a.txt", text), t, {.max_len = 10});
  REQUIRE(d.size() == 11);
  std::string learned;
  for (int64_t i = 0; i < d.size(); ++i) {
    const auto v = d[i];
    CHECK(v.ids[0] == t.specials().bos);
    CHECK(v.ids.size() == (i < 10 ? 11u : 4u));
    for (size_t k = 1; k < v.ids.size(); ++k) {
      CHECK(v.mask[k] == 1);
      learned += t.piece(v.ids[k]);
    }
  }
  CHECK(learned == text);
  // A text of several blocks gives the same ids as its blocks in one go.
  std::string longer;
  while (longer.size() < 200000) longer += "the cat reads.\n\n  a b\n";
  Ids all;
  for (const Example& e : encode_document(t, longer, 1000)) all.insert(all.end(), e.ids.begin() + 1, e.ids.end());
  CHECK(all == t.encode(longer));
}

TEST_CASE("dataset: what is too long is dropped, cut or split, and counted", "[data]") {
  const Files files;
  const Tokenizer t = letters();
  const std::string path = files.write("a.jsonl", "{\"prompt\": \"abcdefgh\", \"completion\": \"xyz\"}\n{\"prompt\": \"a\", \"completion\": \"b\"}\n{\"prompt\": \"abcde\", \"completion\": \"xyz\"}\n");
  Dataset d = read_dataset(path, t, {.max_len = 7});
  CHECK(d.size() == 1);
  CHECK(d.report().too_long == 2);
  CHECK(d[0].line == 2);
  d = read_dataset(path, t, {.max_len = 7, .too_long = TooLong::truncate});
  CHECK(d.size() == 2);
  CHECK(d.report().truncated == 1);
  CHECK(d.report().no_target == 1);
  CHECK(d.report().summary() == "2 of 3 rows used, no target left 1, truncated 1");
  CHECK(marked(t, d, 1) == "<bos>abcde[[xy]]");
  d = read_dataset(path, t, {.max_len = 12});
  CHECK(d.size() == 3);
  const std::string text = files.write("b.jsonl", R"({"text": "abcdefgh"})");
  d = read_dataset(text, t, {.max_len = 3, .too_long = TooLong::split});
  CHECK(d.size() == 3);
  CHECK(marked(t, d, 2) == "<bos>[[gh<eos>]]");
  CHECK(d.report().truncated == 0);
}

TEST_CASE("dataset: splits", "[data]") {
  const Files files;
  const Tokenizer t = letters();
  std::string rows;
  for (int i = 0; i < 100; ++i) rows += fmt::format("{{\"text\": \"{}\"}}\n", i);
  const std::string path = files.write("all.jsonl", rows);
  const Splits a = read_splits(path, t, {.val_frac = 0.1, .seed = 3}), b = read_splits(path, t, {.val_frac = 0.1, .seed = 3}), c = read_splits(path, t, {.val_frac = 0.1, .seed = 4});
  REQUIRE(a.valid.size() == 10);
  REQUIRE(a.train.size() == 90);
  std::vector<int64_t> lines;
  bool other_seed_differs = false;
  for (int64_t i = 0; i < 10; ++i) {
    CHECK(a.valid[i].line == b.valid[i].line);
    other_seed_differs |= a.valid[i].line != c.valid[i].line;
    lines.push_back(a.valid[i].line);
  }
  CHECK(other_seed_differs);
  for (int64_t i = 0; i < 90; ++i) lines.push_back(a.train[i].line);
  std::sort(lines.begin(), lines.end());
  for (int64_t i = 0; i < 100; ++i) CHECK(lines[static_cast<size_t>(i)] == i + 1);
  // Of a document, the end is kept.
  const Splits doc = read_splits(files.write("a.txt", std::string(1000, 'a') + std::string(250, 'b')), t, {.max_len = 50, .val_frac = 0.2});
  CHECK(doc.train.size() == 20);
  CHECK(doc.valid.size() == 5);
  CHECK(marked(t, doc.valid, 0).starts_with("<bos>[[bbb"));
  // A folder.
  files.write("folder/train.jsonl", rows);
  files.write("folder/test.jsonl", "{\"text\": \"x\"}");
  const Splits folder = read_splits(files.path("folder"), t);
  CHECK(folder.train.size() == 100);
  CHECK(folder.valid.size() == 0);
  CHECK(folder.test.size() == 1);
  CHECK(read_texts(files.path("folder")).size() == 100);
}

TEST_CASE("dataset: stats", "[data]") {
  const Files files;
  const Tokenizer t = letters();
  const Dataset d = read_dataset(files.write("a.jsonl", "{\"prompt\": \"abc\", \"completion\": \"a\"}\n{\"prompt\": \"\", \"completion\": \"\"}\n"), t);
  const DataStats s = stats(d);
  CHECK(s.examples == 2);
  CHECK(s.tokens == 6 + 2);
  CHECK(s.supervised == 3);
  CHECK(s.shortest == 1);
  CHECK(s.longest == 5);
  CHECK(s.entropy == Approx(std::log(3.0) - 2.0 / 3.0 * std::log(2.0)));  // eos twice, a once
  CHECK(read_dataset(files.write("b.jsonl", "{\"text\": \"a%\"}"), t).report().unknown_tokens == 1);
}

TEST_CASE("jsonl: line ends, byte order mark, blank lines", "[data]") {
  const Files files;
  LineReader lines(files.write("a.jsonl", std::string("\xEF\xBB\xBF{\"a\":1}\r\n\r\n  \n{}\nlast")));
  std::string line;
  std::vector<std::string> seen;
  while (lines.next(line)) seen.push_back(line + "@" + std::to_string(lines.number()));
  CHECK(seen == std::vector<std::string>{"{\"a\":1}@1", "{}@4", "last@5"});
  LineReader marked(files.write("d.jsonl", std::string("{}\n\xEF\xBB\xBF{}\n")));  // a mark in another place is a character, and no JSON
  REQUIRE(marked.next(line));
  REQUIRE(marked.next(line));
  CHECK(line == "\xEF\xBB\xBF{}");
  LineReader empty(files.write("b.jsonl", ""));
  CHECK(!empty.next(line));
  // Lines across buffers.
  std::string big;
  for (int i = 0; i < 50; ++i) big += std::string(static_cast<size_t>(i) * 997, 'x') + "|\n";
  LineReader long_lines(files.write("c.jsonl", big));
  for (int i = 0; i < 50; ++i) {
    REQUIRE(long_lines.next(line));
    REQUIRE(line.size() == static_cast<size_t>(i) * 997 + 1);
  }
  CHECK(!long_lines.next(line));
}

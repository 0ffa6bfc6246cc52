// Broken inputs: every row of a table names what a user sees. What cannot be read must say where, and must not crash.
#include <catch2/catch.hpp>
#include <chrono>
#include <random>

#include "data/dataset.h"
#include "data/jsonl.h"
#include "data/loader.h"
#include "data/make_tokenizer.h"
#include "data/sentencepiece_model.h"
#include "tensor/io/file.h"
#include "tests/data/files.h"

using namespace facet;

namespace {

Tokenizer letters() { return Tokenizer::from_bytes(char_tokenizer("abcdefghijklmnopqrstuvwxyz \n.?0123456789AB"), "letters"); }

// The message of the Error that f throws, with its kind in front.
template <class F>
std::string error_of(F f) {
  try {
    f();
  } catch (const Error& e) {
    return std::to_string(e.exit_code()) + " " + e.what();
  }
  return "no error";
}

const char* user_model = R"({"role": "user", "content": "a"}, {"role": "model", "content": "b"})";

}  // namespace

TEST_CASE("broken data: what a user sees", "[data]") {
  const Files files;
  const Tokenizer t = letters();
  struct Case {
    std::string line;
    std::vector<const char*> parts;  // of the message
    DataOptions options = {};
  };
  std::string deep = "{\"text\": ";
  for (int i = 0; i < 70; ++i) deep += "[";
  const Case cases[] = {
      {R"({"text": "a\x"})", {":1: column 13: ", "invalid string", "0 of max 0 bad rows allowed (--max-bad-rows)"}},
      {R"({"text": "a")", {":1: column "}},
      {R"({"text": "a"} x)", {":1: column "}},
      {R"({"text": "a", "text": "b"})", {":1: column ", "duplicate key \"text\""}},
      {R"({"text": 1e999})", {":1: column "}},
      {R"({"text": "\ud800"})", {":1: column "}},
      {R"({"text": NaN})", {":1: column "}},
      {deep, {":1: column ", "nested deeper than 64 levels"}},
      {"[1]", {":1: a row must be an object; found list"}},
      {"7", {":1: a row must be an object; found number"}},
      {R"({"txt": "a"})", {":1: no known field; expected \"text\"", "found txt"}},
      {R"({})", {":1: no known field", "found no keys"}},
      {R"({"text": 5})", {":1: \"text\" must be a string; found number"}},
      {R"({"text": null})", {":1: \"text\" must be a string; found null"}},
      {R"({"text": ""})", {}},  // bos and eos: the end is learned
      {R"({"prompt": "a"})", {":1: \"completion\" is missing; found prompt"}, {.format = Task::completion}},
      {R"({"prompt": 1, "completion": "b"})", {":1: \"prompt\" must be a string; found number"}},
      {R"({"messages": "hello"})", {":1: \"messages\" must be a non-empty list; found string"}},
      {R"({"messages": []})", {":1: \"messages\" must be a non-empty list; found an empty list"}},
      {R"({"messages": [5]})", {":1: \"messages\" turn 1 must be an object"}},
      {R"({"messages": [{"role": "user"}]})", {":1: \"messages\" turn 1: \"content\" is missing; found role"}},
      {R"({"messages": [{"role": 1, "content": "a"}]})", {"turn 1: \"role\" must be a string; found number"}},
      {R"({"messages": [{"role": "user", "content": 1}]})", {"\"content\" must be a string or a list of parts; found number"}},
      {R"({"messages": [{"role": "user", "content": [{"type": "sound"}]}]})", {"a part of \"content\" must be"}},
      {R"({"messages": [{"role": "user", "content": [{"type": "image"}]}, {"role": "model", "content": "a"}]})", {":1: a message holds an image, but the tokenizer has no <start_of_image>"}},
      {fmt::format(R"({{"messages": [{}, {{"role": "user", "content": "a"}}, {{"role": "user", "content": "c"}}]}})", user_model), {":1: turn 4 is \"user\" after \"user\""}},
      {R"({"messages": [{"role": "assistant", "content": "a"}]})", {":1: turn 1 is \"assistant\"; the first turn must be \"user\""}},
      {R"({"messages": [{"role": "user", "content": "a"}]})", {":1: example 1 has no tokens to learn (no turn of the model?); complete the row or remove it"}},
      {std::string("{\"text\": \"a\xff\"}"), {":1: byte 12: invalid UTF-8"}},
      {std::string("{\"text\": \"\xed\xa0\x80\"}"), {":1: byte 11: invalid UTF-8"}},
      {R"({"prompt": "a", "chosen": "b"})", {":1: \"rejected\" is missing"}},
      {R"({"prompt": "a", "chosen": "b", "rejected": "b"})", {":1: \"chosen\" and \"rejected\" are identical"}},
      {R"({"text": "abcdefgh"})", {": 0 of 1 rows fit max length 4 (shortest 9); raise --max-len"}, {.max_len = 4}},
      {R"({"prompt": "abcdefgh", "completion": "b"})", {": 0 usable rows of 1 (reasons: bad 0, too long 0, no target 1)"}, {.max_len = 4, .too_long = TooLong::truncate}},
      {"", {": 0 usable rows of 0"}},
      {"\n\n", {": 0 usable rows of 0"}},
  };
  for (const Case& c : cases) {
    INFO(c.line.substr(0, 100));
    const std::string path = files.write("bad.jsonl", c.line);
    const std::string error = error_of([&] { read_dataset(path, t, c.options); });
    INFO(error);
    if (c.parts.empty()) {
      CHECK(error == "no error");
      continue;
    }
    CHECK(error.starts_with("4 " + path));
    CHECK(error.size() < 500);
    for (const char* part : c.parts) CHECK(error.find(part) != error.npos);
  }
  // Every prefix of a good row either parses or says where it does not.
  const std::string good = fmt::format(R"({{"messages": [{}], "n": [1.5, -2, true, null, {{"a": "\u00e9\n"}}]}})", user_model);
  for (size_t n = 1; n < good.size(); ++n) {
    const std::string error = error_of([&] { parse_row(good.substr(0, n), "x:1", {}, nullptr); });
    CHECK(error.starts_with("4 x:1: column "));
  }
  CHECK(error_of([&] { parse_row(good, "x:1", {}, nullptr); }) == "no error");
}

TEST_CASE("broken data: other files and options", "[data]") {
  const Files files;
  const Tokenizer t = letters();
  CHECK(error_of([&] { read_dataset(files.path("none.jsonl"), t); }).starts_with("4 " + files.path("none.jsonl")));
  CHECK(error_of([&] { read_dataset(files.path(""), t); }).starts_with("4 "));
  CHECK(error_of([&] { read_splits(files.path("."), t); }).find("holds no train.jsonl") != std::string::npos);
  CHECK(error_of([&] { read_dataset(files.write("a.txt", ""), t); }).find("the text is empty") != std::string::npos);
  CHECK(error_of([&] { read_dataset(files.write("a.txt", "ab\xff"), t); }).find("byte 3: invalid UTF-8") != std::string::npos);
  CHECK(error_of([&] { read_dataset(files.write("a.jsonl", "{\"text\": \"a\"}"), t, {.max_len = 0}); }).starts_with("2 "));
  CHECK(error_of([&] { read_splits(files.path("a.jsonl"), t, {.val_frac = 0.5}); }).starts_with("4 "));
  CHECK(error_of([&] { read_splits(files.path("a.jsonl"), t, {.val_frac = 1.5}); }).starts_with("2 "));
  CHECK(error_of([&] { task_named("csv"); }).find("expected text, completion") != std::string::npos);
  // Chat rows for a tokenizer without turns are a matter of the tokenizer, not a bad row.
  const Tokenizer bare = Tokenizer::from_bytes(write_sentencepiece_model({{"<pad>", 0, 3}, {"<eos>", 0, 3}, {"<bos>", 0, 3}, {"<unk>", 0, 2}, {"a", 0, 1}}, false), "bare");
  CHECK(error_of([&] { read_dataset(files.write("c.jsonl", fmt::format("{{\"messages\": [{}]}}", user_model)), bare, {.max_bad_rows = 9}); }).starts_with("3 "));
}

TEST_CASE("broken data: bad rows are skipped up to a limit, and counted", "[data]") {
  const Files files;
  const Tokenizer t = letters();
  const std::string path = files.write("a.jsonl", "{\"text\": \"a\"}\n{\"text\": \"b\n\xff\n{\"text\": \"c\"}\n");
  const Dataset d = read_dataset(path, t, {.max_bad_rows = 2});
  CHECK(d.size() == 2);
  CHECK(d.report().rows == 4);
  CHECK(d.report().bad == 2);
  CHECK(d.report().bad_rows.size() == 2);
  CHECK(d.report().summary().find("2 of 4 rows used, bad 2\nskipped " + path + ":2: column ") == 0);
  const std::string error = error_of([&] { read_dataset(path, t, {.max_bad_rows = 1}); });
  CHECK(error.find(":3: byte 1: invalid UTF-8; 1 of max 1 bad rows allowed") != std::string::npos);
  // A line beyond 16 MiB is one bad row; reading goes on behind it.
  const std::string big = files.write("big.jsonl", "{\"text\": \"a\"}\n" + std::string(LineReader::max_line_bytes + 1, 'x') + "\n{\"text\": \"b\"}\n");
  CHECK(read_dataset(big, t, {.max_bad_rows = 1}).size() == 2);
  CHECK(error_of([&] { read_dataset(big, t); }).find(":2: line is longer than 16,777,216 bytes") != std::string::npos);
}

TEST_CASE("broken tokenizer: cut anywhere, any byte changed", "[data]") {
  const std::string good = read_file(FACET_GOLDENS "/tokenizer/tokenizer.model");
  CHECK(check_sentencepiece_model(good, "good").size() == 512);
  // Most cuts fall inside a field. Those between fields leave a shorter model, which may or may not load.
  int refused = 0;
  for (size_t n = 0; n < good.size(); ++n) refused += error_of([&] { check_sentencepiece_model(good.substr(0, n), "cut"); }).starts_with("3 cut: ");
  CHECK(refused > static_cast<int>(good.size()) * 9 / 10);
  CHECK(error_of([&] { Tokenizer::from_bytes(good.substr(0, good.size() / 2), "cut"); }).starts_with("3 cut: "));
  std::mt19937 r(4);
  int loaded = 0;
  for (int i = 0; i < 3000; ++i) {
    std::string bad = good;
    for (unsigned k = 1 + r() % 3; k > 0; --k) bad[r() % bad.size()] = static_cast<char>(r());
    const std::string error = error_of([&] {
      const Tokenizer t = Tokenizer::from_bytes(bad, "bad");
      t.decode(t.encode("The cat <start_of_turn> reads\n\n 123 \xf0\x9f\x98\x80"));
      ++loaded;
    });
    if (error != "no error" && !error.starts_with("3 bad: ")) FAIL(error);
  }
  CHECK(loaded > 100);  // a changed letter in a piece is still a tokenizer
}

TEST_CASE("broken tokenizer: what a user sees", "[data]") {
  const Files files;
  CHECK(error_of([&] { Tokenizer::load(files.path("")); }).find("holds no tokenizer.model") != std::string::npos);
  const auto says = [](const std::string& bytes, const char* part) {
    const std::string error = error_of([&] { Tokenizer::from_bytes(bytes, "t.model"); });
    INFO(error);
    CHECK(error.starts_with("3 t.model: "));
    CHECK(error.find(part) != error.npos);
  };
  using Pieces = std::vector<ModelPiece>;
  const Pieces base = {{"<pad>", 0, 3}, {"<eos>", 0, 3}, {"<bos>", 0, 3}, {"<unk>", 0, 2}, {"a", 0, 1}};
  const auto with = [&](const ModelPiece& p) {
    Pieces pieces = base;
    pieces.push_back(p);
    return write_sentencepiece_model(pieces, false);
  };
  CHECK(Tokenizer::from_bytes(with({"b", 0, 1}), "fine").vocab_size() == 6);
  CHECK(Tokenizer::from_bytes(with({std::string("b\0c", 3), 0, 1}), "fine").vocab_size() == 6);  // a NUL in a piece is accepted
  says("", "holds no pieces");
  says("{\"json\": 1}", "byte ");
  says(std::string(100, '\0'), "field number 0");
  says(with({"", 0, 1}), "a piece has 0 bytes");
  says(with({std::string(5000, 'x'), 0, 1}), "a piece has 5000 bytes, allowed are 1-4096");
  says(with({"b", 0, 7}), "type 7 of a piece is unknown");
  says(with({"b", 0, 2}), "2 unknown pieces, expected 1");
  says(with({"b", std::numeric_limits<float>::quiet_NaN(), 1}), "not finite");
  says(with({"b", std::numeric_limits<float>::infinity(), 1}), "not finite");
  says(with({std::string("b\0c", 3), 0, 4}), "NUL");
  says(with({"a", 0, 1}), "the SentencePiece library refuses it");  // twice the same piece
  says(write_sentencepiece_model({{"a", 0, 1}}, false), "0 unknown pieces");
  says(write_sentencepiece_model(base, true), "the SentencePiece library refuses it");  // byte fallback without byte pieces
  says(std::string("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f"), "no valid varint");
  says(std::string("\x0a\x7f"), "needs 127 bytes, 0 remain");
  says(std::string("\x0b"), "wire type 3");
}

TEST_CASE("broken tokenizer: character maps that would lead outside", "[data]") {
  // A normaliser (field 3) with a character map (field 2): size of the trie, the trie, replacement texts.
  const auto model = [](const std::string& map) {
    const auto field = [](int number, const std::string& bytes) {
      std::string s(1, static_cast<char>(number << 3 | 2));
      for (size_t n = bytes.size();; n >>= 7) {
        s.push_back(static_cast<char>((n & 0x7f) | (n > 0x7f ? 0x80 : 0)));
        if (n <= 0x7f) break;
      }
      return s + bytes;
    };
    return write_sentencepiece_model({{"<pad>", 0, 3}, {"<eos>", 0, 3}, {"<bos>", 0, 3}, {"<unk>", 0, 2}, {"a", 0, 1}}, false) + field(3, field(2, map));
  };
  const auto map = [](std::vector<uint32_t> units, const std::string& texts) {
    const auto bytes = static_cast<uint32_t>(4 * units.size());
    std::string s(reinterpret_cast<const char*>(&bytes), 4);
    s.append(reinterpret_cast<const char*>(units.data()), bytes);
    return s + texts;
  };
  const std::string nul(1, '\0');
  std::vector<uint32_t> units(256, 0);
  CHECK(error_of([&] { check_sentencepiece_model(model(map(units, nul)), "m"); }) == "no error");
  const auto says = [&](const std::string& m, const char* part) {
    const std::string error = error_of([&] { check_sentencepiece_model(model(m), "m"); });
    INFO(error);
    CHECK(error.find(part) != error.npos);
  };
  says("ab", "size of the character map");
  says(map(units, ""), "do not end with a NUL");
  says(map(units, "a"), "do not end with a NUL");
  says(map(std::vector<uint32_t>(100, 0), nul), "not a multiple of 1024");
  units[3] = 256u << 10;  // an offset of 256
  says(map(units, nul), "offset leads outside");
  units[3] = 1u << 9 | 1u << 10;  // the same in the wide form
  says(map(units, nul), "offset leads outside");
  units[3] = 0;
  units[0] = 1u << 31 | 300u << 10;  // the root is walked through whatever it says
  says(map(units, nul), "offset leads outside");
  units[0] = 0;
  units[5] = 1u << 8;  // has a value, at unit 5, whose text starts at 256
  says(map(units, nul), "value leads outside");
}

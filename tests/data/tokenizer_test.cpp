// Ids, pieces and texts against what the library and transformers gave (tests/goldens/tokenizer), and what must hold for any text.
#include "data/tokenizer.h"

#include <catch2/catch.hpp>
#include <filesystem>
#include <random>

#include "data/make_tokenizer.h"
#include "data/utf8.h"
#include "tensor/io/file.h"
#include "tensor/io/json.h"
#include "tensor/io/text.h"

using namespace facet;

namespace {

const std::string goldens = FACET_GOLDENS "/tokenizer";

std::string stream(const Tokenizer& t, const Ids& ids) {
  StreamDecoder d(t);
  std::string all;
  for (const int32_t id : ids) {
    const std::string part = d.push(id);
    REQUIRE(invalid_utf8(part) == std::string::npos);
    all += part;
  }
  return all + d.finish();
}

// Random text over alphabets that tokenizers find hard.
std::string random_text(std::mt19937& r, const std::vector<std::string>& pools) {
  std::string s;
  for (unsigned parts = r() % 6; parts > 0; --parts) {
    const auto chars = characters(pools[r() % pools.size()]);
    for (unsigned n = 1 + r() % 10; n > 0; --n) s += chars[r() % chars.size()];
  }
  return s;
}

const std::vector<std::string> hard = {"abcdefgh ", "  \n\n\t", "0123456789 .,", "é\u0301\u200dßİ", "中文सตก", "😀👨‍👩🇦🇹",
                                       "<>_/buo ", std::string("\x00\x01\x1f\x7f\r", 5), "\u00a0\u3000 ", "אבاب ",
                                       "<start_of_turn>", "<bos><0x41>"};

}  // namespace

TEST_CASE("tokenizer: goldens", "[data]") {
  const Tokenizer t = Tokenizer::load(goldens);
  const Json pieces = read_json(goldens + "/pieces.json"), ids = read_json(goldens + "/ids.json");
  REQUIRE(t.vocab_size() == static_cast<int64_t>(pieces.size()));
  for (const Json& p : pieces) {
    const int32_t id = p["id"];
    CHECK(t.piece(id) == p["piece"].get<std::string>());
    CHECK(t.id_of(t.piece(id)) == id);
    const char* names[] = {"", "normal", "unknown", "control", "user_defined", "unused", "byte"};
    CHECK(names[static_cast<int>(t.type(id))] == p["type"].get<std::string>());
    CHECK(t.score(id) == p["score"].get<float>());
    CHECK((t.byte(id) >= 0) == (t.type(id) == PieceType::byte));
  }
  for (const Json& row : ids["encode"]) {
    const std::string text = row["text"];
    const Ids want = row["ids"];
    INFO(row.dump());
    CHECK(t.encode(text) == want);
    CHECK(t.decode(want) == row["decoded"].get<std::string>());
    CHECK(stream(t, want) == row["decoded"].get<std::string>());
  }
  for (const Json& row : ids["decode"]) {
    INFO(row.dump());
    CHECK(t.decode(row["ids"].get<Ids>()) == row["decoded"].get<std::string>());
    CHECK(stream(t, row["ids"]) == row["decoded"].get<std::string>());
  }
  CHECK(t.specials().pad == 0);
  CHECK(t.specials().eos == 1);
  CHECK(t.specials().bos == 2);
  CHECK(t.specials().unk == 3);
  CHECK(t.stop_ids() == Ids{1, 10});
  CHECK(t.id_of("no such piece") == -1);
  CHECK_THROWS_AS(t.decode(Ids{512}), Error);
  CHECK_THROWS_AS(t.piece(-1), Error);
}

TEST_CASE("tokenizer: 2,000 nasty strings have the library's ids, whole and streamed back", "[data]") {
  const Tokenizer t = Tokenizer::load(goldens);
  const Json rows = read_json(goldens + "/nasty.json");
  REQUIRE(rows.size() == 2000);
  for (const Json& row : rows) {
    const auto text = row[0].get<std::string>();
    const auto ids = row[1].get<Ids>();
    if (t.encode(text) != ids) FAIL(printable(text));
    if (stream(t, ids) != t.decode(ids)) FAIL(printable(text));
  }
}

TEST_CASE("tokenizer: 10,000 random strings come back, control pieces never come out of text", "[data]") {
  const Tokenizer t = Tokenizer::load(goldens);
  std::mt19937 r(7);
  for (int i = 0; i < 10000; ++i) {
    const std::string text = random_text(r, hard);
    const Ids ids = t.encode(text);
    if (t.decode(ids) != text || stream(t, ids) != text) {
      INFO(printable(text));
      REQUIRE(t.decode(ids) == text);
      REQUIRE(stream(t, ids) == text);
    }
    for (const int32_t id : ids)
      if (id < 4) FAIL("a control piece from " << printable(text));
    const Ids plain = t.encode_without_tags(text);
    for (const int32_t id : plain)
      if (id == t.specials().start_of_turn || id == t.specials().end_of_turn) FAIL("a tag from " << printable(text));
    if (t.decode(plain) != text) FAIL("text changed: " << printable(text));
    if (text.find("<start_of_turn>") == text.npos && plain != ids) FAIL("another encoding without reason: " << printable(text));
  }
}

TEST_CASE("tokenizer: a stream of any ids gives what decode gives, and never half a character", "[data]") {
  const Tokenizer t = Tokenizer::load(goldens);
  std::mt19937 r(8);
  for (int i = 0; i < 5000; ++i) {
    Ids ids(1 + r() % 12);
    const bool bytes = r() % 2;  // half of the sequences are bytes only, mostly of long characters
    for (int32_t& id : ids)
      id = bytes ? t.id_of(fmt::format("<0x{:02X}>", r() % 3 ? 0x80 + r() % 0x40 : 0xC0 + r() % 0x40)) : static_cast<int32_t>(r() % 512);
    INFO(fmt::format("{}", fmt::join(ids, " ")));
    REQUIRE(stream(t, ids) == t.decode(ids));
  }
}

TEST_CASE("tokenizer: characters", "[data]") {
  const Tokenizer t = Tokenizer::from_bytes(char_tokenizer("√(·)=123 57é√"), "char");
  CHECK(t.vocab_size() == 6 + 12);
  CHECK(t.specials().start_of_turn == 4);
  CHECK(t.specials().end_of_turn == 5);
  CHECK(t.encode("√(2·13)=") == Ids{6, 7, 12, 8, 11, 13, 9, 10});
  CHECK(t.decode(t.encode("3 √(5·7)")) == "3 √(5·7)");
  CHECK(t.encode("xy") == Ids{3});
  CHECK(t.encode("1<end_of_turn>") == Ids{11, 5});
  CHECK(char_tokenizer("abc") == char_tokenizer("abc"));
  std::mt19937 r(9);
  for (int i = 0; i < 2000; ++i) {
    const std::string text = random_text(r, {"√(·)=123 57é"});
    const Ids ids = t.encode(text);
    if (ids.size() != characters(text).size() || t.decode(ids) != text || stream(t, ids) != text) FAIL(text);
  }
  CHECK_THROWS_AS(char_tokenizer(""), Error);
  CHECK_THROWS_AS(char_tokenizer("\xff"), Error);
}

TEST_CASE("tokenizer: a BPE vocabulary learned from text", "[data]") {
  std::string text;
  std::mt19937 r(10);
  const char* words[] = {"the", "cat", "river", "reads", "letter", "morning", "answers", "without", "gradient", "tensor", "bridge"};
  for (int i = 0; i < 4000; ++i) {
    std::string word = words[r() % 11];
    for (unsigned n = r() % 3; n > 0; --n) word.insert(r() % word.size(), 1, static_cast<char>('a' + r() % 26));
    text += word + (i % 9 == 8 ? ".\n" : " ") + (i % 50 == 0 ? std::to_string(r() % 1000) : "");
  }
  const std::string model = train_bpe_tokenizer({text}, 400);
  CHECK(model == train_bpe_tokenizer({text}, 400));
  const Tokenizer t = Tokenizer::from_bytes(model, "bpe");
  CHECK(t.vocab_size() == 400);
  CHECK(t.piece(0) == "<pad>");
  CHECK(t.piece(1) == "<eos>");
  CHECK(t.piece(2) == "<bos>");
  CHECK(t.piece(3) == "<unk>");
  CHECK(t.stop_ids() == Ids{1, t.specials().end_of_turn});
  CHECK(t.encode("<start_of_turn>\n").size() == 2);
  CHECK(t.encode(text).size() < text.size() * 2 / 3);
  CHECK(t.encode("  2024  ").size() >= 4 + 1);  // digits one by one
  for (int i = 0; i < 2000; ++i) {
    const std::string s = random_text(r, hard);
    if (t.decode(t.encode(s)) != s) FAIL(printable(s));
  }
  CHECK_THROWS_WITH(train_bpe_tokenizer({"too little text"}, 400), Catch::Contains("bpe:400"));
  CHECK_THROWS_WITH(train_bpe_tokenizer({text}, 100), Catch::Contains("280-262,144"));
  CHECK_THROWS_WITH(make_tokenizer("word:3", {}), Catch::Contains("char:ALPHABET"));
}

TEST_CASE("tokenizer: what save writes, load reads", "[data]") {
  const std::string folder = std::filesystem::temp_directory_path() / "facet_tokenizer_test";
  std::filesystem::create_directories(folder);
  const Tokenizer t = Tokenizer::load(goldens);
  t.save(folder);
  CHECK(Tokenizer::load(folder).hash() == t.hash());
  CHECK(read_file(folder + "/tokenizer.model") == read_file(goldens + "/tokenizer.model"));
  CHECK(read_json(folder + "/tokenizer_config.json")["tokenizer_class"] == "GemmaTokenizer");
  CHECK(std::filesystem::exists(folder + "/chat_template.jinja"));
  std::filesystem::remove_all(folder);
  CHECK_THROWS_AS(Tokenizer::load(folder), Error);
}

// Prepared tokens: the same dataset, or none and a reason.
#include "data/prepared.h"

#include <catch2/catch.hpp>

#include "data/jsonl.h"
#include "tensor/io/crc32c.h"
#include "tensor/io/file.h"
#include "tests/data/files.h"

using namespace facet;

namespace {

const std::string rows = R"({"messages":[{"role":"user","content":"What?"},{"role":"model","content":"é 1"}]}
{"messages":[{"role":"user","content":"a much longer question than the others are"},{"role":"model","content":"no"}]}
{"broken
{"messages":[{"role":"user","content":"b"},{"role":"model","content":"yes"}], "colour": "red"}
)";

Tokenizer reference() { return Tokenizer::load(FACET_GOLDENS "/tokenizer"); }

void check_same(const Dataset& a, const Dataset& b) {
  REQUIRE(a.size() == b.size());
  CHECK(a.fingerprint() == b.fingerprint());
  CHECK(a.task() == b.task());
  CHECK(a.path() == b.path());
  for (int64_t i = 0; i < a.size(); ++i) {
    CHECK(std::ranges::equal(a[i].ids, b[i].ids));
    CHECK(std::ranges::equal(a[i].mask, b[i].mask));
    CHECK(a[i].line == b[i].line);
  }
  CHECK(a.report().ignored_keys == b.report().ignored_keys);
  CHECK(a.report().bad_rows == b.report().bad_rows);
  for (const auto field : {&DataReport::rows, &DataReport::used, &DataReport::bad, &DataReport::too_long, &DataReport::truncated, &DataReport::no_target,
                           &DataReport::shortest, &DataReport::longest, &DataReport::unknown_tokens})
    CHECK(a.report().*field == b.report().*field);
}

}  // namespace

TEST_CASE("prepared tokens: what is read is what would be made, of every task", "[data]") {
  const Files files;
  const Tokenizer t = reference();
  const DataOptions o{.max_len = 40, .max_bad_rows = 1};
  const std::pair<const char*, std::string> sources[] = {
      {"chat.jsonl", rows},
      {"text.jsonl", "{\"text\":\"a b\"}\n{\"text\":\"c\"}\n"},
      {"pairs.jsonl", R"({"prompt":"a","chosen":"b","rejected":"c d"})"},
      {"asked.jsonl", "{\"prompt\":\"a\",\"answer\":\"é\",\"x\":[1,\"\\n\"]}\n{\"prompt\":\"b\",\"answer\":2}\n"},
      {"book.txt", std::string(300, 'x') + "\nthe end\n"}};
  for (const auto& [name, text] : sources) {
    INFO(name);
    const std::string path = files.write(name, text);
    const Dataset made = read_dataset(path, t, o);
    CHECK_FALSE(made.report().prepared);
    write_prepared(made, prepared_key(path, t, o));
    const Dataset read = read_dataset(path, t, o);
    CHECK(read.report().prepared);
    check_same(made, read);
    if (made.task() == Task::prompt)
      for (int64_t i = 0; i < made.size(); ++i) CHECK(made.row(i) == read.row(i));
    DataOptions fresh = o;
    fresh.use_prepared = false;
    CHECK_FALSE(read_dataset(path, t, fresh).report().prepared);
  }
}

TEST_CASE("prepared tokens: of another tokenizer, source or option they are not used, and it is said", "[data]") {
  const Files files;
  const Tokenizer t = reference();
  const DataOptions o{.max_len = 40, .max_bad_rows = 1};
  const std::string path = files.write("chat.jsonl", rows);
  write_prepared(read_dataset(path, t, o), prepared_key(path, t, o));
  const auto refused = [&](const Tokenizer& with, const DataOptions& options, const std::string& why) {
    const Dataset d = read_dataset(path, with, options);
    CHECK_FALSE(d.report().prepared);
    CHECK_THAT(d.report().not_prepared, Catch::Contains(why) && Catch::Contains("not used"));
    CHECK_THAT(d.report().summary(), Catch::Contains(why));
    DataOptions fresh = options;
    fresh.use_prepared = false;
    check_same(d, read_dataset(path, with, fresh));
  };
  std::string other = t.bytes();
  const size_t at = other.find("<b>");
  REQUIRE(at != other.npos);
  other[at + 1] = 'q';
  refused(Tokenizer::from_bytes(other, "other"), o, "made for \"tokenizer ");
  DataOptions changed = o;
  changed.max_len = 64;
  refused(t, changed, "made for \"max-len 40\", this is \"max-len 64\"");
  changed = o, changed.learn_prompt = true;
  refused(t, changed, "learn-prompt");
  changed = o, changed.safe = true;
  refused(t, changed, "safe");
  changed = o, changed.merge_roles = true;
  refused(t, changed, "merge-roles");
  changed = o, changed.chat_template = true;
  refused(t, changed, "chat-template");
  changed = o, changed.too_long = TooLong::truncate;
  refused(t, changed, "too-long");
  changed = o, changed.limit = 1;
  refused(t, changed, "limit");
  changed = o, changed.keys.text = "content";
  refused(t, changed, "keys");
  std::string same_size = rows;
  same_size[same_size.find("yes")] = 'Y';
  files.write("chat.jsonl", same_size);
  refused(t, o, "made for \"source ");
  std::filesystem::remove(path);
  CHECK_THROWS_AS(read_dataset(path, t, o), Error);  // tokens alone are no data
}

TEST_CASE("prepared tokens: no damage goes unnoticed and none does harm", "[data]") {
  const Files files;
  const Tokenizer t = reference();
  const DataOptions o{.max_len = 40, .max_bad_rows = 1};
  const std::string path = files.write("chat.jsonl", rows), key = prepared_key(path, t, o);
  write_prepared(read_dataset(path, t, o), key);
  const std::string good = read_file(prepared_path(path));
  const auto why = [&](const std::string& bytes) {
    files.write("chat.jsonl.tokens.bin", bytes);
    std::string said;
    const auto d = read_prepared(path, key, t.vocab_size(), said);
    CHECK(d.has_value() == said.empty());
    return d ? std::string("used") : said;
  };
  CHECK(why(good) == "used");
  for (size_t at = 0; at < good.size(); ++at) {
    std::string bytes = good;
    bytes[at] = static_cast<char>(bytes[at] ^ (1 << at % 8));
    if (why(bytes) == "used") FAIL("byte " << at);
  }
  for (size_t n = 0; n < good.size(); n += n < 80 ? 1 : 13)
    if (why(good.substr(0, n)) == "used") FAIL("cut to " << n);
  CHECK(why(good + "x").find("sizes") != std::string::npos);
  // Sizes that would overflow when they are added or multiplied.
  for (const size_t field : {24, 32, 40, 48, 56})
    for (const uint64_t n : {UINT64_MAX, UINT64_MAX / 5 + 1, uint64_t{1} << 60, UINT64_MAX / 16 + 2}) {
      std::string bytes = good;
      std::memcpy(bytes.data() + field, &n, 8);
      CHECK(why(bytes).find("sizes") != std::string::npos);
    }
  // Numbers out of range under a right checksum: a tokenizer with fewer pieces.
  files.write("chat.jsonl.tokens.bin", good);
  std::string said;
  CHECK_FALSE(read_prepared(path, key, 100, said));
  CHECK(said.find("make no sense") != std::string::npos);
}

TEST_CASE("prepared tokens: files broken by hand, under a right checksum", "[data]") {
  const Files files;
  const std::string path = files.write("pairs.jsonl", ""), key = "made for\nthis\n";
  const auto good_of = [&](Task task, int64_t sequences = 4) {
    Dataset d(task, path);
    for (int64_t i = 0; i < sequences; ++i) {
      Example e;
      for (int32_t id = 0; id < 3; ++id) e.add(10 + id, id > 0);
      d.add(e, i + 1);
      if (task == Task::prompt) d.add_row("{\"prompt\":\"a\"}");
    }
    write_prepared(d, key);
    return read_file(prepared_path(path));
  };
  const std::string pairs = good_of(Task::preference), asked = good_of(Task::prompt), odd = good_of(Task::chat, 3);
  constexpr size_t ends = 64, ids = ends + 2 * 4 * 8, mask = ids + 12 * 4;  // of four sequences of three tokens
  uint64_t account_bytes;
  std::memcpy(&account_bytes, pairs.data() + 32, sizeof account_bytes);
  const auto put = [](std::string bytes, size_t at, auto n) { return bytes.replace(at, sizeof n, reinterpret_cast<const char*>(&n), sizeof n); };
  const auto swap = [](std::string bytes, const std::string& what, const std::string& by) {  // of one length
    REQUIRE(bytes.find(what) != bytes.npos);
    REQUIRE(what.size() == by.size());
    return bytes.replace(bytes.find(what), what.size(), by);
  };
  const auto u64 = [](uint64_t n) { return n; };
  struct Case {
    const char* what;
    std::string bytes, says;
  };
  const Case cases[] = {
      {"another file", swap(pairs, "FACETTOK", "FACETTOC"), "no file of prepared tokens"},
      {"another version", put(pairs, 8, uint32_t{2}), "of version 2, expected 1"},
      {"no such task", put(pairs, 16, u64(6)), "its sizes do not add up"},
      {"a number of tasks that wraps", put(pairs, 16, u64(1) << 32), "its sizes do not add up"},
      {"a sequence more", put(pairs, 48, u64(5)), "its sizes do not add up"},
      {"a token less", put(pairs, 56, u64(11)), "its sizes do not add up"},
      {"a key that is part of the account", put(put(pairs, 24, u64(0)), 32, account_bytes + key.size()), "made for \"\", this is \"made for\""},
      {"an empty sequence", put(pairs, ends + 8, u64(3)), "its numbers make no sense"},
      {"an empty first sequence", put(pairs, ends, u64(0)), "its numbers make no sense"},
      {"sequences out of order", put(pairs, ends + 8, u64(2)), "its numbers make no sense"},
      {"a sequence beyond the tokens", put(pairs, ends + 8, UINT64_MAX), "its numbers make no sense"},
      {"tokens behind the last sequence", put(pairs, ends + 24, u64(11)), "its numbers make no sense"},
      {"a token below 0", put(pairs, ids, int32_t{-1}), "its numbers make no sense"},
      {"a token the tokenizer lacks", put(pairs, ids + 44, int32_t{512}), "its numbers make no sense"},
      {"neither learned nor not", put(pairs, mask, uint8_t{2}), "its numbers make no sense"},
      {"half a pair", put(odd, 16, u64(3)), "its numbers make no sense"},
      {"rows that the task has not", put(asked, 16, u64(2)), "its numbers make no sense"},
      {"rows that the task lacks", put(pairs, 16, u64(4)), "its numbers make no sense"},
      {"two rows for four prompts", swap(asked, "\"a\"}\n{\"prompt\":\"a\"}\n{", "\"a\"} {\"prompt\":\"a\"} {"), "its numbers make no sense"},
      {"a row without an end", put(asked, asked.size() - 1, ' '), "its numbers make no sense"},
      {"another key", swap(pairs, "made for", "made 4or"), "made for \"made 4or\", this is \"made for\""},
      {"an account that is no JSON", swap(pairs, "{\"bad\"", "[\"bad\""), "not used"},
      {"an account without a field", swap(pairs, "\"longest\"", "\"longast\""), "its account"},
      {"an account with another field", swap(pairs, "\"ignored_keys\":{}", "\"ignored_keys\":[]"), "its account"},
  };
  for (const Case& c : cases) {
    INFO(c.what);
    const std::string& bytes = c.bytes;
    files.write("pairs.jsonl.tokens.bin", put(bytes, 12, crc32c(bytes.data() + 16, bytes.size() - 16)));
    std::string said;
    CHECK_FALSE(read_prepared(path, key, 512, said));
    CHECK_THAT(said, Catch::Contains(c.says));
  }
}

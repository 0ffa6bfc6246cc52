// The radical task: its spelling, its splits, and a verifier that nothing upsets.
#include "data/radicals.h"

#include <catch2/catch.hpp>
#include <map>
#include <random>
#include <set>

#include "data/dataset.h"
#include "data/make_tokenizer.h"
#include "tests/data/files.h"

using namespace facet;

TEST_CASE("radicals: verdicts", "[data]") {
  using enum RadicalVerdict;
  struct Case {
    uint64_t n;
    const char* answer;
    RadicalVerdict verdict;
  };
  const Case cases[] = {
      {234, "3√(2·13)", correct}, {234, "3√(13·2)", correct}, {234, "√(2·3·3·13)", unsimplified}, {234, "3√26", correct},
      {300, "2·5√3", correct}, {300, "5·2√3", correct}, {300, "10√3", correct}, {300, "2·5√(3)", correct}, {300, "2√(3·5·5)", unsimplified},
      {300, "2√75", unsimplified}, {300, "2·5√(3·5)", wrong}, {300, "2·5", wrong}, {9, "3", correct}, {9, "√9", unsimplified},
      {9, "√(3·3)", unsimplified}, {9, "1·3", unsimplified}, {9, "3√1", unsimplified}, {10, "√(2·5)", correct}, {10, "√10", correct}, {10, "1√10", unsimplified},
      {36, "2·3", correct}, {36, "6", correct}, {36, "2·3\n", correct},
      {36, "", malformed}, {36, "2·", malformed}, {36, "·2", malformed}, {36, "2·√3", malformed}, {36, "√", malformed}, {36, "√(", malformed},
      {36, "√()", malformed}, {36, "√(2·3", malformed}, {36, "√2·3", malformed}, {36, "2√3√3", malformed}, {36, "06", malformed}, {36, "0", malformed},
      {36, "-6", malformed}, {36, " 6", malformed}, {36, "6=", malformed}, {36, "2*3", malformed}, {36, "\xc2", malformed}, {36, "2\xc2", malformed},
      {36, "99999999999999999999999999999999999999999", wrong}, {36, "√99999999999999999999999999999999999999999", wrong},
      {36, "4294967296", wrong}, {0, "4294967296", wrong}, {uint64_t{1} << 63, "9223372036854775808√9223372036854775808", wrong},
  };
  for (const Case& c : cases) {
    INFO(c.n << " " << c.answer);
    CHECK(std::string(name_of(judge_radical(c.n, c.answer))) == name_of(c.verdict));
  }
  CHECK(reward_of(correct) == 1);
  CHECK(reward_of(unsimplified) == 0.3);
  CHECK(reward_of(wrong) == 0.1);
  CHECK(reward_of(malformed) == 0);
  CHECK(radicand("√(2·3·3·13)=") == 234u);
  CHECK(!radicand("√(2·3·3·13)"));
  CHECK(!radicand("√(99999999999·99999999999)="));
  CHECK(!radicand(""));
}

TEST_CASE("radicals: the verifier agrees with long arithmetic on well-formed answers and survives garbage", "[data]") {
  std::mt19937 r(3);
  const char* symbols[] = {"√", "(", ")", "·", "=", "1", "2", "3", "5", "7", "0", "\xe2", "\x88", "x"};
  for (int i = 0; i < 100000; ++i) {
    std::string s;
    for (unsigned n = r() % 12; n > 0; --n) s += symbols[r() % 14];
    judge_radical(r(), s);
    radicand(s);
  }
  judge_radical(1, std::string(1 << 20, '7'));
  std::string deep;
  for (int i = 0; i < 100000; ++i) deep += "2·";
  CHECK(judge_radical(4, deep + "2") == RadicalVerdict::wrong);
  for (int i = 0; i < 20000; ++i) {
    const uint64_t a = 2 + r() % 60, b = 2 + r() % 900;
    bool squares = false;
    for (uint64_t p = 2; p * p <= b; ++p) squares |= b % (p * p) == 0;
    const std::string s = std::to_string(a) + "√" + std::to_string(b);
    REQUIRE(judge_radical(a * a * b, s) == (squares ? RadicalVerdict::unsimplified : RadicalVerdict::correct));
    REQUIRE(judge_radical(a * a * b + 1, s) == RadicalVerdict::wrong);
  }
}

TEST_CASE("radicals: problems, demonstrations, splits", "[data]") {
  const RadicalsOptions options;
  const auto train = make_radicals(options, RadicalSplit::train), valid = make_radicals(options, RadicalSplit::valid), test = make_radicals(options, RadicalSplit::test);
  REQUIRE(train.size() == 20000);
  REQUIRE(test.size() == 300);
  std::set<std::string> trained, validated, tested;
  std::map<RadicalVerdict, int> verdicts;
  const Tokenizer t = Tokenizer::from_bytes(char_tokenizer(radicals_alphabet()), "radicals");
  CHECK(t.vocab_size() == 16);
  int with_pair = 0;
  for (const Radical& r : train) {
    trained.insert(r.multiset);
    REQUIRE(radicand(r.prompt) == r.n);
    REQUIRE(judge_radical(r.n, r.answer) == RadicalVerdict::correct);
    const bool pair = r.answer != "√(" + r.multiset + ")" && r.answer != "√" + r.multiset;
    with_pair += pair;
    if (pair) ++verdicts[judge_radical(r.n, r.completion)];
    else REQUIRE(r.completion == r.answer);
  }
  CHECK(verdicts.size() == 2);
  CHECK(verdicts[RadicalVerdict::unsimplified] == Approx(0.8 * with_pair).epsilon(0.03));
  for (const Radical& r : valid) validated.insert(r.multiset);
  for (const Radical& r : test) {
    tested.insert(r.multiset);
    REQUIRE(r.completion == r.answer);
    const Ids ids = t.encode(r.prompt + r.answer);
    REQUIRE(std::count(ids.begin(), ids.end(), t.specials().unk) == 0);
    REQUIRE(t.decode(ids) == r.prompt + r.answer);
  }
  for (const std::string& m : tested) REQUIRE(!trained.count(m));
  for (const std::string& m : validated) REQUIRE((!trained.count(m) && !tested.count(m)));
  CHECK(tested.size() > 120);
  CHECK(make_radicals(options, RadicalSplit::test)[299].prompt == test[299].prompt);
  CHECK(make_radicals({.seed = 2}, RadicalSplit::test)[0].prompt + make_radicals({.seed = 2}, RadicalSplit::test)[1].prompt != test[0].prompt + test[1].prompt);
  for (const Radical& r : make_radicals({.train = 500, .lazy = 0}, RadicalSplit::train)) REQUIRE(r.completion == r.answer);
}

TEST_CASE("radicals: unseen length, and errors", "[data]") {
  const RadicalsOptions options{.train = 2000, .by_length = true};
  const auto factors = [](const Radical& r) {
    size_t n = 1;
    for (size_t at = 0; (at = r.multiset.find("·", at)) != std::string::npos; ++at) ++n;
    return n;
  };
  for (const Radical& r : make_radicals(options, RadicalSplit::train)) REQUIRE(factors(r) <= 7);
  for (const Radical& r : make_radicals(options, RadicalSplit::test)) REQUIRE(factors(r) == 8);
  CHECK_THROWS_AS(make_radicals({.primes = {2, 4}}, RadicalSplit::train), Error);
  CHECK_THROWS_AS(make_radicals({.primes = {}}, RadicalSplit::train), Error);
  CHECK_THROWS_AS(make_radicals({.primes = {2}, .min_factors = 2, .max_factors = 2}, RadicalSplit::test), Error);
}

TEST_CASE("radicals: the files are rows for training and for the verifier", "[data]") {
  const Files files;
  write_radicals(files.path("radicals"), {.train = 50, .valid = 20, .test = 20});
  const Tokenizer t = Tokenizer::from_bytes(char_tokenizer(radicals_alphabet()), "radicals");
  const Splits s = read_splits(files.path("radicals"), t);
  CHECK(s.train.size() == 50);
  CHECK(s.valid.size() == 20);
  CHECK(s.test.size() == 20);
  CHECK(s.train.task() == Task::completion);
  CHECK(s.train.report().unknown_tokens == 0);
  CHECK(s.train.report().bad == 0);
  const Dataset prompts = read_dataset(files.path("radicals/test.jsonl"), t, {.format = Task::prompt});
  CHECK(prompts.row(0).find("\"verifier\": \"radicals\"") != std::string::npos);
}

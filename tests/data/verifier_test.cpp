// Verifiers that look at the text alone, their weighted sum, and questions. Programs that judge: exec_verifier_test.cpp.
#include "data/verifier.h"

#include <catch2/catch.hpp>
#include <chrono>
#include <cmath>
#include <limits>

#include "data/make_tokenizer.h"
#include "data/numeric.h"
#include "data/regex.h"
#include "tests/data/files.h"

using namespace facet;

namespace {

bool same(const char* a, const char* b) {
  const auto x = final_number(a), y = final_number(b);
  return x && y && *x == *y;
}

Question question(const std::string& prompt, const std::string& expected) {
  return {.prompt = prompt, .ids = {}, .expected = expected, .row = {}, .where = "t.jsonl:7", .line = 7};
}

Verdict verdict(const std::string& spec, const Question& q, const std::string& answer) {
  const Judged judged{&q, answer};
  return make_verifier(spec)->judge({&judged, 1}).at(0);
}

template <class F>
std::string error_of(F f) {
  try {
    f();
  } catch (const Error& e) {
    return fmt::format("{}: {}", e.exit_code(), e.what());
  }
  return "no error";
}

}  // namespace

TEST_CASE("numeric: the final number, however it is spelled", "[data]") {
  const char* equal[][2] = {
      {"so 18 + 24 = 42.\n#### 42", "42"},
      {"#### 1,234,567", "1234567"},
      {"The answer is $1,000.", "1000.00"},
      {"first \\boxed{7}, no: \\boxed{\\frac{1}{2}}", "0.5"},
      {"\\boxed{x = 12}, as 3 of you said 99", "12"},
      {"\\boxed{\\text{about } 12", "12"},
      {"x = -3/4", "-0.75"},
      {"-\\dfrac{3}{4}", "\u22120.75"},
      {"\\frac{-3}{4}", "-.75"},
      {"7-3", "3"},
      {"7 -3", "-3"},
      {"it lost -$5", "-5"},
      {"it lost $-5", "-5"},
      {"1.5e3", "1500"},
      {"2E-2.", "0.02"},
      {"0.1000", ".1"},
      {"-0", "0"},
      {"10/4", "2.5"},
      {"1/3", "2/6"},
      {"3/0.5", "6"},
      {"1,2,3", "3"},
      {"1,234,5678", "5678"},
      {"12,345,678", "12345678"},
      {"007", "7"},
      {"#### 42 apples, of 50", "42"},
      {"#### 41\n#### 42", "42"},
      {"50%", "50"},
      {"123456789012345678901234567890.5", "246913578024691357802469135781/2"},
      {"1e400", "10e399"},
  };
  for (const auto& [a, b] : equal) {
    INFO(a << "  and  " << b);
    CHECK(same(a, b));
    CHECK(same(b, a));
  }
  const char* unequal[][2] = {{"42", "-42"}, {"1/3", "0.3333333333"}, {"1,000", "1"}, {"10", "1"}, {"0", "1"}, {"#### 41 or 42", "42"}, {"1e400", "1e399"}};
  for (const auto& [a, b] : unequal) {
    INFO(a << "  and  " << b);
    CHECK(!same(a, b));
  }
  for (const char* none : {"", "none", "42 #### none", "1/0", "\\frac{1}{0}", "\\boxed{}", "-", "$", ".", "\\frac{1}"}) {
    INFO(none);
    CHECK(!final_number(none));
  }
  CHECK(!final_number(std::string(201, '9')));
  CHECK(final_number(std::string(100000, '0') + "9"));
  CHECK(!final_number("1/" + std::string(300, '7')));
}

TEST_CASE("regex: what matches", "[data]") {
  struct Case {
    const char *pattern, *text;
    bool found;
  };
  const Case cases[] = {
      {"abc", "xabcx", true},          {"abc", "ab", false},
      {"^abc$", "abc", true},          {"^abc$", "xabc", false},
      {"^abc$", "abc\n", true},        {"^abc$", "abc\nd", false},
      {"a|b|", "zzz", true},           {"^(a|bc)+$", "abcabc", true},
      {"^(a|bc)+$", "abcab", false},   {"^a{2,3}$", "aa", true},
      {"^a{2,3}$", "aaaa", false},     {"^a{2}$", "aaa", false},
      {"^a{2,}$", "aaaaa", true},      {"^a{0}b$", "b", true},
      {"x{,2}", "x{,2}", true},        {"a{x", "a{x", true},
      {"^[a-c-]+$", "a-c", true},      {"^[^a-c]$", "b", false},
      {"^[]x]+$", "]x", true},         {"^\\d+\\.\\d*$", "12.5", true},
      {"^\\w+\\s\\W$", "ab_1 !", true},{"^[\\d,]+$", "1,234", true},
      {"\\bcat\\b", "a cat.", true},   {"\\bcat\\b", "concat", false},
      {"\\Bcat", "concat", true},      {"^.$", "\u00e9", true},
      {"^[\u00e0-\u00ff]$", "\u00e9", true}, {"^.$", "\n", false},
      {"(?s)^.$", "\n", true},         {"(?i)^[a-f]OO$", "FoO", true},
      {"(?i)k", "K", true},            {"^(?:ab)*?$", "abab", true},
      {"^(a*)*$", "aaa", true},        {"^(a?){3}b$", "aab", true},
      {"\\x41\\.", "A.", true},        {"[^\\s]", " \t", false},
      {"[\\]\\\\]", "\\", true},       {"^$", "", true},
      {"####\\s*-?\\d+", "so\n#### 42", true},
      {"\\D", "123", false},           {"[^\\D]", "a1", true},
  };
  for (const Case& c : cases) {
    INFO(c.pattern << " in " << c.text);
    CHECK(Regex(c.pattern).search(c.text) == c.found);
  }
  for (const std::string& bytes : {std::string("\xff\xc3"), std::string("\xf0\x9f"), std::string(1, '\0')}) CHECK(Regex(".").search(bytes));
}

TEST_CASE("regex: mistakes are named with their place, and nothing grows without bound", "[data]") {
  const std::pair<const char*, const char*> wrong[] = {
      {"a(b", "character 4: a ) is missing"}, {"a)b", "character 2: no ( for this )"}, {"[a", "a ] is missing"}, {"*a", "character 1: nothing to repeat"},
      {"a**", "two quantifiers"},             {"a\\", "a \\ at the end"},              {"[z-a]", "high to low"}, {"(?=a)", "no look-around"},
      {"(a)\\1", "no back references"},       {"a{3,2}", "greater number comes first"}, {"a{2000}", "more than 1,000"}, {"\\xg1", "two hexadecimal"},
      {"((a{100}){100}){100}", "too large"},  {"((((){1000}){1000}){1000}){1000}", "too large"}, {"a|+", "nothing to repeat"},
  };
  for (const auto& [pattern, said] : wrong) {
    INFO(pattern);
    const std::string error = error_of([p = pattern] { Regex r(p); });
    CHECK(error.starts_with("2: pattern"));
    CHECK(error.find(said) != error.npos);
  }
  CHECK(error_of([] { Regex r(std::string(100000, '(')); }).find("too deeply") != std::string::npos);
  // The patterns that make backtracking exponential, and std::regex overflow the stack.
  const auto begin = std::chrono::steady_clock::now();
  const std::string a(100000, 'a');
  CHECK(!Regex("^(a+)+$").search(a + "b"));
  CHECK(!Regex("^(a|aa)+$").search(a + "b"));
  CHECK(Regex("(x|.)*a$").search(a));
  CHECK(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() < 1);
}

TEST_CASE("verifiers: rewards and verdicts", "[data]") {
  const Question q = question("√(2·3·3)=", "3√2");
  CHECK(verdict("radicals", q, "3√2").reward == 1);
  CHECK(verdict("radicals", q, "√(2·3·3)").name == "not simplified");
  CHECK(verdict("exact", q, " 3√2\n").reward == 1);
  CHECK(verdict("exact", q, "3√3").name == "wrong");
  const Question sum = question("2+2?", "2 and 2\n#### 4");
  CHECK(verdict("numeric", sum, "it is 4.0").reward == 1);
  CHECK(verdict("numeric", sum, "it is 5").name == "wrong");
  CHECK(verdict("numeric", sum, "no idea").name == "no number");
  CHECK(verdict("numeric", sum, "no idea").reward == 0);
  CHECK(verdict("regex:^[0-9]+$", sum, "44").reward == 1);
  CHECK(verdict("regex:a:b", sum, "xa:b").name == "match");
  CHECK(verdict("regex:^[0-9]+$", sum, "x").reward == 0);
  CHECK(verdict("length:2..4", sum, "√√").reward == 1);  // characters, not bytes
  CHECK(verdict("length:2..4", sum, "a").reward == 0.5);
  CHECK(verdict("length:..4", sum, "aaaaa").reward == 0.8);
  CHECK(verdict("length:..4", sum, "").reward == 1);
  CHECK(verdict("length:3..", sum, "").reward == 0);
  CHECK(make_verifier("regex:a:b")->name() == "regex:a:b");

  CHECK(error_of([] { make_verifier("radcals"); }) ==
        "2: verifier \"radcals\" is unknown, did you mean radicals? There are radicals, exact, numeric, regex:PATTERN, length:N..M, exec:COMMAND");
  for (const char* bad : {"", "regex", "regex:", "exec:", "exact:x", "length:", "length:..", "length:5..4", "length:a..4", "length:4", "length:1..2x", "nothing at all"}) {
    INFO(bad);
    CHECK(error_of([&] { make_verifier(bad); }).starts_with("2: verifier \""));
  }
  CHECK(error_of([] { make_verifier("regex:("); }).starts_with("2: pattern \"(\""));
}

TEST_CASE("rewards: a weighted sum that keeps its parts; what breaks costs its rows only", "[data]") {
  struct Odd final : Verifier {
    std::string name_ = "odd";
    int mode = 0;
    const std::string& name() const override { return name_; }
    std::vector<Verdict> judge(std::span<const Judged> answers) override {
      if (mode == 1) throw std::runtime_error("no luck");
      std::vector<Verdict> r(answers.size() - (mode == 2), {0.5, "half", {}});
      if (mode == 0) r[1].reward = std::numeric_limits<double>::quiet_NaN();
      return r;
    }
  };
  const Question q = question("2+2?", "4");
  const std::vector<Judged> answers = {{&q, "4"}, {&q, "5"}, {&q, "4"}};
  Rewards rewards;
  rewards.add(make_verifier("exact"), 2);
  rewards.add(make_verifier("length:2..9"), -0.5);
  auto r = rewards.judge(answers);
  REQUIRE(r.size() == 3);
  CHECK(r[0].total == 2 * 1 - 0.5 * 0.5);
  CHECK(r[0].each == std::vector<double>{1, 0.5});
  CHECK(r[0].verdict == "correct, length:2..9 0.5");
  CHECK(r[1].total == -0.25);
  CHECK(rewards.judge({}).empty());
  CHECK(error_of([&] { rewards.add(make_verifier("exact"), std::nan("")); }) == "2: the weight of reward \"exact\" is nan");

  auto* odd = new Odd;
  rewards.add(std::unique_ptr<Verifier>(odd));
  r = rewards.judge(answers);
  CHECK(r[0].error.empty());
  CHECK(r[1].error == "reward \"odd\" raised at sample 2: the reward is nan");
  CHECK(r[2].total == 1.75 + 0.5);
  odd->mode = 1;
  CHECK(rewards.judge(answers)[2].error == "reward \"odd\" raised at sample 3: no luck");
  odd->mode = 2;
  CHECK(rewards.judge(answers)[0].error == "reward \"odd\" raised at sample 1: 2 verdicts for 3 samples");
}

TEST_CASE("rewards: questions that can never be judged are named before anything is computed", "[data]") {
  const auto check = [](const char* spec, const Question& q) {
    Rewards r;
    r.add(make_verifier(spec));
    return error_of([&] { r.check({&q, 1}); });
  };
  CHECK(check("radicals", question("2+2", "4")) == "4: t.jsonl:7: verifier radicals: the prompt \"2+2\" is no radical such as √(2·3·3)=");
  CHECK(check("numeric", question("2+2", "four")) == "4: t.jsonl:7: verifier numeric: the expected answer \"four\" holds no number");
  CHECK(check("exact", question("2+2", " ")).starts_with("4: t.jsonl:7: verifier exact needs the expected answer"));
  CHECK(check("numeric", question("2+2", "")).find("--answer-key") != std::string::npos);
  CHECK(check("numeric", question("2+2", "4")) == "no error");
  CHECK(check("regex:x", question("2+2", "")) == "no error");
}

TEST_CASE("questions: columns by name, text or messages", "[data]") {
  const Files files;
  const Tokenizer t = Tokenizer::from_bytes(char_tokenizer("abcdefghijklmnopqrstuvwxyz \n.?0123456789#"), "letters");
  const std::string gsm = files.write("gsm.jsonl", "{\"question\": \"one and one?\", \"answer\": \"two.\\n#### 2\"}\n\n{\"question\": \"a b c d e f\", \"answer\": 7}\n");
  DataOptions o{.keys = {.prompt = "question"}};
  auto list = read_questions(gsm, t, o);
  REQUIRE(list.size() == 2);
  CHECK(list[0].prompt == "one and one?");
  CHECK(list[0].ids == encode_prompt(t, "one and one?"));
  CHECK(list[0].expected == "two.\n#### 2");
  CHECK(list[1].expected == "7");
  CHECK(list[1].line == 3);
  CHECK(list[1].where == gsm + ":3");
  CHECK(list[1].row == "{\"question\": \"a b c d e f\", \"answer\": 7}");
  o.chat_template = true;
  CHECK(read_questions(gsm, t, o)[0].ids ==
        encode_chat(t, {{"user", "one and one?"}}, {.generation_prompt = true, .merge_roles = false, .safe = false}).ids);
  o.chat_template = false;
  o.limit = 1;
  CHECK(read_questions(gsm, t, o).size() == 1);
  o.limit = 0;
  o.max_len = 12;
  DataReport report;
  CHECK(read_questions(gsm, t, o, &report).size() == 1);
  CHECK(report.too_long == 1);

  const std::string chat = files.write("chat.jsonl", R"({"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}], "gold": "d", "completion": "no"})");
  list = read_questions(chat, t, {.keys = {.answer = "gold"}});
  CHECK(list[0].prompt == "c");
  CHECK(list[0].expected == "d");
  CHECK(list[0].ids.back() == t.id_of("\n"));
  CHECK(read_questions(chat, t)[0].expected == "no");
  CHECK(error_of([&] { read_questions(chat, t, {.keys = {.answer = "x"}}); }).find("chat.jsonl:1: \"x\" is missing") != std::string::npos);
  CHECK(error_of([&] { read_questions(files.write("l.jsonl", R"({"prompt": "a", "x": [1]})"), t, {.keys = {.answer = "x"}}); })
            .find("l.jsonl:1: \"x\" must be a string or a number; found list") != std::string::npos);
  CHECK(read_questions(files.write("l.jsonl", R"({"prompt": "a", "answer": [1]})"), t)[0].expected.empty());
}

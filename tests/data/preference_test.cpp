// Pairs of completions in the forms that people keep them in, and what is wrong with some; prompts with a system text.
#include <algorithm>
#include <catch2/catch.hpp>

#include "data/make_tokenizer.h"
#include "data/question.h"
#include "data/verifier.h"
#include "tests/data/files.h"

using namespace facet;

namespace {

Tokenizer letters() { return Tokenizer::from_bytes(char_tokenizer("abcdefghijklmnopqrstuvwxyzDAYIW \n.?0123456789<>{}_"), "letters"); }

std::string marked(const Tokenizer& t, const Dataset& d, int64_t i) {
  const std::string s = preview(d, t, i);
  return s.substr(s.find('\n') + 1);
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

std::string turn(const std::string& role, const std::string& text) { return fmt::format(R"({{"role": "{}", "content": "{}"}})", role, text); }

}  // namespace

TEST_CASE("preferences: strings, messages, and prompts that both halves begin with", "[data]") {
  const Files files;
  const Tokenizer t = letters();
  const auto halves = [&](const std::string& row, const DataOptions& o = {}) {
    const Dataset d = read_dataset(files.write("p.jsonl", row), t, o);
    REQUIRE(d.task() == Task::preference);
    REQUIRE(d.size() == 2);
    CHECK(d.group() == 2);
    return marked(t, d, 0) + "|" + marked(t, d, 1);
  };
  CHECK(halves(R"({"prompt": "q", "chosen": "a", "rejected": "b"})") == "<bos>q[[a<eos>]]|<bos>q[[b<eos>]]");
  const std::string open = "<bos><start_of_turn>user\n", next = "<end_of_turn>\n<start_of_turn>model\n", end = "<end_of_turn>]]\n";
  const std::string chat = open + "q" + next + "[[a" + end + "|" + open + "q" + next + "[[b" + end;
  const std::string q = turn("user", "q"), a = turn("assistant", "a"), b = turn("model", "b"), s = turn("system", "s");
  const auto row = [](const std::string& prompt, const std::string& chosen, const std::string& rejected, const std::string& more = "") {
    return "{" + (prompt.empty() ? "" : "\"prompt\": " + prompt + ", ") + "\"chosen\": " + chosen + ", \"rejected\": " + rejected + more + "}";
  };
  CHECK(halves(row("[" + q + "]", "[" + a + "]", "[" + b + "]")) == chat);
  CHECK(halves(row("[" + q + "]", "\"a\"", "\"b\"")) == chat);
  CHECK(halves(row("\"q\"", "[" + a + "]", "[" + b + "]")) == chat);
  CHECK(halves(row("\"q\"", "\"a\"", "\"b\""), {.chat_template = true}) == chat);
  CHECK(halves(row("", "[" + q + "," + a + "]", "[" + q + "," + b + "]")) == chat);                  // implicit
  CHECK(halves(row("\"q\"", "[" + q + "," + a + "]", "[" + q + "," + b + "]")) == chat);             // as text beside it, too
  CHECK(halves(row("[" + q + "]", "[" + q + "," + a + "]", "[" + q + "," + b + "]")) == chat);
  const std::string told = open + "s\n\nq" + next + "[[a" + end + "|" + open + "s\n\nq" + next + "[[b" + end;
  CHECK(halves(row("\"q\"", "\"a\"", "\"b\"", ", \"system\": \"s\"")) == told);
  CHECK(halves(row("", "[" + q + "," + a + "]", "[" + q + "," + b + "]", ", \"system\": \"s\"")) == told);
  CHECK(halves(row("[" + s + "," + q + "]", "[" + a + "]", "[" + b + "]")) == told);
  CHECK(halves(row("\"q\"", "\"a\"", "\"b\"", ", \"system\": \"\"")) == "<bos>q[[a<eos>]]|<bos>q[[b<eos>]]");
  CHECK(halves(row("\"q\"", "\"a\"", "\"b\"", ", \"system\": null")) == "<bos>q[[a<eos>]]|<bos>q[[b<eos>]]");
  // Turns of the model within the prompt are not learned; those behind it are, however many.
  const std::string talk = "[" + q + "," + b + "," + q + "]", before = open + "q" + next + "b<end_of_turn>\n<start_of_turn>user\nq" + next;
  CHECK(halves(row(talk, "[" + a + "]", "[" + b + "]")) == before + "[[a" + end + "|" + before + "[[b" + end);
  CHECK(halves(row("[" + q + "]", "[" + b + "," + q + "," + a + "]", "[" + b + "]")) ==
        open + "q" + next + "[[b<end_of_turn>]]\n<start_of_turn>user\nq" + next + "[[a" + end + "|" + open + "q" + next + "[[b" + end);
  CHECK(halves(R"({"q": "q", "good": "a", "bad": "b"})", {.keys = {.prompt = "q", .chosen = "good", .rejected = "bad"}}) ==
        "<bos>q[[a<eos>]]|<bos>q[[b<eos>]]");
  // The same of completions.
  const Dataset d = read_dataset(files.write("c.jsonl", "{\"prompt\": " + talk + ", \"completion\": [" + a + "], \"system\": \"s\"}"), t);
  CHECK(marked(t, d, 0) == open + "s\n\nq" + next + "b<end_of_turn>\n<start_of_turn>user\nq" + next + "[[a" + end);
}

TEST_CASE("preferences: what is wrong is said with its line", "[data]") {
  const Files files;
  const Tokenizer t = letters();
  const std::string q = turn("user", "q"), a = turn("model", "a"), b = turn("model", "b"), u = turn("user", "u");
  const std::string good = R"({"prompt": "q", "chosen": "a", "rejected": "b"})";
  const std::pair<std::string, std::string> wrong[] = {
      {R"({"prompt": "q", "chosen": "a", "rejected": "a"})", "\"chosen\" and \"rejected\" are identical"},
      {R"({"prompt": "q", "chosen": "a"})", "\"rejected\" is missing; found chosen, prompt"},
      {R"({"prompt": "q", "rejected": "a"})", "\"chosen\" is missing; found prompt, rejected"},
      {R"({"chosen": "a", "rejected": "b"})", "\"prompt\" is missing; found chosen, rejected"},
      {R"({"prompt": "q", "chosen": "a", "rejected": ""})", "\"rejected\" is empty, spaces aside"},
      {R"({"prompt": "q", "chosen": 3, "rejected": "b"})", "\"chosen\" must be a string; found number"},
      {"{\"chosen\": [" + q + "," + a + "], \"rejected\": [" + u + "," + b + "]}", "have no first turn in common and no \"prompt\""},
      {"{\"chosen\": [" + a + "], \"rejected\": [" + b + "]}", "have no first turn in common and no \"prompt\""},
      {"{\"chosen\": [" + q + "," + a + "], \"rejected\": [" + q + "," + a + "]}", "\"chosen\" and \"rejected\" are identical"},
      {"{\"chosen\": [" + q + "," + a + "], \"rejected\": [" + q + "]}", "one of \"chosen\" and \"rejected\" is only the beginning of the other"},
      {"{\"chosen\": [" + q + "," + a + "," + q + "], \"rejected\": [" + q + "," + a + "," + u + "]}", "part at turn 3; expected a turn of the model there"},
      {"{\"prompt\": \"x\", \"chosen\": [" + q + "," + a + "], \"rejected\": [" + q + "," + b + "]}", "\"prompt\" is not in the turns"},
      {"{\"prompt\": [" + q + "," + a + "], \"chosen\": [" + b + "], \"rejected\": [" + a + "]}", "turn 3 is \"model\" after \"model\""},
      {"{\"prompt\": [" + q + "], \"chosen\": [" + turn("model", " ") + "], \"rejected\": [" + a + "]}", "\"chosen\" is empty, spaces aside"},
      {"{\"prompt\": [" + q + "], \"chosen\": [" + a + "], \"rejected\": [" + turn("model", "a ") + "]}", "are identical, spaces aside"},
      {"{\"prompt\": [" + turn("system", "s") + "," + q + "], \"system\": \"s\", \"chosen\": \"a\", \"rejected\": \"b\"}", "a first turn of that role"},
      {R"({"prompt": "q", "chosen": "<bos>a", "rejected": "b"})", "the text holds <bos>, which every sequence begins with anyway; take it out (with --safe"},
  };
  for (const auto& [row, said] : wrong) {
    INFO(row);
    const std::string path = files.write("dpo.jsonl", good + "\n\n" + row + "\n" + good + "\n");
    const std::string error = error_of([&] { read_dataset(path, t); });
    INFO(error);
    CHECK(error.starts_with("4: " + path + ":3: "));
    CHECK(error.find(said) != error.npos);
    const Dataset d = read_dataset(path, t, {.max_bad_rows = 1});
    CHECK(d.size() == 4);
    CHECK(d.report().bad == 1);
  }
  // Cut until nothing tells them apart.
  const std::string path = files.write("long.jsonl", good + "\n" + R"({"prompt": "q", "chosen": "abcdefgh", "rejected": "abcdefgi"})");
  const Dataset d = read_dataset(path, t, {.max_len = 6, .too_long = TooLong::truncate});
  CHECK(d.size() == 2);
  CHECK(d.report().no_target == 1);
  CHECK(read_dataset(files.write("safe.jsonl", R"({"prompt": "<bos>q", "chosen": "a", "rejected": "b"})"), t, {.safe = true}).size() == 2);
}

TEST_CASE("dataset: a text with bos in it is an error in every task", "[data]") {
  const Files files;
  const Tokenizer t = letters();
  for (const char* row : {R"({"text": "<bos>a"})", R"({"prompt": "<bos>a", "completion": "b"})", R"({"prompt": "a", "completion": "b <bos>"})",
                          R"({"prompt": "<bos>a", "answer": "b"})", R"({"messages": [{"role": "user", "content": "\u003cbos>a"}, {"role": "model", "content": "b"}]})"}) {
    INFO(row);
    CHECK(error_of([&] { read_dataset(files.write("a.jsonl", row), t); }).find("a.jsonl:1: the text holds <bos>") != std::string::npos);
    CHECK(read_dataset(files.write("a.jsonl", row), t, {.safe = true}).size() == 1);
  }
  CHECK(error_of([&] { read_dataset(files.write("a.txt", "x<bos>a"), t); }).find("a.txt: the text holds <bos>") != std::string::npos);
  // Every sequence that is made holds exactly one.
  for (const char* row : {R"({"text": "a"})", R"({"prompt": "a", "answer": "b"})", R"({"prompt": "q", "system": "s", "chosen": "a", "rejected": "b"})"}) {
    const Dataset d = read_dataset(files.write("a.jsonl", row), t);
    for (int64_t i = 0; i < d.size(); ++i) CHECK(std::count(d[i].ids.begin(), d[i].ids.end(), t.specials().bos) == 1);
  }
}

TEST_CASE("samples: preferences and word problems are what people's files look like", "[data]") {
  const std::string samples = FACET_GOLDENS "/../../data/samples/";
  const Tokenizer t = Tokenizer::from_bytes(make_tokenizer("char", read_texts(samples + "preferences.jsonl")), "preferences");
  const Dataset pairs = read_dataset(samples + "preferences.jsonl", t);
  CHECK(pairs.task() == Task::preference);
  CHECK(pairs.size() == 80);
  const DataStats s = stats(pairs);
  CHECK(s.examples == 40);
  CHECK(s.rejected > s.supervised / 2);
  CHECK(preview(pairs, t, 5).starts_with("example 3, rejected ("));
  CHECK(pairs.report().summary() == "40 of 40 rows used");
  const DataOptions o{.format = Task::prompt, .keys = {.prompt = "question", .answer = "answer"}};
  const Tokenizer words = Tokenizer::from_bytes(make_tokenizer("char", read_texts(samples + "word_problems.jsonl", o)), "problems");
  const auto questions = read_questions(samples + "word_problems.jsonl", words, o);
  REQUIRE(questions.size() == 40);
  Rewards rewards;
  rewards.add(make_verifier("numeric"));
  rewards.check(questions);
  for (const Question& q : questions) {
    const std::string last = q.expected.substr(q.expected.rfind(' ') + 1);
    const Judged answers[] = {{&q, "It is " + last + "."}, {&q, "\\boxed{" + last + "0}"}, {&q, q.expected}};
    const auto r = rewards.judge(answers);
    CHECK(r[0].total == 1);
    CHECK(r[1].total == (last == "0"));
    CHECK(r[2].total == 1);
  }
}

// Data the project makes for itself: dialogues with held-out combinations, prose, and the committed samples.
#include <catch2/catch.hpp>
#include <map>
#include <set>

#include "data/dataset.h"
#include "data/dialogues.h"
#include "data/make_tokenizer.h"
#include "data/prose.h"
#include "tensor/io/file.h"
#include "tests/data/files.h"

using namespace facet;

namespace {

std::vector<std::string> words_of(const std::string& text) {
  std::vector<std::string> words(1);
  for (const char c : text)
    if (c == ' ') words.emplace_back();
    else if (c != '.' && c != '?' && c != ',') words.back() += c;
  return words;
}

}  // namespace

TEST_CASE("dialogues: held-out combinations are new, their halves are not", "[data]") {
  const Dialogues d = make_dialogues();
  REQUIRE(d.train.size() == 200);
  std::map<std::string, std::string> trained;
  std::set<std::string> words;
  size_t two = 0;
  for (const auto& dialogue : d.train) {
    REQUIRE((dialogue.size() == 1 || dialogue.size() == 2));
    two += dialogue.size() == 2;
    for (const Exchange& q : dialogue) {
      trained[q.text] = q.answer;
      for (const std::string& w : words_of(q.text)) words.insert(w);
    }
  }
  CHECK(two > 50);
  CHECK(trained.size() > 200);
  CHECK(d.test.size() >= 32);
  std::set<std::string> answers, kinds;
  for (const auto& [text, answer] : trained) answers.insert(answer);
  for (const Exchange& q : d.test) {
    INFO(q.text);
    CHECK(!trained.count(q.text));
    CHECK(answers.count(q.answer));  // seen as the answer to the same thing, asked in another way
    kinds.insert(q.kind);
    for (const std::string& w : words_of(q.text)) CHECK(words.count(w));
  }
  CHECK(kinds.size() == 8);
  CHECK(make_dialogues(2).test[0].text + make_dialogues(2).test[1].text != d.test[0].text + d.test[1].text);
  CHECK_THROWS_AS(make_dialogues(1, 20), Error);
}

TEST_CASE("dialogues: the committed samples are what the generator writes", "[data]") {
  const Files files;
  const std::string samples = FACET_GOLDENS "/../../data/samples/";
  write_dialogues(files.path("d"));
  for (const char* name : {"dialogues.jsonl", "dialogues_test.jsonl"}) CHECK(read_file(files.path("d/") + name) == read_file(samples + name));
  const Tokenizer t = Tokenizer::from_bytes(train_bpe_tokenizer(read_texts(samples + "dialogues.jsonl"), 400), "bpe");
  const Dataset train = read_dataset(samples + "dialogues.jsonl", t, {.max_len = 128}), test = read_dataset(samples + "dialogues_test.jsonl", t, {.max_len = 128});
  CHECK(train.size() == 200);
  CHECK(train.task() == Task::chat);
  CHECK(test.task() == Task::completion);
  CHECK(train.report().summary() == "200 of 200 rows used");
}

TEST_CASE("prose: long, varied, the same every time", "[data]") {
  const std::string s = make_prose(200000, 1);
  CHECK(s.size() >= 200000);
  CHECK(s == make_prose(200000, 1));
  CHECK(s.substr(0, 200) != make_prose(1000, 2).substr(0, 200));
  CHECK(make_prose(0).empty());
  CHECK(s.starts_with(make_prose(5000, 1)));
  std::set<std::string> sentences;
  size_t n = 0;
  for (size_t at = 0, end; (end = s.find(". ", at)) != s.npos; at = end + 2, ++n) sentences.insert(s.substr(at, end - at));
  CHECK(sentences.size() > 0.8 * static_cast<double>(n));
  for (const char* wrong : {"  ", " a a", " a o", " a e", " an b", "..", " ,", "{", "}"}) {
    INFO(wrong);
    CHECK(s.find(wrong) == s.npos);
  }
}

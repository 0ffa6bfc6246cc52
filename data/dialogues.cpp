#include "data/dialogues.h"

#include <filesystem>
#include <fstream>

#include "data/draws.h"
#include "tensor/error.h"

namespace facet {

namespace {

struct Thing {
  std::string name, answer;
};

// A family of questions: `{}` stands for the thing in a way of asking and for its answer in the reply.
struct Family {
  const char* name;
  std::vector<const char*> ways;
  const char* reply;
  std::vector<Thing> things;
};

const std::vector<Family>& kinds() {
  static const std::vector<Family> all = {
      {"sound",
       {"What does the {} say?", "Which sound does the {} make?", "Tell me the sound of the {}.", "How does the {} speak?"},
       "It says {}.",
       {{"cow", "moo"}, {"cat", "meow"}, {"dog", "woof"}, {"duck", "quack"}, {"sheep", "baa"}, {"pig", "oink"}, {"owl", "hoot"}, {"lion", "roar"}}},
      {"colour",
       {"What colour is the {}?", "Which colour does the {} have?", "Tell me the colour of the {}.", "How would you paint the {}?"},
       "It is {}.",
       {{"sky", "blue"}, {"grass", "green"}, {"snow", "white"}, {"coal", "black"}, {"blood", "red"}, {"lemon", "yellow"},
        {"carrot", "orange"}, {"mud", "brown"}}},
      {"opposite",
       {"What is the opposite of {}?", "Which word is the opposite of {}?", "Tell me the opposite of {}.", "If it is not {}, what is it?"},
       "It is {}.",
       {{"hot", "cold"}, {"cold", "hot"}, {"big", "small"}, {"small", "big"}, {"fast", "slow"}, {"slow", "fast"}, {"old", "new"},
        {"new", "old"}, {"open", "closed"}, {"closed", "open"}}},
      {"after",
       {"What comes after {}?", "Which number follows {}?", "Tell me the number after {}.", "Count on from {}."},
       "{}.",
       {{"one", "Two"}, {"two", "Three"}, {"three", "Four"}, {"four", "Five"}, {"five", "Six"}, {"six", "Seven"}, {"seven", "Eight"},
        {"eight", "Nine"}, {"nine", "Ten"}}},
      {"young",
       {"What is a young {} called?", "Which word means a young {}?", "Tell me the word for a young {}.", "What do you call a young {}?"},
       "A {}.",
       {{"cow", "calf"}, {"cat", "kitten"}, {"dog", "puppy"}, {"duck", "duckling"}, {"sheep", "lamb"}, {"pig", "piglet"}, {"goat", "kid"}, {"horse", "foal"}}},
      {"capital",
       {"What is the capital of {}?", "Which city is the capital of {}?", "Tell me the capital of {}.", "Where does {} have its parliament?"},
       "It is {}.",
       {{"France", "Paris"}, {"Italy", "Rome"}, {"Spain", "Madrid"}, {"Austria", "Vienna"}, {"Norway", "Oslo"}, {"Greece", "Athens"},
        {"Poland", "Warsaw"}, {"Ireland", "Dublin"}}},
      {"say",
       {"Say {}.", "Please say {}.", "Repeat {}.", "Repeat the word {}."},
       "{}.",
       {{"cow", "cow"}, {"cat", "cat"}, {"sky", "sky"}, {"snow", "snow"}, {"hot", "hot"}, {"slow", "slow"}, {"three", "three"}, {"seven", "seven"}}},
      {"twice",
       {"Say {} twice.", "Please say {} twice.", "Repeat {} two times.", "Repeat the word {} two times."},
       "{}.",
       {{"cow", "cow cow"}, {"cat", "cat cat"}, {"sky", "sky sky"}, {"snow", "snow snow"}, {"hot", "hot hot"}, {"slow", "slow slow"},
        {"three", "three three"}, {"seven", "seven seven"}}},
  };
  return all;
}

std::string fill(const char* pattern, const std::string& word) {
  std::string s = pattern;
  const size_t at = s.find("{}");
  return s.replace(at, 2, word);
}

void write(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.close();
  if (!file) fail(Kind::environment, "{}: cannot write", path);
}

}  // namespace

Dialogues make_dialogues(uint64_t seed, int64_t n) {
  Draws draws(fold_in(key(seed), 0xd1a106u));
  Dialogues d;
  std::vector<Exchange> questions;
  for (const Family& kind : kinds()) {
    // Half of the things are held out in one way of asking each, every way equally often: one combination in eight.
    std::vector<size_t> held(kind.things.size());
    for (size_t i = 0; i < held.size(); ++i) held[i] = i < held.size() / 2 ? i % kind.ways.size() : kind.ways.size();
    draws.shuffle(held);
    for (size_t i = 0; i < kind.things.size(); ++i)
      for (size_t way = 0; way < kind.ways.size(); ++way) {
        Exchange q{kind.name, fill(kind.ways[way], kind.things[i].name), fill(kind.reply, kind.things[i].answer)};
        (held[i] == way ? d.test : questions).push_back(std::move(q));
      }
  }
  if (n < static_cast<int64_t>(questions.size() + 1) / 2)
    fail(Kind::usage, "dialogues: {} are too few to ask each of the {} questions once", n, questions.size());
  // Every question once, in a random order; then others again until there are n dialogues, about a third of them with a second turn.
  std::vector<Exchange> order;
  const auto twos = std::max<int64_t>(n / 3, static_cast<int64_t>(questions.size()) - n);
  while (static_cast<int64_t>(order.size()) < n + twos) {
    std::vector<Exchange> round = questions;
    draws.shuffle(round);
    order.insert(order.end(), round.begin(), round.end());
  }
  std::vector<int> turns(static_cast<size_t>(n), 1);
  std::fill(turns.begin(), turns.begin() + static_cast<std::ptrdiff_t>(twos), 2);
  draws.shuffle(turns);
  auto next = order.begin();
  for (const int t : turns) {
    d.train.emplace_back(next, next + t);
    next += t;
  }
  return d;
}

void write_dialogues(const std::string& folder, uint64_t seed, int64_t n) {
  const Dialogues d = make_dialogues(seed, n);
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  std::string train, test;
  for (const auto& dialogue : d.train) {
    std::string messages;
    for (const Exchange& q : dialogue)
      messages += fmt::format(R"({}{{"role": "user", "content": "{}"}}, {{"role": "assistant", "content": "{}"}})", messages.empty() ? "" : ", ", q.text, q.answer);
    train += fmt::format("{{\"messages\": [{}]}}\n", messages);
  }
  for (const Exchange& q : d.test)
    test += fmt::format("{{\"prompt\": [{{\"role\": \"user\", \"content\": \"{}\"}}], \"completion\": \"{}\", \"kind\": \"{}\"}}\n", q.text, q.answer, q.kind);
  write(folder + "/dialogues.jsonl", train);
  write(folder + "/dialogues_test.jsonl", test);
}

}  // namespace facet

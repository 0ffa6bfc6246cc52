// A conversation's tokens are those of the template, and its cache holds what a fresh pass over them would.
#include "infer/chat.h"

#include <catch2/catch.hpp>

#include "tests/infer/models.h"

using namespace facet;
using namespace facet::test;

namespace {

Tokenizer reference_tokenizer() { return Tokenizer::load(golden_path("gemma3-tiny")); }

// A model that has learned one sequence by heart: after position p comes script[p + 1].
struct Scripted final : LanguageModel {
  Scripted(Ids s, int64_t vocab) : script(std::move(s)), table(Tensor::zeros({vocab, vocab})) {
    for (int64_t i = 0; i < vocab; ++i) table.value().out().as<float>()[i * vocab + i] = 100;
  }
  Tensor hidden(const Tokens& tokens, KvCache*) override {
    const int64_t B = tokens.ids.dim(0), T = tokens.ids.dim(1), V = vocab();
    const Tensor h = Tensor::zeros({B, T, V});
    for (int64_t t = 0; t < B * T; ++t) {
      const int32_t p = tokens.positions.data<int32_t>()[static_cast<size_t>(t)];
      if (p < 0) continue;
      ++computed;
      const auto next = static_cast<size_t>(p) + 1;
      h.out().as<float>()[t * V + (next < script.size() ? script[next] : 0)] = 1;
    }
    return h;
  }
  const Parameter& head() const override { return table; }
  double final_cap() const override { return 0; }
  int64_t vocab() const override { return table.value().dim(0); }
  int64_t layers() const override { return 0; }
  int64_t context() const override { return 512; }
  KvCache new_cache(int64_t, int64_t capacity, int64_t chunk) const override { return {{}, capacity, chunk}; }
  double forward_flops(double, double, double) const override { return 0; }
  double activation_bytes(double, Recompute) const override { return 0; }
  void visit(Visitor& v) override { v("table", table); }

  Ids script;
  Parameter table;
  int64_t computed = 0;
};

bool whole_characters(std::string_view s) {
  for (size_t i = 0; i < s.size();) {
    const auto b = static_cast<uint8_t>(s[i]);
    const size_t n = b < 0x80 ? 1 : b >> 5 == 6 ? 2 : b >> 4 == 14 ? 3 : b >> 3 == 30 ? 4 : 0;
    if (n == 0 || i + n > s.size()) return false;
    for (size_t k = 1; k < n; ++k)
      if ((static_cast<uint8_t>(s[i + k]) & 0xC0) != 0x80) return false;
    i += n;
  }
  return true;
}

const GenerateOptions greedy{.sampling = {.temperature = 0}, .max_new = 20};

}  // namespace

TEST_CASE("chat: the tokens are those of the whole conversation, each computed once, and no character is ever split") {
  const Tokenizer tokenizer = reference_tokenizer();
  const std::vector<Message> talk = {{"system", "Be brief."}, {"user", "What is the root of two?"}, {"model", "√2 — 漢字, naïve 🙂"},
                                     {"user", " <end_of_turn> and then? "}, {"model", "That is all."}, {"user", "Bye"}, {"model", "é"}};
  const Ids script = encode_chat(tokenizer, talk, {.generation_prompt = false, .merge_roles = false, .safe = true}).ids;
  Scripted model(script, tokenizer.vocab_size());
  GenerateOptions o = greedy;
  o.max_new = 200;
  Chat chat(model, tokenizer, o);
  chat.set_system("Be brief.");
  size_t before = 0;
  for (size_t i = 1; i < talk.size(); i += 2) {
    std::string streamed;
    const int64_t computed = model.computed;
    const std::string answer = chat.say(talk[i].parts[0].text, [&](std::string_view piece) {
      CHECK(whole_characters(piece));
      streamed += piece;
      return true;
    });
    CHECK(answer == talk[i + 1].parts[0].text);
    CHECK(streamed == answer);
    CHECK(chat.last_stop() == Stop::stop_token);
    CHECK(chat.tokens() == Ids(script.begin(), script.begin() + static_cast<ptrdiff_t>(chat.tokens().size())));
    // All but the last token, which was drawn; the one before the message was drawn too, a turn ago.
    CHECK(model.computed == static_cast<int64_t>(chat.tokens().size()) - 1);
    CHECK(chat.last_computed() < static_cast<int64_t>(chat.tokens().size() - before) + 1);
    CHECK(model.computed - computed >= chat.last_computed());
    before = chat.tokens().size();
  }
  const Ids newline = tokenizer.encode("\n");
  CHECK(chat.tokens().size() + newline.size() == script.size());  // the newline after the last answer is fed with what follows
}

TEST_CASE("chat: an answer cut short or ended by another stop token is closed by the template's tag") {
  const Tokenizer tokenizer = reference_tokenizer();
  const int32_t eos = tokenizer.specials().eos, end = tokenizer.specials().end_of_turn;
  const auto prompt = [&](std::vector<Message> list) {
    return encode_chat(tokenizer, list, {.generation_prompt = true, .merge_roles = false, .safe = true}).ids;
  };
  const Ids first = prompt({{"user", "Hi"}});
  Ids script = first;
  const Ids answer = tokenizer.encode("yes");
  script.insert(script.end(), answer.begin(), answer.end());
  script.push_back(eos);
  const Ids both = prompt({{"user", "Hi"}, {"model", "yes"}, {"user", "And?"}});
  for (const bool by_eos : {true, false}) {
    Scripted model(script, tokenizer.vocab_size());
    GenerateOptions o = greedy;
    if (!by_eos) o.max_new = static_cast<int64_t>(answer.size());
    Chat chat(model, tokenizer, o);
    CHECK(chat.say("Hi") == "yes");
    CHECK(chat.tokens().back() == (by_eos ? eos : answer.back()));
    model.script = both;
    model.script.push_back(end);
    CHECK(chat.say("And?").empty());
    CHECK(chat.tokens() == model.script);
  }
}

TEST_CASE("chat: the cache kept over turns answers as a fresh pass over the same history") {
  const Tokenizer tokenizer = reference_tokenizer();
  const auto model = reference_model();
  for (const double temperature : {0.0, 1.0}) {
    const GenerateOptions o{.sampling = {.temperature = temperature}, .max_new = 20, .stop = tokenizer.stop_ids(), .seed = 3};
    Chat chat(*model, tokenizer, o);
    for (const char* message : {"First", "Second one", "Third"}) {
      chat.say(message);
      Ids history = chat.tokens();
      // The answer's own tokens: everything after the last "<start_of_turn>model\n" that the chat itself fed.
      const Ids opening = tokenizer.encode("model\n");
      auto at = history.end();
      for (auto i = history.begin(); i != history.end(); ++i)
        if (*i == tokenizer.specials().start_of_turn && std::equal(opening.begin(), opening.end(), i + 1)) at = i + 1 + static_cast<ptrdiff_t>(opening.size());
      const Ids prompt(history.begin(), at), answer(at, history.end());
      CHECK(generate(*model, {prompt}, o)[0].tokens == answer);
    }
  }
}

TEST_CASE("chat: what no longer fits is forgotten by whole exchanges and said; what is left is a conversation from its beginning") {
  const Tokenizer tokenizer = reference_tokenizer();
  const auto model = reference_model();
  GenerateOptions o = greedy;
  o.context = 120;
  o.stop = tokenizer.stop_ids();
  Chat chat(*model, tokenizer, o);
  chat.set_system("Be brief.");
  int64_t first = 0, times = 0;  // the first exchange remembered
  for (int64_t turn = 0; turn < 12; ++turn) {
    INFO("turn " << turn);
    const auto message = [](int64_t i) { return fmt::format("[message {}]", i); };
    const int64_t before = std::ssize(chat.tokens());
    bool answering = false;
    Chat::Forgotten forgotten;
    const auto tell = [&](const Chat::Forgotten& f) {
      CHECK(!answering);
      forgotten = f;
    };
    chat.say(message(turn), [&](std::string_view) { return answering = true; }, tell);
    first += forgotten.exchanges;
    times += forgotten.exchanges > 0;
    CHECK((forgotten.exchanges > 0) == (forgotten.tokens > 0));
    CHECK(forgotten.tokens <= before);
    CHECK(std::ssize(chat.tokens()) <= o.context + 1);
    CHECK(chat.last_stop() != Stop::context);  // there was room for the answer
    CHECK(std::ranges::count(chat.tokens(), tokenizer.specials().bos) == 1);
    const std::string text = tokenizer.decode(chat.tokens());
    CHECK(text.starts_with("<start_of_turn>user\nBe brief.\n\n" + message(first) + "<end_of_turn>"));
    for (int64_t i = 0; i <= turn; ++i) CHECK((text.find(message(i)) != text.npos) == (i >= first));
    // Every answer is what the model says to these tokens in a cache that never held others.
    if (forgotten.exchanges == 0) CHECK(chat.last_computed() < 40);
    else CHECK(chat.last_computed() > before / 4);
    const auto opening = tokenizer.encode("model\n");
    auto at = chat.tokens().end();
    for (auto i = chat.tokens().begin(); i != chat.tokens().end(); ++i)
      if (*i == tokenizer.specials().start_of_turn && std::equal(opening.begin(), opening.end(), i + 1)) at = i + 1 + std::ssize(opening);
    const Ids asked(chat.tokens().begin(), at), answer(at, chat.tokens().end());
    CHECK(generate(*model, {asked}, o)[0].tokens == answer);
  }
  CHECK(times > 2);
  CHECK(first < 12);
}

TEST_CASE("chat: a message longer than the context changes nothing; clear starts anew; a new system text is heard") {
  const Tokenizer tokenizer = reference_tokenizer();
  const auto model = reference_model();
  GenerateOptions o = greedy;
  o.context = 60, o.max_new = 8;
  Chat chat(*model, tokenizer, o);
  const std::string first = chat.say("Hello");
  const Ids kept = chat.tokens();
  CHECK_THROWS_WITH(chat.say(std::string(300, 'x')), Catch::Contains("context is 60") && Catch::Contains("--context"));
  CHECK(chat.tokens() == kept);
  chat.say("a");
  CHECK(chat.tokens().size() > kept.size());
  CHECK(std::equal(kept.begin(), kept.end() - 1, chat.tokens().begin()));
  chat.clear();
  CHECK(chat.tokens().empty());
  CHECK(chat.say("Hello") == first);
  CHECK(chat.tokens() == kept);
  chat.clear();
  int pieces = 0;  // the caller ends an answer, and is not called again
  chat.say("more", [&](std::string_view) { return ++pieces < 2; });
  CHECK(pieces == 2);
  CHECK(chat.last_stop() == Stop::caller);
  chat.set_system("Rhyme.");
  CHECK_NOTHROW(chat.say("c"));
  CHECK(tokenizer.decode(chat.tokens()).starts_with("<start_of_turn>user\nRhyme.\n\nmore<end_of_turn>"));
  CHECK(chat.last_computed() + o.max_new >= std::ssize(chat.tokens()));  // all of it once more
}

TEST_CASE("chat: a tokenizer without turn tags is refused") {
  const auto model = random_model();
  std::string bytes = reference_tokenizer().bytes();
  const std::string tag = "<end_of_turn>";
  const size_t at = bytes.find(tag);
  REQUIRE(at != std::string::npos);
  bytes[at + tag.size() - 3] = 'o';
  CHECK_THROWS_WITH(Chat(*model, Tokenizer::from_bytes(bytes, "plain"), greedy), Catch::Contains("no turn tags"));
}

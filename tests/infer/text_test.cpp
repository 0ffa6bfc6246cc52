// Text out of a model: three ways to the same answer, and what is handed over on the way.
#include "infer/text.h"

#include <catch2/catch.hpp>

#include "infer/chat.h"
#include "tensor/io/text.h"
#include "tests/infer/models.h"

using namespace facet;
using namespace facet::test;

TEST_CASE("text: a raw forward pass, complete() and a chat say the same") {
  const Tokenizer tokenizer = Tokenizer::load(golden_path("gemma3-tiny"));
  const auto model = reference_model();
  const GenerateOptions o{.sampling = {.temperature = 0}, .max_new = 16};
  const Ids prompt = encode_chat(tokenizer, {{"user", "What is the root of two?"}}, {.generation_prompt = true}).ids;
  Ids all = prompt;
  for (int64_t i = 0; i < o.max_new; ++i) {
    const auto last = row_of(full_logits(*model, all), std::ssize(all) - 1);
    all.push_back(static_cast<int32_t>(std::ranges::max_element(last) - last.begin()));
    if (std::ranges::count(tokenizer.stop_ids(), all.back())) break;
  }
  const Ids answer(all.begin() + std::ssize(prompt), all.end());
  const Completion c = complete(*model, tokenizer, prompt, o);
  CHECK(c.generation.tokens == answer);
  CHECK(c.text == tokenizer.decode(answer));
  CHECK(Chat(*model, tokenizer, o).say("What is the root of two?") == c.text);
  CHECK(complete(*model, tokenizer, "Two", o).generation.tokens == generate(*model, {encode_prompt(tokenizer, "Two")}, o)[0].tokens);
}

TEST_CASE("text: pieces are whole characters and add up; either listener may end the answer; stop tokens are no text") {
  const Tokenizer tokenizer = Tokenizer::load(golden_path("gemma3-tiny"));
  const auto model = reference_model();
  size_t broken = 0;  // answers with characters spelled in bytes
  for (uint64_t seed = 0; seed < 8; ++seed) {
    const GenerateOptions o{.sampling = {.temperature = 1.5}, .max_new = 40, .seed = seed};
    std::string streamed;
    const Completion c = complete(*model, tokenizer, "a", o, [&](std::string_view piece) {
      CHECK_FALSE(piece.empty());
      CHECK(invalid_utf8(piece) == std::string_view::npos);
      streamed += piece;
      return true;
    });
    CHECK(streamed == c.text);
    Ids ids = c.generation.tokens;
    if (c.generation.stop == Stop::stop_token) ids.pop_back();
    CHECK(c.text == tokenizer.decode(ids));
    broken += std::ranges::any_of(ids, [&](int32_t id) { return tokenizer.byte(id) >= 0x80; });
  }
  CHECK(broken > 0);
  const GenerateOptions o{.sampling = {.temperature = 0}, .max_new = 20};
  const Completion whole = complete(*model, tokenizer, "a", o);
  CHECK(complete(*model, tokenizer, "a", o, [](std::string_view) { return false; }).generation.stop == Stop::caller);
  const Completion two = complete(*model, tokenizer, encode_prompt(tokenizer, "a"), o, {}, [n = 0](int64_t, const Draw&) mutable { return ++n < 2; });
  CHECK(two.generation.tokens == Ids(whole.generation.tokens.begin(), whole.generation.tokens.begin() + 2));
  GenerateOptions stops = o;
  stops.stop = {whole.generation.tokens[0]};
  CHECK(complete(*model, tokenizer, "a", stops).text.empty());
}

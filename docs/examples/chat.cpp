// A conversation: it writes the turns, stops at their ends, and computes only what is new.
#include "infer/chat.h"
#include "models/gemma/load.h"
using namespace facet;
int main(int, char** argv) {  // MODEL MESSAGE
  const auto model = load_gemma(argv[1]);
  const Tokenizer tokenizer = Tokenizer::load(argv[1]);
  Chat chat(*model, tokenizer, {.sampling = {.temperature = 0}, .max_new = 32});
  chat.say(argv[2]);
  fmt::print("{}\n{}\n", tokenizer.decode(chat.tokens()), fmt::join(chat.tokens(), " "));
}

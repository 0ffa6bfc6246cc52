// A sampler over a cache: prompts in, tokens out; any number of rows, each with its own end.
#include "data/chat.h"
#include "infer/generator.h"
#include "models/gemma/load.h"
using namespace facet;
int main(int, char** argv) {  // MODEL MESSAGE
  const auto model = load_gemma(argv[1]);
  const Tokenizer tokenizer = Tokenizer::load(argv[1]);
  Ids ids = encode_chat(tokenizer, {{"user", argv[2]}}, {.generation_prompt = true, .safe = true}).ids;
  const GenerateOptions greedy{.sampling = {.temperature = 0}, .max_new = 32, .stop = tokenizer.stop_ids()};
  const Ids answer = generate(*model, {ids}, greedy)[0].tokens;
  ids.insert(ids.end(), answer.begin(), answer.end());
  fmt::print("{}\n{}\n", tokenizer.decode(ids), fmt::join(ids, " "));
}

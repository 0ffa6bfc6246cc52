// The model alone: all tokens go through it, the largest logit of the last one says which comes next, and again.
#include <algorithm>
#include "data/chat.h"
#include "models/gemma/load.h"
using namespace facet;
int main(int, char** argv) {  // MODEL MESSAGE
  const auto model = load_gemma(argv[1]);
  const Tokenizer tokenizer = Tokenizer::load(argv[1]);
  Ids ids = encode_chat(tokenizer, {{"user", argv[2]}}, {.generation_prompt = true, .safe = true}).ids;
  for (int64_t n = ssize(ids), end = n + 32; n < end && !std::ranges::count(tokenizer.stop_ids(), ids.back()); ++n) {
    const Tensor rows = model->hidden(plain_tokens(Tensor::from(ids, {1, n}))).detach();  // [1, T, D]
    ids.push_back(static_cast<int32_t>(argmax(model->logits(rows.slice(1, n - 1, n))).item()));
  }
  fmt::print("{}\n{}\n", tokenizer.decode(ids), fmt::join(ids, " "));
}

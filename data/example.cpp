#include "data/example.h"

namespace facet {

Example begin_sequence(const Tokenizer& tokenizer) {
  Example e;
  if (const int32_t bos = tokenizer.specials().bos; bos >= 0) e.add(bos, false);
  return e;
}

Ids encode_prompt(const Tokenizer& tokenizer, std::string_view text) {
  Example e = begin_sequence(tokenizer);
  e.add(tokenizer.encode(text), false);
  return std::move(e.ids);
}

}  // namespace facet

// Plain English-like prose from a grammar, of any length: text to learn a tokenizer or a small language model from where no book is
// at hand. Sentences are grammatical and varied, stories have people, places and talk; nobody will want to read them twice.
#pragma once
#include <cstdint>
#include <string>

namespace facet {

/// At least `bytes` bytes of prose, ending with a whole paragraph; a pure function of the arguments.
std::string make_prose(int64_t bytes = 300'000, uint64_t seed = 1);

}  // namespace facet

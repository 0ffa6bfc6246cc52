// Tokenizers of our own: a character alphabet, or a small Gemma-like BPE vocabulary learned from text.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace facet {

/// The model file of a tokenizer with one token per character: pad, eos, bos, unk, `<start_of_turn>`, `<end_of_turn>`, then every
/// distinct character of `alphabet` (UTF-8) in order of appearance. It is a BPE model without merges, because that loads in the
/// library, in transformers and in GGUF readers alike. A run of characters outside the alphabet is one `<unk>`.
std::string char_tokenizer(std::string_view alphabet);

/// The model file of a BPE tokenizer with `vocab_size` pieces learned from the texts by the library's trainer: byte fallback, digits
/// one by one, no dummy prefix, whitespace kept, `<start_of_turn>`, `<end_of_turn>` and newlines as user-defined pieces. The same texts
/// give the same bytes. Throws Error(Kind::data) when the texts are too small for the vocabulary.
std::string train_bpe_tokenizer(const std::vector<std::string>& texts, int vocab_size);

/// "char:ALPHABET", "char" (the characters of the texts) or "bpe:N" to a model file; `texts` are what it learns from.
std::string make_tokenizer(std::string_view spec, const std::vector<std::string>& texts);

}  // namespace facet

// Tokenizer models: our walk decides, then the library reads what it let through.
#include "data/sentencepiece_model.h"
#include "data/tokenizer.h"
#include "tensor/io/file.h"
#include "tests/fuzz/target.h"

namespace facet::fuzz {

const Target tokenizer = {"tokenizer",
                          [](const std::string& bytes) {
                            const Tokenizer t = Tokenizer::from_bytes(bytes, "tokenizer.model");
                            const Ids ids = t.encode("the cat \xc3\xa9 <bos> 12");
                            t.decode(ids);
                            demand(t.vocab_size() == static_cast<int64_t>(check_sentencepiece_model(bytes, "again").size()), "the library sees another vocabulary");
                          },
                          [] {
                            const std::vector<ModelPiece> pieces = {{"<pad>", 0, 3}, {"</s>", 0, 3}, {"<s>", 0, 3}, {"<unk>", 0, 2}, {"a", -1, 1}, {"b", -2, 1}, {"ab", -3, 1}};
                            return std::vector<std::string>{write_sentencepiece_model(pieces, false)};
                          }};

}  // namespace facet::fuzz

#include "data/make_tokenizer.h"

#include <sentencepiece_trainer.h>

#include <charconv>
#include <unordered_set>

#include "data/sentencepiece_model.h"
#include "data/utf8.h"
#include "tensor/error.h"
#include "tensor/io/text.h"

namespace facet {

namespace {

class Lines : public sentencepiece::SentenceIterator {
 public:
  explicit Lines(const std::vector<std::string>& texts) : texts_(texts) { Next(); }
  bool done() const override { return done_; }
  void Next() override {
    do {
      if (text_ == texts_.size()) {
        done_ = true;
        return;
      }
      const std::string& text = texts_[text_];
      const size_t end = std::min(text.find('\n', at_), text.size());
      line_ = text.substr(at_, end - at_);
      at_ = end + 1;
      if (at_ >= text.size()) {
        ++text_;
        at_ = 0;
      }
    } while (line_.empty());
  }
  const std::string& value() const override { return line_; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  const std::vector<std::string>& texts_;
  size_t text_ = 0, at_ = 0;
  std::string line_;
  bool done_ = false;
};

}  // namespace

std::string char_tokenizer(std::string_view alphabet) {
  if (const size_t at = invalid_utf8(alphabet); at != alphabet.npos) fail(Kind::usage, "alphabet: byte {}: invalid UTF-8", at);
  std::vector<ModelPiece> pieces = {{"<pad>", 0, 3}, {"<eos>", 0, 3}, {"<bos>", 0, 3}, {"<unk>", 0, 2},
                                    {"<start_of_turn>", 0, 4}, {"<end_of_turn>", 0, 4}};
  std::unordered_set<std::string_view> seen;
  for (const std::string_view c : characters(alphabet))
    if (seen.insert(c).second) pieces.push_back({c == " " ? "\u2581" : std::string(c), -static_cast<float>(seen.size()), 1});
  if (seen.empty()) fail(Kind::usage, "alphabet: holds no characters");
  return write_sentencepiece_model(pieces, false);
}

std::string train_bpe_tokenizer(const std::vector<std::string>& texts, int vocab_size) {
  constexpr int smallest = 4 + 256 + 4 + 16;
  if (vocab_size < smallest || vocab_size > 262144)
    fail(Kind::usage, "bpe:{}: the vocabulary must have {}-262,144 pieces", vocab_size, smallest);
  Lines lines(texts);
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(
      {{"model_type", "bpe"}, {"vocab_size", std::to_string(vocab_size)},
       {"pad_id", "0"}, {"eos_id", "1"}, {"bos_id", "2"}, {"unk_id", "3"},
       {"pad_piece", "<pad>"}, {"eos_piece", "<eos>"}, {"bos_piece", "<bos>"}, {"unk_piece", "<unk>"},
       {"user_defined_symbols", "<start_of_turn>,<end_of_turn>,\n,\n\n"},
       {"byte_fallback", "true"}, {"split_digits", "true"}, {"allow_whitespace_only_pieces", "true"},
       {"normalization_rule_name", "identity"}, {"add_dummy_prefix", "false"}, {"remove_extra_whitespaces", "false"},
       {"character_coverage", "0.9995"}, {"num_threads", "1"}, {"minloglevel", "2"}},
      &lines, &model);
  if (!status.ok())
    fail(Kind::data, "bpe:{}: {} (more text, or a smaller vocabulary?)", vocab_size, printable(status.error_message(), 300));
  return model;
}

std::string make_tokenizer(std::string_view spec, const std::vector<std::string>& texts) {
  if (spec.starts_with("char:")) return char_tokenizer(spec.substr(5));
  if (spec == "char") {
    std::string all;
    for (const std::string& t : texts) all += t;
    return char_tokenizer(all);
  }
  int n = 0;
  if (spec.starts_with("bpe:") && std::from_chars(spec.data() + 4, spec.data() + spec.size(), n).ptr == spec.data() + spec.size())
    return train_bpe_tokenizer(texts, n);
  fail(Kind::usage, "tokenizer \"{}\" is unknown; expected char, char:ALPHABET or bpe:N", printable(spec, 60));
}

}  // namespace facet

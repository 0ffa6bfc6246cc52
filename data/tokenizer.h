// Text to token ids and back: one class over SentencePiece models, which is what every Gemma ships and what data/make_tokenizer.h
// makes for models of our own (character alphabets included, so that one loader, one file name and one export serve all).
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/error.h"

namespace facet {

using Ids = std::vector<int32_t>;

/// Ids with a meaning to the model; -1: the tokenizer has none.
struct Specials {
  int32_t pad = -1, eos = -1, bos = -1, unk = -1;
  int32_t start_of_turn = -1, end_of_turn = -1;
  int32_t start_of_image = -1;
};

/// normal: learned; unknown: `<unk>`; control: never produced from text, decodes to nothing; user_defined: matched whole, before
/// any merging; byte: `<0xNN>`, one byte of a character without a piece.
enum class PieceType : uint8_t { normal = 1, unknown, control, user_defined, unused, byte };

/// A loaded tokenizer; copies share the model. All methods are const and may be called from several threads.
class Tokenizer {
 public:
  Tokenizer() = default;  ///< absent, false as a bool

  /// `path`: a `tokenizer.model`, or a folder that holds one. Throws Error(Kind::file) when it is missing or damaged.
  static Tokenizer load(const std::string& path);
  /// A serialised SentencePiece model; `name` is what messages call it. The bytes are checked (data/sentencepiece_model.h) before
  /// the library sees them.
  static Tokenizer from_bytes(std::string bytes, const std::string& name);

  explicit operator bool() const { return model_ != nullptr; }

  /// Pieces of the text as it is: no bos, no eos, no dummy space. A literal "<bos>" is ordinary text; user-defined pieces such as
  /// `<start_of_turn>` are matched, as in every SentencePiece implementation.
  Ids encode(std::string_view text) const;
  /// The same, but the tags that structure a conversation (turns, images) are spelled out in ordinary pieces: text from strangers
  /// cannot open or close a turn.
  Ids encode_without_tags(std::string_view text) const;
  /// Control pieces vanish, unknown ones become " ⁇ ", bytes that form no character U+FFFD each. Throws Error(Kind::usage) on an
  /// id outside the vocabulary.
  std::string decode(std::span<const int32_t> ids) const;

  int64_t vocab_size() const;
  const std::string& piece(int32_t id) const;
  PieceType type(int32_t id) const;
  float score(int32_t id) const;  ///< the merge order of BPE: higher first
  int byte(int32_t id) const;  ///< 0...255 for a byte piece, else -1
  int32_t id_of(std::string_view piece) const;  ///< -1: no such piece
  const Specials& specials() const;
  const Ids& stop_ids() const;  ///< generation ends at these: eos and, if there is one, end_of_turn

  uint64_t hash() const;  ///< FNV-1a of the model file: tells caches and checkpoints whether the tokenizer is the same
  const std::string& bytes() const;  ///< the model file
  /// Writes `tokenizer.model`, `tokenizer_config.json` and, if there are turn tags, `chat_template.jinja` into a folder that
  /// exists; transformers loads them.
  void save(const std::string& folder) const;

 private:
  struct Model;
  std::shared_ptr<const Model> model_;
};

/// Decodes a growing sequence: push() returns the text that is certain by now, never a part of a character. All that was
/// returned, finish() included, is what decode() makes of the whole sequence. (Models that put a dummy space before a text: the
/// space stays here, because generated text continues a prompt.)
class StreamDecoder {
 public:
  explicit StreamDecoder(Tokenizer tokenizer) : tokenizer_(std::move(tokenizer)) {}
  std::string push(int32_t id);
  std::string finish();  ///< what was held back; the decoder is then as new

 private:
  void take_bytes(std::string& out, bool all);
  Tokenizer tokenizer_;
  std::string bytes_;  // of a character that is not complete
};

}  // namespace facet

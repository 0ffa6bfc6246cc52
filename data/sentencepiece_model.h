// The file format of SentencePiece models (a protobuf message), as far as we need it: checking one that nobody vouches for before
// the library parses it, and writing one. The library trusts what it parses (offsets into its character map, for one), so what
// passes here must be safe there.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace facet {

/// What the file says about a piece beside its text.
struct PieceInfo {
  float score = 0;
  uint8_t type = 1;  ///< PieceType
};
/// All pieces by id. Throws Error(Kind::file) with `name`, byte offset and field when the model breaks a limit: varints of at most 10 bytes, lengths
/// inside their message, 1...1,000,000 pieces of at most 4 KiB, known types, exactly one unknown piece, finite scores, a character
/// map whose every offset stays inside it. Checks in linear time and without recursion.
std::vector<PieceInfo> check_sentencepiece_model(std::string_view bytes, const std::string& name);

struct ModelPiece {
  std::string text;
  float score = 0;
  int type = 1;  ///< PieceType
};
/// A BPE model with these pieces; ids 0...3 must be pad, eos, bos, unk. Text is taken as it is: no dummy prefix, no collapsing of
/// spaces, no normalisation.
std::string write_sentencepiece_model(const std::vector<ModelPiece>& pieces, bool byte_fallback);

}  // namespace facet

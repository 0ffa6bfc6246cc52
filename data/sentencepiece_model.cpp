#include "data/sentencepiece_model.h"

#include <cmath>
#include <cstring>

#include "tensor/io/cursor.h"

namespace facet {

namespace {

constexpr size_t max_pieces = 1'000'000, max_piece_bytes = 4096;

std::span<const uint8_t> as_bytes(std::string_view s) { return {reinterpret_cast<const uint8_t*>(s.data()), s.size()}; }

uint64_t varint(Cursor& c, const char* field) {
  uint64_t v = 0;
  for (int shift = 0; shift < 70; shift += 7) {
    const auto b = c.get<uint8_t>(field);
    if (shift == 63 && b > 1) break;
    v |= uint64_t{b & 0x7fu} << shift;
    if (!(b & 0x80)) return v;
  }
  fail(Kind::file, "{}: byte {}: {} is no valid varint", c.where(), c.offset(), field);
}

// One field of a message: its number and, depending on the wire type, its number value or its bytes.
struct Field {
  uint32_t number = 0;
  int wire = 0;
  uint64_t value = 0, offset = 0;
  std::span<const uint8_t> bytes;
};

Field next_field(Cursor& c, const char* message) {
  Field f;
  const uint64_t tag = varint(c, message);
  f.wire = static_cast<int>(tag & 7);
  f.offset = c.offset();
  if ((tag >> 3) == 0 || (tag >> 3) > 0x1fffffff)
    fail(Kind::file, "{}: byte {}: {} has field number {}", c.where(), c.offset(), message, tag >> 3);
  f.number = static_cast<uint32_t>(tag >> 3);
  switch (f.wire) {
    case 0: f.value = varint(c, message); break;
    case 1: f.bytes = c.take(8, message); break;
    case 5: f.bytes = c.take(4, message); break;
    case 2: {
      const uint64_t n = varint(c, message);
      f.offset = c.offset();
      f.bytes = c.take(n, message);
      break;
    }
    default: fail(Kind::file, "{}: byte {}: {} has wire type {}", c.where(), c.offset(), message, f.wire);
  }
  return f;
}

void want_wire(const Cursor& c, const Field& f, int wire, const char* field) {
  if (f.wire != wire) fail(Kind::file, "{}: byte {}: {} has wire type {}, expected {}", c.where(), f.offset, field, f.wire, wire);
}

// The library looks characters up in a double-array trie (darts-clone): from unit i it goes to i ^ offset(i) ^ byte and never
// compares that with the size. Whatever byte comes, the place must exist, and a value must lead to a NUL-terminated text.
void check_character_map(const Cursor& c, std::span<const uint8_t> blob, uint64_t at) {
  const auto broken = [&](const char* what) { fail(Kind::file, "{}: byte {}: character map: {}", c.where(), at, what); };
  if (blob.empty()) return;
  Cursor map(blob, c.where(), at);
  const auto trie_bytes = map.get<uint32_t>("size of the character map");
  const auto trie = map.take(trie_bytes, "character map");
  const uint64_t texts = map.remaining();
  const uint64_t units = trie_bytes / 4;
  if (trie_bytes % 1024 != 0 || units == 0) broken("size is not a multiple of 1024");
  if (texts == 0 || blob.back() != 0) broken("replacement texts do not end with a NUL");
  const auto unit = [&](uint64_t i) {
    uint32_t u;
    std::memcpy(&u, trie.data() + 4 * i, 4);
    return u;
  };
  for (uint64_t i = 0; i < units; ++i) {
    const uint32_t u = unit(i);
    if (u >> 31 && i != 0) continue;  // a value: checked from the unit that leads to it, and never walked through
    const uint64_t next = i ^ (uint64_t{u >> 10} << ((u & (1u << 9)) >> 6));
    if ((next | 0xff) >= units) broken("offset leads outside");
    if (u & (1u << 8) && (unit(next) & 0x7fffffffu) >= texts) broken("value leads outside");
  }
}

void check_normalizer(std::span<const uint8_t> bytes, const std::string& name, uint64_t at) {
  Cursor c(bytes, name, at);
  while (c.remaining()) {
    const Field f = next_field(c, "normaliser");
    if (f.number == 2) {
      want_wire(c, f, 2, "character map");
      check_character_map(c, f.bytes, f.offset);
    }
  }
}

PieceInfo check_piece(std::span<const uint8_t> bytes, const std::string& name, uint64_t at) {
  Cursor c(bytes, name, at);
  std::span<const uint8_t> text;
  PieceInfo info;
  while (c.remaining()) {
    const Field f = next_field(c, "piece");
    if (f.number == 1) {
      want_wire(c, f, 2, "text of a piece");
      text = f.bytes;
    } else if (f.number == 2) {
      want_wire(c, f, 5, "score of a piece");
      std::memcpy(&info.score, f.bytes.data(), 4);
      if (!std::isfinite(info.score)) fail(Kind::file, "{}: byte {}: score of a piece is not finite", name, f.offset);
    } else if (f.number == 3) {
      want_wire(c, f, 0, "type of a piece");
      if (f.value < 1 || f.value > 6) fail(Kind::file, "{}: byte {}: type {} of a piece is unknown (1-6)", name, f.offset, f.value);
      info.type = static_cast<uint8_t>(f.value);
    }
  }
  if (text.empty() || text.size() > max_piece_bytes)
    fail(Kind::file, "{}: byte {}: a piece has {} bytes, allowed are 1-{}", name, at, text.size(), max_piece_bytes);
  // The library builds a trie of these, which ends keys with a NUL. Normal pieces may hold one.
  if (info.type == 4 && std::memchr(text.data(), 0, text.size()))
    fail(Kind::file, "{}: byte {}: a user-defined piece holds a NUL byte", name, at);
  return info;
}

// ---- writing

void put_varint(std::string& to, uint64_t v) {
  for (; v >= 0x80; v >>= 7) to.push_back(static_cast<char>(v | 0x80));
  to.push_back(static_cast<char>(v));
}
void put(std::string& to, int field, uint64_t v) {
  put_varint(to, uint64_t(field) << 3);
  put_varint(to, v);
}
void put(std::string& to, int field, std::string_view v) {
  put_varint(to, uint64_t(field) << 3 | 2);
  put_varint(to, v.size());
  to.append(v);
}
void put(std::string& to, int field, float v) {
  put_varint(to, uint64_t(field) << 3 | 5);
  char b[4];
  std::memcpy(b, &v, 4);
  to.append(b, 4);
}

}  // namespace

std::vector<PieceInfo> check_sentencepiece_model(std::string_view bytes, const std::string& name) {
  Cursor c(as_bytes(bytes), name);
  std::vector<PieceInfo> pieces;
  size_t unknown = 0;
  while (c.remaining()) {
    const Field f = next_field(c, "model");
    if (f.number == 1) {
      want_wire(c, f, 2, "piece");
      if (pieces.size() == max_pieces) fail(Kind::file, "{}: byte {}: more than {} pieces", name, f.offset, max_pieces);
      pieces.push_back(check_piece(f.bytes, name, f.offset));
      unknown += pieces.back().type == 2;
    } else if (f.number == 3 || f.number == 5) {  // what text goes through before and after
      want_wire(c, f, 2, "normaliser");
      check_normalizer(f.bytes, name, f.offset);
    }
  }
  if (pieces.empty()) fail(Kind::file, "{}: holds no pieces; is it a SentencePiece tokenizer.model?", name);
  if (unknown != 1) fail(Kind::file, "{}: holds {} unknown pieces, expected 1", name, unknown);
  return pieces;
}

std::string write_sentencepiece_model(const std::vector<ModelPiece>& pieces, bool byte_fallback) {
  std::string model;
  for (const ModelPiece& p : pieces) {
    std::string piece;
    put(piece, 1, p.text);
    put(piece, 2, p.score);
    put(piece, 3, static_cast<uint64_t>(p.type));
    put(model, 1, piece);
  }
  std::string trainer;
  put(trainer, 3, uint64_t{2});  // model_type BPE
  put(trainer, 4, static_cast<uint64_t>(pieces.size()));
  put(trainer, 35, uint64_t{byte_fallback});
  const char* names[] = {"<pad>", "<eos>", "<bos>", "<unk>"};
  const int id_fields[] = {43, 42, 41, 40}, name_fields[] = {48, 47, 46, 45};
  for (int i = 0; i < 4; ++i) put(trainer, id_fields[i], static_cast<uint64_t>(i));
  for (int i = 0; i < 4; ++i) put(trainer, name_fields[i], std::string_view(names[i]));
  put(model, 2, trainer);
  std::string normalizer;
  put(normalizer, 1, std::string_view("identity"));
  put(normalizer, 3, uint64_t{0});  // add_dummy_prefix
  put(normalizer, 4, uint64_t{0});  // remove_extra_whitespaces
  put(normalizer, 5, uint64_t{1});  // escape_whitespaces: a space becomes U+2581
  put(model, 3, normalizer);
  return model;
}

}  // namespace facet

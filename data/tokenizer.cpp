#include "data/tokenizer.h"

#include <sentencepiece_processor.h>

#include <array>
#include <filesystem>
#include <fstream>

#include "data/chat.h"
#include "data/sentencepiece_model.h"
#include "tensor/io/durable.h"
#include "tensor/io/file.h"
#include "tensor/io/json.h"
#include "tensor/io/text.h"

namespace facet {

struct Tokenizer::Model {
  sentencepiece::SentencePieceProcessor processor;
  std::string file;
  std::vector<PieceInfo> pieces;
  std::vector<int16_t> bytes;  // per id: the byte of a byte piece, else -1
  std::vector<std::string> tags;
  Specials specials;
  Ids stop_ids;
  uint64_t hash = 0;
};

namespace {

// Pieces that structure a conversation. Other user-defined pieces (runs of newlines, html tags) are harmless text.
constexpr const char* structure_tags[] = {"<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>", "<image_soft_token>"};
constexpr std::string_view escaped_space = "\u2581";

int hex_digit(char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1; }

// "<0xE2>" to 0xE2
int byte_of(const std::string& piece) {
  if (piece.size() != 6 || piece.compare(0, 3, "<0x") != 0 || piece[5] != '>') return -1;
  const int hi = hex_digit(piece[3]), lo = hex_digit(piece[4]);
  return hi < 0 || lo < 0 ? -1 : 16 * hi + lo;
}

// A piece as it stands in a text: U+2581 is a space.
std::string unescaped(std::string_view piece) {
  std::string text;
  for (size_t at = 0; at < piece.size();) {
    const bool space = piece.substr(at, escaped_space.size()) == escaped_space;
    text.push_back(space ? ' ' : piece[at]);
    at += space ? escaped_space.size() : 1;
  }
  return text;
}

void append(Ids& to, const Ids& more) { to.insert(to.end(), more.begin(), more.end()); }

}  // namespace

Tokenizer Tokenizer::load(const std::string& path) {
  std::string file = path;
  if (std::filesystem::is_directory(path)) {
    file += "/tokenizer.model";
    if (!std::filesystem::exists(file))
      fail(Kind::file, "{}: holds no tokenizer.model; copy the one the model was trained with into it", path);
  }
  return from_bytes(read_file(file, uint64_t{64} << 20), file);
}

Tokenizer Tokenizer::from_bytes(std::string bytes, const std::string& name) {
  auto m = std::make_shared<Model>();
  m->pieces = check_sentencepiece_model(bytes, name);
  m->file = std::move(bytes);
  try {
    const auto status = m->processor.LoadFromSerializedProto(m->file);
    if (!status.ok()) fail(Kind::file, "{}: the SentencePiece library refuses it: {}", name, printable(status.error_message()));
  } catch (const Error&) {
    throw;
  } catch (const std::exception& e) {
    fail(Kind::file, "{}: the SentencePiece library refuses it: {}", name, printable(e.what()));
  }
  const auto& sp = m->processor;
  const int vocab = sp.GetPieceSize();
  if (vocab != static_cast<int>(m->pieces.size())) fail(Kind::file, "{}: {} pieces in the file, {} loaded", name, m->pieces.size(), vocab);
  m->bytes.resize(m->pieces.size(), -1);
  const auto find = [&](const char* piece) {
    const int id = sp.PieceToId(piece);
    return sp.IsUnknown(id) ? -1 : id;
  };
  m->specials = {sp.pad_id(), sp.eos_id(), sp.bos_id(), sp.unk_id(), find("<start_of_turn>"), find("<end_of_turn>"), find("<start_of_image>")};
  for (int id = 0; id < vocab; ++id)
    if (sp.IsByte(id)) m->bytes[static_cast<size_t>(id)] = static_cast<int16_t>(byte_of(sp.IdToPiece(id)));
  for (const char* tag : structure_tags)
    if (find(tag) >= 0) m->tags.push_back(tag);
  for (const int32_t id : {m->specials.eos, m->specials.end_of_turn})
    if (id >= 0) m->stop_ids.push_back(id);
  m->hash = 0xcbf29ce484222325u;
  for (const char c : m->file) m->hash = (m->hash ^ static_cast<uint8_t>(c)) * 0x100000001b3u;
  Tokenizer t;
  t.model_ = std::move(m);
  return t;
}

Ids Tokenizer::encode(std::string_view text) const {
  Ids ids;
  const auto status = model_->processor.Encode(text, &ids);
  if (!status.ok()) fail(Kind::data, "tokenizer: cannot encode \"{}\": {}", printable(text, 60), printable(status.error_message()));
  return ids;
}

Ids Tokenizer::encode_without_tags(std::string_view text) const {
  // A tag cut behind its first character matches nothing; both parts are encoded on their own.
  Ids ids;
  size_t from = 0;
  for (size_t at = text.find('<'); at != text.npos; at = text.find('<', at + 1))
    for (const std::string& tag : model_->tags)
      if (text.substr(at, tag.size()) == tag) {
        append(ids, encode(text.substr(from, at + 1 - from)));
        from = at + 1;
        break;
      }
  append(ids, encode(text.substr(from)));
  return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids) const {
  for (const int32_t id : ids) piece(id);  // the library does not check
  std::string text;
  const auto status = model_->processor.Decode(Ids(ids.begin(), ids.end()), &text);
  if (!status.ok()) fail(Kind::usage, "tokenizer: cannot decode: {}", printable(status.error_message()));
  return text;
}

int64_t Tokenizer::vocab_size() const { return static_cast<int64_t>(model_->pieces.size()); }
const std::string& Tokenizer::piece(int32_t id) const {
  if (id < 0 || id >= vocab_size()) fail(Kind::usage, "tokenizer: id {} is outside the vocabulary of {} pieces", id, vocab_size());
  return model_->processor.IdToPiece(id);
}
PieceType Tokenizer::type(int32_t id) const {
  return piece(id), static_cast<PieceType>(model_->pieces[static_cast<size_t>(id)].type);
}
float Tokenizer::score(int32_t id) const { return piece(id), model_->pieces[static_cast<size_t>(id)].score; }
int Tokenizer::byte(int32_t id) const { return piece(id), model_->bytes[static_cast<size_t>(id)]; }
int32_t Tokenizer::id_of(std::string_view piece) const {
  const int id = model_->processor.PieceToId(piece);
  return model_->processor.IsUnknown(id) && model_->processor.IdToPiece(id) != piece ? -1 : id;
}
const Specials& Tokenizer::specials() const { return model_->specials; }
const Ids& Tokenizer::stop_ids() const { return model_->stop_ids; }
uint64_t Tokenizer::hash() const { return model_->hash; }
const std::string& Tokenizer::bytes() const { return model_->file; }

void Tokenizer::save(const std::string& folder) const {
  write_file_atomically(folder + "/tokenizer.model", model_->file);
  Json config = {{"tokenizer_class", "GemmaTokenizer"}, {"add_bos_token", true}, {"add_eos_token", false},
                 {"clean_up_tokenization_spaces", false}, {"spaces_between_special_tokens", false}, {"mask_token", nullptr}};  // or transformers adds a piece of its own
  const std::pair<const char*, int32_t> roles[] = {{"pad_token", specials().pad}, {"eos_token", specials().eos},
                                                   {"bos_token", specials().bos}, {"unk_token", specials().unk}};
  for (const auto& [role, id] : roles)
    if (id >= 0) config[role] = piece(id);
  Json tags = Json::array();
  for (const std::string& tag : model_->tags) tags.push_back(tag);
  if (!tags.empty()) config["additional_special_tokens"] = tags;
  write_file_atomically(folder + "/tokenizer_config.json", config.dump(2) + "\n");
  if (specials().start_of_turn >= 0) write_file_atomically(folder + "/chat_template.jinja", chat_template_jinja());
}

// ---- streaming

// Moves finished characters from the held bytes to `out`; a byte that can start or continue no character becomes U+FFFD, as in
// the library. With `all`, an unfinished character does too.
void StreamDecoder::take_bytes(std::string& out, bool all) {
  constexpr const char* replacement = "\uFFFD";
  while (!bytes_.empty()) {
    const auto at = [&](size_t i) { return static_cast<uint8_t>(bytes_[i]); };
    const uint8_t first = at(0);
    const size_t length = first < 0x80 ? 1 : first >= 0xC2 && first <= 0xDF ? 2 : first >= 0xE0 && first <= 0xEF ? 3 : first >= 0xF0 && first <= 0xF4 ? 4 : 0;
    // The second byte's range also excludes overlong forms, surrogates and what lies beyond U+10FFFF.
    const auto fits = [&](size_t i) {
      const uint8_t low = i > 1 ? 0x80 : first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
      const uint8_t high = i > 1 ? 0xBF : first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
      return at(i) >= low && at(i) <= high;
    };
    size_t good = 1;
    while (good < length && good < bytes_.size() && fits(good)) ++good;
    if (length && good == length) {
      out.append(bytes_, 0, length);
      bytes_.erase(0, length);
    } else if (length && good == bytes_.size() && !all) {
      return;
    } else {
      out += replacement;
      bytes_.erase(0, 1);
    }
  }
}

std::string StreamDecoder::push(int32_t id) {
  std::string out;
  switch (tokenizer_.type(id)) {
    case PieceType::byte:
      bytes_.push_back(static_cast<char>(tokenizer_.byte(id)));
      take_bytes(out, false);
      return out;
    case PieceType::control:
      take_bytes(out, true);
      return out;
    case PieceType::unknown:
      take_bytes(out, true);
      return out + " \u2047 ";
    default: break;
  }
  take_bytes(out, true);
  return out + unescaped(tokenizer_.piece(id));
}

std::string StreamDecoder::finish() {
  std::string out;
  take_bytes(out, true);
  return out;
}

}  // namespace facet

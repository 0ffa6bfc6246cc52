#include "tensor/io/npy.h"

#include <zlib.h>

#include <algorithm>
#include <charconv>

#include "tensor/io/cursor.h"
#include "tensor/io/durable.h"
#include "tensor/io/text.h"

namespace facet {

namespace {

constexpr std::string_view magic = "\x93NUMPY";
constexpr uint64_t max_header = uint64_t{1} << 20, first_bytes = 12;  // magic, version, header length: enough for 10 or 12

struct TypeRow {
  std::string_view descr, dtype;  // without the byte order
};
constexpr TypeRow types[] = {{"f4", "F32"}, {"f8", "F64"}, {"f2", "F16"}, {"V2", "BF16"}, {"i4", "I32"}, {"i8", "I64"}, {"i2", "I16"},
                             {"i1", "I8"},  {"u1", "U8"},  {"u2", "U16"}, {"u4", "U32"},  {"u8", "U64"}, {"b1", "BOOL"}, {"c8", "C64"}};

// The dict of the header, which is Python; of Python just this much is understood.
class HeaderParser {
 public:
  HeaderParser(std::string_view text, const std::string& where) : text_(text), where_(where) {}

  TensorInfo run() {
    expect('{');
    while (!accept('}')) {
      const std::string_view key = quoted();
      expect(':');
      if (key == "descr") once(0), info_.dtype = dtype(quoted());
      else if (key == "fortran_order") once(1), fortran_ = boolean();
      else if (key == "shape") once(2), shape();
      else error(fmt::format("unknown key '{}'", printable(key, 40)));
      if (!accept(',')) {
        expect('}');
        break;
      }
    }
    skip_space();
    if (at_ != text_.size()) error("expected the end of the header");
    if (seen_ != 7) error("descr, fortran_order and shape are needed");
    if (!checked_bytes(info_.shape, info_.dtype, info_.bytes)) error(fmt::format("shape {} of {} overflows", to_string(info_.shape), info_.dtype));
    if (fortran_ && info_.shape.rank > 1) {
      int64_t step = 1;
      for (int64_t d : info_.shape) info_.stride.push_back(step), step *= std::max<int64_t>(d, 1);
    }
    return std::move(info_);
  }

 private:
  [[noreturn]] void error(const std::string& what) const { fail(Kind::file, "{}: header byte {}: {}", where_, at_, what); }
  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n')) ++at_;
  }
  bool accept(char c) {
    skip_space();
    if (at_ == text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  void expect(char c) {
    if (!accept(c)) error(fmt::format("expected '{}', found \"{}\"", c, printable(text_.substr(at_, 20))));
  }
  void once(unsigned bit) {
    if (seen_ & 1u << bit) error("a key stands twice");
    seen_ |= 1u << bit;
  }
  std::string_view quoted() {
    const char mark = accept('"') ? '"' : (expect('\''), '\'');
    const size_t end = text_.find(mark, at_);
    if (end == text_.npos) error("a string without end");
    const std::string_view r = text_.substr(at_, end - at_);
    at_ = end + 1;
    return r;
  }
  bool boolean() {
    skip_space();
    for (const std::string_view word : {"True", "False"})
      if (text_.substr(at_).starts_with(word)) {
        at_ += word.size();
        return word == "True";
      }
    error("fortran_order must be True or False");
  }
  std::string dtype(std::string_view descr) const {
    for (const TypeRow& t : types) {
      if (descr.size() != 3 || descr.substr(1) != t.descr) continue;
      if (descr[0] == '<' || descr[0] == '|' || (descr[0] == '=')) return std::string(t.dtype);
      if (descr[0] == '>') error(fmt::format("type '{}' is big-endian; save it as '<{}'", descr, t.descr));
    }
    if (descr.find('O') != descr.npos) error("the array holds Python objects, which only running code could read; refused");
    error(fmt::format("type '{}' is not read; save as float32, or another plain type", printable(descr, 40)));
  }
  void shape() {
    expect('(');
    while (!accept(')')) {
      skip_space();
      int64_t d = 0;
      const auto [end, failed] = std::from_chars(text_.data() + at_, text_.data() + text_.size(), d);
      if (failed != std::errc() || d < 0) error("shape must list whole numbers");
      at_ = static_cast<size_t>(end - text_.data());
      if (info_.shape.rank == max_rank) error(fmt::format("more than {} dimensions", max_rank));
      info_.shape.push(d);
      if (!accept(',')) {
        expect(')');
        break;
      }
    }
  }

  std::string_view text_;
  const std::string& where_;
  size_t at_ = 0;
  unsigned seen_ = 0;
  bool fortran_ = false;
  TensorInfo info_;
};

// Reads a header from `size` bytes that `read` delivers from the front; begin is set to where the data begin.
template <class Read>
TensorInfo read_header(const std::string& where, uint64_t size, const Read& read) {
  if (size < first_bytes) fail(Kind::file, "{}: {} bytes, a NumPy array has at least {} (truncated?)", where, size, first_bytes);
  std::vector<uint8_t> first(first_bytes);
  read(first);
  if (!is_npy(first)) fail(Kind::file, "{}: does not begin as a NumPy array does", where);
  Cursor c(first, where);
  c.skip(magic.size(), "magic");
  const int major = c.get<uint8_t>("version"), minor = c.get<uint8_t>("version");
  if (major < 1 || major > 3 || minor != 0) fail(Kind::file, "{}: format {}.{} is not supported; supported: 1.0 to 3.0", where, major, minor);
  const uint64_t length = major == 1 ? c.get<uint16_t>("header length") : c.get<uint32_t>("header length");
  const uint64_t begin = c.offset() + length;
  if (length > max_header || begin > size)
    fail(Kind::file, "{}: header length {} exceeds {} (truncated?)", where, grouped(length), length > max_header ? grouped(max_header) : "the array");
  std::vector<uint8_t> all(static_cast<size_t>(begin));
  read(all);
  TensorInfo info = HeaderParser({reinterpret_cast<const char*>(all.data()) + c.offset(), static_cast<size_t>(length)}, where).run();
  if (info.bytes != size - begin)
    fail(Kind::file, "{}: shape {} {} needs {} bytes, {} follow the header (truncated?)", where, to_string(info.shape), info.dtype,
         grouped(info.bytes), grouped(size - begin));
  info.begin = begin;
  return info;
}

std::string header_of(const TensorSpec& s) {
  const std::string_view dtype = safetensors_dtype(s.dtype);
  const auto type = std::find_if(std::begin(types), std::end(types), [&](const TypeRow& t) { return t.dtype == dtype; });
  std::string h = fmt::format("{{'descr': '<{}', 'fortran_order': False, 'shape': ({}{}), }}", type->descr,
                              fmt::join(s.shape.begin(), s.shape.end(), ", "), s.shape.rank == 1 ? "," : "");
  // Data begin at a multiple of 64, and the header ends in a line break.
  const size_t fixed = magic.size() + 4;
  h.resize((fixed + h.size() + 1 + 63) / 64 * 64 - fixed - 1, ' ');
  h += '\n';
  std::string r(magic);
  r += {1, 0, static_cast<char>(h.size() & 255), static_cast<char>(h.size() >> 8)};
  return r + h;
}

struct Bytes {
  const uint8_t* data;
  size_t size;
};
Bytes values_of(const Tensor& dense) { return {static_cast<const uint8_t*>(dense.view().data), static_cast<size_t>(dense.numel() * size_of(dense.dtype()))}; }

template <class T>
void put(std::string& s, T v) {
  for (size_t i = 0; i < sizeof(T); ++i) s += static_cast<char>(v >> 8 * i);
}

// A member as the directory and the header before its data tell it; sizes beyond 32 bits move to an extra field.
struct Entry {
  std::string name;
  uint32_t crc;
  uint64_t bytes, at;

  static uint32_t low(uint64_t v) { return v >= 0xffffffff ? 0xffffffff : static_cast<uint32_t>(v); }
  void put_common(std::string& s) const {
    put<uint16_t>(s, 45);      // needs: zip64
    put<uint16_t>(s, 1 << 11);  // names are UTF-8
    put<uint16_t>(s, 0);       // not packed
    put<uint32_t>(s, 0x00210000);  // 1980-01-01: files are equal when their content is
    put<uint32_t>(s, crc);
    put<uint32_t>(s, low(bytes));
    put<uint32_t>(s, low(bytes));
    put<uint16_t>(s, static_cast<uint16_t>(name.size()));
  }
  std::string extra(bool with_place) const {
    std::string sizes;
    if (low(bytes) == 0xffffffff) put(sizes, bytes), put(sizes, bytes);
    if (with_place && low(at) == 0xffffffff) put(sizes, at);
    std::string r;
    if (sizes.empty()) return r;
    put<uint16_t>(r, 1);
    put<uint16_t>(r, static_cast<uint16_t>(sizes.size()));
    return r + sizes;
  }
  std::string local() const {
    std::string s("PK\3\4");
    put_common(s);
    const std::string e = extra(false);
    put<uint16_t>(s, static_cast<uint16_t>(e.size()));
    return s + name + e;
  }
  std::string listed() const {
    std::string s("PK\1\2");
    put<uint16_t>(s, 45);
    put_common(s);
    const std::string e = extra(true);
    put<uint16_t>(s, static_cast<uint16_t>(e.size()));
    s += std::string(10, '\0');  // comment length, disk, attributes
    put<uint32_t>(s, low(at));
    return s + name + e;
  }
};

std::string end_records(uint64_t at, uint64_t bytes, uint64_t entries) {
  std::string s;
  if (Entry::low(at + bytes) == 0xffffffff || entries >= 0xffff) {
    s += "PK\6\6";
    put<uint64_t>(s, 44);
    put<uint32_t>(s, 45 << 16 | 45);
    put<uint64_t>(s, 0);  // disks
    for (const uint64_t v : {entries, entries, bytes, at}) put(s, v);
    s += "PK\6\7";
    put<uint32_t>(s, 0);
    put<uint64_t>(s, at + bytes);
    put<uint32_t>(s, 1);
  }
  s += "PK\5\6";
  put<uint32_t>(s, 0);  // disks
  const auto count = static_cast<uint16_t>(std::min<uint64_t>(entries, 0xffff));
  put(s, count), put(s, count);
  put(s, Entry::low(bytes)), put(s, Entry::low(at));
  put<uint16_t>(s, 0);  // no comment
  return s;
}

}  // namespace

bool is_npy(std::span<const uint8_t> begin) {
  return begin.size() >= magic.size() && std::equal(magic.begin(), magic.end(), begin.begin(), [](char a, uint8_t b) { return static_cast<uint8_t>(a) == b; });
}

TensorList list_npy(const InputFile& file) {
  TensorList list;
  list.tensors.emplace("array", read_header(file.path(), file.size(), [&](std::span<uint8_t> to) { file.read(0, to); }));
  return list;
}

TensorList list_npz(const InputFile& file, std::vector<ZipMember> members) {
  constexpr std::string_view ending = ".npy";
  TensorList list;
  uint64_t unpacked = 0;
  for (size_t i = 0; i < members.size(); ++i) {
    const ZipMember& m = members[i];
    if (!m.name.ends_with(ending) || m.name.size() == ending.size())
      fail(Kind::file, "{}: member \"{}\" is no array; an .npz file holds only .npy members", file.path(), printable(m.name));
    std::string name = m.name.substr(0, m.name.size() - ending.size());
    if (name.size() > max_name_bytes) fail(Kind::file, "{}: a tensor name has {} bytes, at most {} are allowed", file.path(), name.size(), max_name_bytes);
    if (m.deflated && (!checked_add(unpacked, m.bytes, unpacked) || unpacked > (uint64_t{16} << 20) + 2 * file.size()))
      fail(Kind::file, "{}: member \"{}\": the file of {} bytes would unpack to more than twice as much; save it without compression",
           file.path(), printable(m.name), grouped(file.size()));
    TensorInfo info = read_header(fmt::format("{}: member \"{}\"", file.path(), printable(m.name)), m.bytes,
                                  [&](std::span<uint8_t> to) { read_member(file, m, to); });
    if (!m.deflated) info.begin += m.begin;
    info.member = static_cast<int32_t>(i);
    list.tensors.emplace(std::move(name), std::move(info));  // read_zip() has refused equal names
  }
  list.members = std::move(members);
  return list;
}

void save_npy(const std::string& path, const Tensor& tensor) {
  const Tensor t = tensor.to(Device::cpu).dense();
  DurableFile file(path);
  file.write(header_of({"array", t.dtype(), t.shape()}));
  if (const Bytes b = values_of(t); b.size > 0) file.write(b.data, b.size);
  file.commit();
}

void save_npz(const std::string& path, const std::vector<TensorSpec>& specs, const TensorSource& source) {
  if (specs.size() > max_tensors) fail(Kind::usage, "{}: {} tensors, at most {} fit one file", path, specs.size(), max_tensors);
  check_names(path, specs);
  DurableFile file(path);
  std::vector<Entry> entries;
  for (const TensorSpec& s : specs) {
    const Tensor t = take(path, s, source);
    const std::string header = header_of(s);
    const Bytes b = values_of(t);
    uLong crc = crc32_z(0, reinterpret_cast<const Bytef*>(header.data()), header.size());
    if (b.size > 0) crc = crc32_z(crc, b.data, b.size);
    entries.push_back({s.name + ".npy", static_cast<uint32_t>(crc), header.size() + b.size, file.size()});
    file.write(entries.back().local());
    file.write(header);
    if (b.size > 0) file.write(b.data, b.size);
  }
  const uint64_t at = file.size();
  for (const Entry& e : entries) file.write(e.listed());
  file.write(end_records(at, file.size() - at, entries.size()));
  file.commit();
}

}  // namespace facet

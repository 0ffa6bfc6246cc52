#include "tensor/io/zip.h"

#include <zlib.h>

#include <algorithm>
#include <memory>
#include <set>
#include <utility>

#include "tensor/io/cursor.h"
#include "tensor/io/text.h"

namespace facet {

namespace {

constexpr uint32_t local_sign = 0x04034b50, entry_sign = 0x02014b50, end_sign = 0x06054b50, end64_sign = 0x06064b50,
                   locator64_sign = 0x07064b50, descriptor_sign = 0x08074b50;
constexpr uint64_t end_size = 22, end64_size = 56, locator64_size = 20, local_size = 30, max_members = 65'536, max_name = 512 + 64;
// General purpose bits: 1 and 2 tell how hard deflate tried, 3 that sizes come after the data, 11 that names are UTF-8.
constexpr uint16_t known_flags = 1u << 1 | 1u << 2 | 1u << 3 | 1u << 11, sizes_after = 1u << 3;
constexpr uint32_t in_extra = 0xffffffff, folder_attribute = 0x10;
constexpr size_t piece = size_t{1} << 20;

std::vector<uint8_t> read_bytes(const InputFile& file, uint64_t at, uint64_t n) {
  if (at > file.size() || n > file.size() - at)
    fail(Kind::file, "{}: byte {}: a part of {} bytes leaves the file of {} (truncated?)", file.path(), grouped(at), grouped(n),
         grouped(file.size()));
  std::vector<uint8_t> r(static_cast<size_t>(n));
  file.read(at, r);
  return r;
}

struct Directory {
  uint64_t begin = 0, bytes = 0, entries = 0;
};

// The end record is the last thing in the file; we know no writer of tensors that puts a comment behind it.
Directory find_directory(const InputFile& file) {
  const std::string& where = file.path();
  if (file.size() < end_size) fail(Kind::file, "{}: {} bytes, a zip archive has at least {}", where, file.size(), end_size);
  const uint64_t end_at = file.size() - end_size;
  const std::vector<uint8_t> end = read_bytes(file, end_at, end_size);
  Cursor c(end, where, end_at);
  if (c.get<uint32_t>("end record") != end_sign)
    fail(Kind::file, "{}: byte {}: expected the end record of a zip archive (truncated download, or something behind it?)", where, grouped(end_at));
  const auto disk = c.get<uint16_t>("disk"), first_disk = c.get<uint16_t>("disk"), here = c.get<uint16_t>("entries"), all = c.get<uint16_t>("entries");
  const auto bytes = c.get<uint32_t>("directory size"), begin = c.get<uint32_t>("directory offset");
  if (c.get<uint16_t>("comment length") != 0) fail(Kind::file, "{}: byte {}: a comment, which no file of tensors has", where, grouped(end_at + 20));
  const auto one_disk = [&](uint64_t a, uint64_t b, uint64_t n, uint64_t of) {
    if (a != 0 || b != 0 || n != of) fail(Kind::file, "{}: an archive on several disks is not read", where);
  };

  Directory d{begin, bytes, all};
  uint64_t directory_end = end_at;
  if (end_at >= locator64_size + end64_size) {
    const std::vector<uint8_t> locator = read_bytes(file, end_at - locator64_size, locator64_size);
    Cursor l(locator, where, end_at - locator64_size);
    if (l.get<uint32_t>("locator") == locator64_sign) {
      const auto record_disk = l.get<uint32_t>("disk");
      const auto record_at = l.get<uint64_t>("zip64 record offset");
      const auto disks = l.get<uint32_t>("disks");
      if (record_disk != 0 || disks > 1) one_disk(1, 1, 0, 0);
      directory_end = end_at - locator64_size - end64_size;
      if (record_at != directory_end)
        fail(Kind::file, "{}: byte {}: the zip64 record is said to be at byte {}, expected {}", where, grouped(end_at - locator64_size),
             grouped(record_at), grouped(directory_end));
      const std::vector<uint8_t> record = read_bytes(file, record_at, end64_size);
      Cursor r(record, where, record_at);
      if (r.get<uint32_t>("zip64 record") != end64_sign || r.get<uint64_t>("zip64 record size") != end64_size - 12)
        fail(Kind::file, "{}: byte {}: not the zip64 record the archive announces", where, grouped(record_at));
      r.skip(4, "versions");
      const auto a = r.get<uint32_t>("disk"), b = r.get<uint32_t>("disk");
      const auto n = r.get<uint64_t>("entries"), of = r.get<uint64_t>("entries");
      one_disk(a, b, n, of);
      d = {0, r.get<uint64_t>("directory size"), of};
      d.begin = r.get<uint64_t>("directory offset");
      if ((begin != in_extra && begin != d.begin) || (bytes != in_extra && bytes != d.bytes) || (all != 0xffff && all != d.entries))
        fail(Kind::file, "{}: byte {}: the two end records differ", where, grouped(record_at));
    } else {
      one_disk(disk, first_disk, here, all);
    }
  } else {
    one_disk(disk, first_disk, here, all);
  }
  uint64_t sum = 0;
  if (!checked_add(d.begin, d.bytes, sum) || sum != directory_end)
    fail(Kind::file, "{}: the directory, {} bytes from byte {}, does not end where the end records begin, at byte {}", where, grouped(d.bytes),
         grouped(d.begin), grouped(directory_end));
  if (d.entries > max_members) fail(Kind::file, "{}: {} members, at most {} are allowed", where, grouped(d.entries), grouped(max_members));
  return d;
}

// What either header says of a member.
struct Header {
  std::string name;
  uint16_t flags = 0, method = 0;
  uint32_t crc = 0;
  uint64_t packed = 0, bytes = 0, local_at = 0;
  bool folder = false;
};

// Sizes that do not fit 32 bits stand in the extra field 1, in this order, those alone that say so.
void widen(Header& h, std::span<const uint8_t> extra, const std::string& where, uint64_t at) {
  std::vector<uint64_t*> wanted;
  for (uint64_t* v : {&h.bytes, &h.packed, &h.local_at})
    if (*v == in_extra) wanted.push_back(v);
  Cursor c(extra, where, at);
  bool seen = false;
  while (c.remaining() >= 4) {
    const auto id = c.get<uint16_t>("extra field");
    const auto size = c.get<uint16_t>("extra field size");
    const uint64_t field_at = c.offset();
    const std::span<const uint8_t> body = c.take(size, "extra field");
    if (id != 1) continue;
    if (std::exchange(seen, true)) fail(Kind::file, "{}: byte {}: two zip64 fields", where, grouped(field_at));
    Cursor b(body, where, field_at);
    for (uint64_t* v : wanted)
      if (b.remaining() >= 8) *v = b.get<uint64_t>("zip64 size");
  }
}

// What a directory entry and the header before the data say alike.
void read_sizes(Cursor& c, Header& h) {
  h.flags = c.get<uint16_t>("flags");
  h.method = c.get<uint16_t>("method");
  c.skip(4, "time");
  h.crc = c.get<uint32_t>("checksum");
  h.packed = c.get<uint32_t>("packed size");
  h.bytes = c.get<uint32_t>("size");
}

Header read_entry(Cursor& c) {
  Header h;
  const uint64_t at = c.offset();
  if (c.get<uint32_t>("directory entry") != entry_sign) fail(Kind::file, "{}: byte {}: not a directory entry", c.where(), grouped(at));
  c.skip(4, "versions");
  read_sizes(c, h);
  const auto name = c.get<uint16_t>("name length"), extra = c.get<uint16_t>("extra length"), comment = c.get<uint16_t>("comment length");
  const auto disk = c.get<uint16_t>("disk");
  c.skip(2, "internal attributes");
  const auto attributes = c.get<uint32_t>("attributes");
  h.local_at = c.get<uint32_t>("local header offset");
  const auto text = c.take(name, "name");
  h.name.assign(text.begin(), text.end());
  h.folder = (attributes & folder_attribute) || h.name.ends_with('/');
  const uint64_t extra_at = c.offset();
  widen(h, c.take(extra, "extra field"), c.where(), extra_at);
  c.skip(comment, "comment");
  if (disk != 0) fail(Kind::file, "{}: member \"{}\": an archive on several disks is not read", c.where(), printable(h.name));
  return h;
}

void check_entry(const Header& h, const std::string& where) {
  const std::string name = printable(h.name);
  if (h.name.empty() || h.name.size() > max_name || invalid_utf8(h.name) != h.name.npos || h.name.find('\0') != h.name.npos)
    fail(Kind::file, "{}: a member's name is empty, longer than {} bytes, or no text: \"{}\"", where, max_name, name);
  if (h.flags & 1) fail(Kind::file, "{}: member \"{}\" is encrypted", where, name);
  if (h.flags & ~known_flags) fail(Kind::file, "{}: member \"{}\": flags {:#x} are not supported", where, name, h.flags);
  if (h.method != 0 && h.method != 8)
    fail(Kind::file, "{}: member \"{}\": compression {} is not supported; supported: none, deflate", where, name, h.method);
  if (h.method == 0 && h.packed != h.bytes)
    fail(Kind::file, "{}: member \"{}\" is not packed, yet has {} bytes of {}", where, name, grouped(h.packed), grouped(h.bytes));
  // Others, PyTorch among them, read nothing of what is marked so.
  if (h.folder && h.packed > 0) fail(Kind::file, "{}: member \"{}\" is marked as a folder, yet has {} bytes", where, name, grouped(h.packed));
}

// The header before the data; returns where the data begin.
uint64_t check_local(const InputFile& file, const Header& entry) {
  const std::string& where = file.path();
  const std::vector<uint8_t> fixed = read_bytes(file, entry.local_at, local_size);
  Cursor c(fixed, where, entry.local_at);
  Header h;
  if (c.get<uint32_t>("local header") != local_sign)
    fail(Kind::file, "{}: byte {}: no member here, the directory names \"{}\"", where, grouped(entry.local_at), printable(entry.name));
  c.skip(2, "version");
  read_sizes(c, h);
  const auto name = c.get<uint16_t>("name length"), extra = c.get<uint16_t>("extra length");
  const std::vector<uint8_t> rest = read_bytes(file, entry.local_at + local_size, uint64_t{name} + extra);
  h.name.assign(rest.begin(), rest.begin() + name);
  widen(h, std::span(rest).subspan(name), where, entry.local_at + local_size + name);
  const bool unsaid = (entry.flags & sizes_after) && h.crc == 0 && h.packed == 0 && h.bytes == 0;
  const bool same_sizes = h.crc == entry.crc && h.packed == entry.packed && h.bytes == entry.bytes;
  if (h.name != entry.name || h.flags != entry.flags || h.method != entry.method || !(unsaid || same_sizes))
    fail(Kind::file, "{}: member \"{}\": the header at byte {} and the directory differ", where, printable(entry.name), grouped(entry.local_at));
  return entry.local_at + local_size + name + extra;
}

// Between the data of a member and what comes next: nothing, or sizes and checksum once more, in 4 or 8 bytes each.
void check_gap(const InputFile& file, const Header& h, uint64_t end, uint64_t next) {
  const uint64_t gap = next - end;
  bool good = gap == 0 && !(h.flags & sizes_after);
  if ((h.flags & sizes_after) && (gap == 12 || gap == 16 || gap == 20 || gap == 24)) {
    const std::vector<uint8_t> bytes = read_bytes(file, end, gap);
    Cursor c(bytes, file.path(), end);
    good = gap % 8 == 4 || c.get<uint32_t>("descriptor") == descriptor_sign;
    good = good && c.get<uint32_t>("checksum") == h.crc;
    const auto size = [&] { return gap < 20 ? c.get<uint32_t>("size") : c.get<uint64_t>("size"); };
    good = good && size() == h.packed && size() == h.bytes;
  }
  if (!good)
    fail(Kind::file, "{}: byte {}: {} bytes behind member \"{}\" belong to nothing", file.path(), grouped(end), grouped(gap), printable(h.name));
}

// Delivers the unpacked bytes of a member, in order, to `to`; more than `to` holds is an error.
void unpack(const InputFile& file, const ZipMember& m, std::span<uint8_t> to) {
  const auto broken = [&](const char* what) { fail(Kind::file, "{}: member \"{}\": {}", file.path(), printable(m.name), what); };
  z_stream stream{};
  if (inflateInit2(&stream, -MAX_WBITS) != Z_OK) fail(Kind::memory, "{}: no memory to unpack", file.path());
  const std::unique_ptr<z_stream, int (*)(z_stream*)> owner(&stream, inflateEnd);
  std::vector<uint8_t> in(static_cast<size_t>(std::min<uint64_t>(m.packed, piece)));
  const bool whole = to.size() == m.bytes;  // then nothing may be left at the end, on either side
  uint64_t taken = 0;
  size_t given = 0;
  bool ended = false;
  while (!ended && (given < to.size() || whole)) {
    if (stream.avail_in == 0 && taken < m.packed) {
      const size_t n = static_cast<size_t>(std::min<uint64_t>(in.size(), m.packed - taken));
      file.read(m.begin + taken, {in.data(), n});
      taken += n;
      stream.next_in = in.data();
      stream.avail_in = static_cast<uInt>(n);
    }
    uint8_t beyond;
    const bool full = given == to.size();
    const size_t room = full ? 1 : std::min(to.size() - given, size_t{1} << 30);
    stream.next_out = full ? &beyond : to.data() + given;
    stream.avail_out = static_cast<uInt>(room);
    const int result = inflate(&stream, Z_NO_FLUSH);
    if (full && stream.avail_out == 0) broken("the packed data hold more than announced");
    if (!full) given += room - stream.avail_out;
    ended = result == Z_STREAM_END;
    if (result == Z_BUF_ERROR) broken("the packed data end too early");
    if (!ended && result != Z_OK) broken("the packed data are damaged");
  }
  if (given < to.size()) broken("the packed data hold less than announced");
  if (whole && (stream.avail_in != 0 || taken != m.packed)) broken("something stands behind the packed data");
}

uint32_t add_crc(uint32_t crc, std::span<const uint8_t> bytes) {
  return static_cast<uint32_t>(crc32_z(crc, bytes.data(), bytes.size()));
}

void compare_crc(const InputFile& file, const ZipMember& m, uint32_t found) {
  if (found != m.crc)
    fail(Kind::file, "{}: member \"{}\": CRC-32 {:08x} announced, {:08x} found: the file is damaged", file.path(), printable(m.name), m.crc, found);
}

}  // namespace

std::vector<ZipMember> read_zip(const InputFile& file) {
  const Directory d = find_directory(file);
  const std::vector<uint8_t> bytes = read_bytes(file, d.begin, d.bytes);
  Cursor c(bytes, file.path(), d.begin);
  std::vector<Header> entries;
  for (uint64_t i = 0; i < d.entries; ++i) {
    entries.push_back(read_entry(c));
    check_entry(entries.back(), file.path());
  }
  if (c.remaining() != 0) fail(Kind::file, "{}: byte {}: {} bytes behind the directory's entries", file.path(), grouped(c.offset()), grouped(c.remaining()));
  std::sort(entries.begin(), entries.end(), [](const Header& a, const Header& b) { return a.local_at < b.local_at; });

  std::vector<ZipMember> members;
  members.reserve(entries.size());
  if (!entries.empty() && entries.front().local_at != 0) fail(Kind::file, "{}: {} bytes before the first member", file.path(), grouped(entries.front().local_at));
  if (entries.empty() && d.begin != 0) fail(Kind::file, "{}: {} bytes before an empty directory", file.path(), grouped(d.begin));
  for (size_t i = 0; i < entries.size(); ++i) {
    Header& h = entries[i];
    const uint64_t begin = check_local(file, h), next = i + 1 < entries.size() ? entries[i + 1].local_at : d.begin;
    if (begin > next || h.packed > next - begin)
      fail(Kind::file, "{}: member \"{}\": {} bytes from byte {} reach into what begins at byte {}", file.path(), printable(h.name),
           grouped(h.packed), grouped(begin), grouped(next));
    check_gap(file, h, begin + h.packed, next);
    members.push_back({std::move(h.name), begin, h.packed, h.bytes, h.crc, h.method == 8});
  }
  std::set<std::string_view> names;
  for (const ZipMember& m : members)
    if (!names.insert(m.name).second) fail(Kind::file, "{}: two members are called \"{}\"", file.path(), printable(m.name));
  return members;
}

void read_member(const InputFile& file, const ZipMember& m, std::span<uint8_t> to) {
  if (m.deflated) unpack(file, m, to);
  else file.read(m.begin, to);
  if (to.size() == m.bytes) compare_crc(file, m, add_crc(0, to));
}

void check_member(const InputFile& file, const ZipMember& m) {
  std::vector<uint8_t> part(static_cast<size_t>(std::min<uint64_t>(m.bytes, piece)));
  uint32_t crc = 0;
  for (uint64_t at = 0; at < m.bytes; at += part.size()) {
    const std::span<uint8_t> now(part.data(), static_cast<size_t>(std::min<uint64_t>(part.size(), m.bytes - at)));
    file.read(m.begin + at, now);
    crc = add_crc(crc, now);
  }
  compare_crc(file, m, crc);
}

}  // namespace facet

#include "data/prepared.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>

#include "tensor/io/crc32c.h"
#include "tensor/io/durable.h"
#include "tensor/io/file.h"
#include "tensor/io/json.h"
#include "tensor/io/text.h"

namespace facet {

static_assert(std::endian::native == std::endian::little && sizeof(size_t) == 8, "prepared tokens are written as they lie in memory");

namespace {

struct Head {
  char magic[8] = {'F', 'A', 'C', 'E', 'T', 'T', 'O', 'K'};
  uint32_t version = 1, checksum = 0;
  uint64_t task = 0, key_bytes = 0, account_bytes = 0, row_bytes = 0, sequences = 0, tokens = 0;
};
static_assert(sizeof(Head) == 64);
constexpr size_t unchecked = 16;  // bytes in front of what the checksum covers

uint32_t checksum_of(const Head& h) { return crc32c(reinterpret_cast<const char*>(&h) + unchecked, sizeof(Head) - unchecked); }

Json account_of(const DataReport& r) {
  return {{"rows", r.rows}, {"used", r.used}, {"bad", r.bad}, {"too_long", r.too_long}, {"truncated", r.truncated}, {"no_target", r.no_target},
          {"shortest", r.shortest}, {"longest", r.longest}, {"unknown_tokens", r.unknown_tokens}, {"ignored_keys", r.ignored_keys}, {"bad_rows", r.bad_rows}};
}

DataReport report_of(const Json& j) {
  DataReport r;
  for (const auto& [name, field] : {std::pair<const char*, int64_t*>{"rows", &r.rows}, {"used", &r.used}, {"bad", &r.bad}, {"too_long", &r.too_long},
                                    {"truncated", &r.truncated}, {"no_target", &r.no_target}, {"shortest", &r.shortest}, {"longest", &r.longest},
                                    {"unknown_tokens", &r.unknown_tokens}})
    j.at(name).get_to(*field);
  j.at("ignored_keys").get_to(r.ignored_keys);
  j.at("bad_rows").get_to(r.bad_rows);
  return r;
}

// "max-len 512 there, 64 here": the first line in which two keys differ.
std::string first_difference(std::string_view there, std::string_view here) {
  while (!there.empty() || !here.empty()) {
    const auto line = [](std::string_view& s) {
      const std::string_view l = s.substr(0, s.find('\n'));
      s.remove_prefix(std::min(s.size(), l.size() + 1));
      return l;
    };
    const std::string_view a = line(there), b = line(here);
    if (a != b) return fmt::format("made for \"{}\", this is \"{}\"", printable(a, 80), printable(b, 80));
  }
  return "";
}

// Reads one part after the other and keeps their checksum.
class Stream {
 public:
  explicit Stream(const std::string& path) : file_(path) {}
  uint64_t size() const { return file_.size(); }
  template <class T>
  void read(T* to, size_t count) {
    const std::span bytes(reinterpret_cast<uint8_t*>(to), count * sizeof(T));
    file_.read(at_, bytes);
    const size_t skip = at_ < unchecked ? unchecked - at_ : 0;
    checksum = crc32c(bytes.data() + skip, bytes.size() - skip, checksum);
    at_ += bytes.size();
  }
  template <class List>
  void fill(List& list, uint64_t count) {
    list.resize(count);
    read(list.data(), count);
  }
  uint32_t checksum = 0;

 private:
  InputFile file_;
  uint64_t at_ = 0;
};

// Whether the sizes that a head claims add up to the file's; none of them can overflow the sum.
bool adds_up(const Head& h, uint64_t size) {
  for (const uint64_t n : {h.key_bytes, h.account_bytes, h.row_bytes, h.sequences, h.tokens})
    if (n > size) return false;
  if (h.sequences > size / 16 || h.tokens > size / 5) return false;
  return sizeof(Head) + 16 * h.sequences + 5 * h.tokens + h.key_bytes + h.account_bytes + h.row_bytes == size;
}

}  // namespace

std::string prepared_path(const std::string& source) { return source + ".tokens.bin"; }

std::string prepared_key(const std::string& source, const Tokenizer& t, const DataOptions& o) {
  const InputFile file(source);
  std::vector<uint8_t> block(size_t{1} << 20);
  uint32_t checksum = 0;
  for (uint64_t at = 0; at < file.size(); at += block.size()) {
    const std::span part(block.data(), static_cast<size_t>(std::min<uint64_t>(block.size(), file.size() - at)));
    file.read(at, part);
    checksum = crc32c(part.data(), part.size(), checksum);
  }
  const RowKeys& k = o.keys;
  const auto yes = [](bool b) { return b ? "yes" : "no"; };
  std::string key = fmt::format("tokenizer {:016x}\nsource {} bytes {:08x}\n", t.hash(), file.size(), checksum);
  key += fmt::format("max-len {}\ntoo-long {}\nmax-bad-rows {}\nlearn-prompt {}\nchat-template {}\nmerge-roles {}\nsafe {}\n", o.max_len, name_of(o.too_long),
                     o.max_bad_rows, yes(o.learn_prompt), yes(o.chat_template), yes(o.merge_roles), yes(o.safe));
  key += fmt::format("format {}\nlimit {}\nkeys {}\n", o.format ? name_of(*o.format) : "auto", o.limit,
                     Json{k.text, k.prompt, k.completion, k.messages, k.chosen, k.rejected, k.answer}.dump());
  return key;
}

void write_prepared(const Dataset& d, const std::string& key) {
  const std::string account = account_of(d.report_).dump();
  std::string rows;
  for (const std::string& row : d.rows_) rows += row + "\n";
  Head h;
  h.task = static_cast<uint64_t>(d.task_);
  h.key_bytes = key.size(), h.account_bytes = account.size(), h.row_bytes = rows.size();
  h.sequences = d.ends_.size(), h.tokens = d.ids_.size();
  const std::pair<const void*, size_t> parts[] = {{d.ends_.data(), 8 * d.ends_.size()}, {d.lines_.data(), 8 * d.lines_.size()}, {d.ids_.data(), 4 * d.ids_.size()},
                                                  {d.mask_.data(), d.mask_.size()}, {key.data(), key.size()}, {account.data(), account.size()},
                                                  {rows.data(), rows.size()}};
  h.checksum = checksum_of(h);
  for (const auto& [data, bytes] : parts) h.checksum = crc32c(data, bytes, h.checksum);
  DurableFile file(prepared_path(d.path_));
  file.write(&h, sizeof h);
  for (const auto& [data, bytes] : parts) file.write(data, bytes);
  file.commit();
}

std::optional<Dataset> read_prepared(const std::string& source, const std::string& key, int64_t vocab, std::string& why_not) {
  const std::string path = prepared_path(source);
  if (!std::filesystem::exists(path)) return std::nullopt;
  const auto refuse = [&](const std::string& what) {
    why_not = fmt::format("{}: {}, so it is not used; facet data tokenise makes it anew", path, what);
    return std::nullopt;
  };
  try {
    Stream in(path);
    Head h;
    if (in.size() < sizeof h) return refuse("damaged (too short)");
    in.read(&h, 1);
    if (std::memcmp(h.magic, Head{}.magic, sizeof h.magic) != 0) return refuse("no file of prepared tokens");
    if (h.version != Head{}.version) return refuse(fmt::format("of version {}, expected {}", h.version, Head{}.version));
    if (!adds_up(h, in.size()) || h.task > static_cast<uint64_t>(Task::document)) return refuse("damaged (its sizes do not add up)");
    Dataset d(static_cast<Task>(h.task), source);
    std::string its_key, account, rows;
    in.fill(d.ends_, h.sequences);
    in.fill(d.lines_, h.sequences);
    in.fill(d.ids_, h.tokens);
    in.fill(d.mask_, h.tokens);
    in.fill(its_key, h.key_bytes);
    in.fill(account, h.account_bytes);
    in.fill(rows, h.row_bytes);
    if (in.checksum != h.checksum) return refuse("damaged (checksum)");
    if (its_key != key) return refuse(first_difference(its_key, key));
    const bool in_order = h.sequences > 0 && d.ends_[0] > 0 && d.ends_.back() == h.tokens && std::ranges::is_sorted(d.ends_, std::less_equal<>());
    const bool in_range = std::ranges::all_of(d.ids_, [&](int32_t id) { return id >= 0 && id < vocab; }) &&
                          std::ranges::all_of(d.mask_, [](uint8_t m) { return m <= 1; });
    const bool one_row_each = d.task_ == Task::prompt ? rows.ends_with('\n') && std::ranges::count(rows, '\n') == d.size() : rows.empty();
    if (!in_order || !in_range || !one_row_each || d.size() % d.group() != 0) return refuse("damaged (its numbers make no sense)");
    for (size_t at = 0, end; (end = rows.find('\n', at)) != rows.npos; at = end + 1) d.rows_.push_back(rows.substr(at, end - at));
    d.report_ = report_of(parse_json(account, path));
    d.report_.prepared = true;
    return d;
  } catch (const Error& e) {
    return refuse(e.what());
  } catch (const Json::exception&) {
    return refuse("damaged (its account)");
  }
}

}  // namespace facet

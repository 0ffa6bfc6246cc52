#include "tensor/io/safetensors.h"

#include <algorithm>

#include "tensor/io/cursor.h"
#include "tensor/io/json.h"
#include "tensor/io/text.h"

namespace facet {

namespace {

constexpr uint64_t max_header = 100'000'000, max_token = uint64_t{1} << 20;

// The parser keeps the token it is in, and white space before it; nothing that we accept has long ones. And it takes a NUL for the
// end of the text, whatever is behind it.
void check_text(const std::string& file, std::string_view text) {
  bool in_string = false;
  size_t begin = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '\0') fail(Kind::file, "{}: header byte {}: not JSON: a NUL byte", file, i);
    if (in_string) {
      if (c == '\\') ++i;
      else if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == ',' || c == ':' || c == '{' || c == '}' || c == '[' || c == ']') {
      begin = i;
    }
    if (i - begin > max_token) fail(Kind::file, "{}: header byte {}: a token or gap longer than {} bytes", file, begin, grouped(max_token));
  }
}

// Follows the events of the JSON parser through a header; no tree is built, so memory is bounded by the tensors listed.
class HeaderReader {
 public:
  HeaderReader(const std::string& file, std::string_view text, uint64_t data_begin, uint64_t file_size)
      : file_(file), text_(text), data_begin_(data_begin), data_size_(file_size - data_begin) {}

  void run() {
    check_text(file_, text_);
    parse_json_events(text_, at_, *this);
    check_cover();
  }
  TensorList list;

  bool null() { return unexpected("null"); }
  bool boolean(bool) { return unexpected("true or false"); }
  bool number_integer(int64_t) { return unexpected("a negative number"); }
  bool number_float(double, const std::string&) { return unexpected("a fraction"); }
  bool binary(Json::binary_t&) { return unexpected("binary"); }
  bool number_unsigned(uint64_t v) {
    if (in_ == In::shape) {
      if (info_->shape.rank == max_rank) error("tensor \"{}\": more than {} dimensions", name(), max_rank);
      if (v > uint64_t{1} << 62) error("tensor \"{}\": dimension {} is too large", name(), v);
      info_->shape.push(static_cast<int64_t>(v));
    } else if (in_ == In::offsets) {
      if (offsets_ == 2) error("tensor \"{}\": data_offsets has more than two numbers", name());
      offset_[offsets_++] = v;
    } else {
      unexpected("a number");
    }
    return true;
  }
  bool string(std::string& v) {
    if (in_ == In::metadata) {
      if (list.metadata.size() == max_tensors) error("more than {} entries in __metadata__", grouped(max_tensors));
      if (!list.metadata.emplace(std::move(key_), std::move(v)).second) error("duplicate key in __metadata__");
    } else if (in_ == In::tensor && key_ == "dtype") {
      if (bytes_of_type(v) == 0) error("tensor \"{}\": unknown dtype \"{}\"", name(), printable(v, 40));
      info_->dtype = std::move(v);
    } else {
      unexpected("a string");
    }
    return true;
  }
  bool start_object(size_t) {
    if (in_ == In::file) {
      in_ = In::top;
    } else if (in_ == In::top) {
      if (key_ == "__metadata__") {
        if (std::exchange(saw_metadata_, true)) error("duplicate key \"__metadata__\"");
        in_ = In::metadata;
        return true;
      }
      if (list.tensors.size() == max_tensors) error("more than {} tensors in one file", grouped(max_tensors));
      const auto [entry, fresh] = list.tensors.emplace(std::move(key_), TensorInfo{});
      if (!fresh) error("duplicate tensor name \"{}\"", printable(entry->first));
      current_ = entry;
      info_ = &entry->second;
      fields_ = offsets_ = 0;
      in_ = In::tensor;
    } else {
      unexpected("an object");
    }
    return true;
  }
  bool end_object() {
    if (in_ == In::tensor) finish_tensor();
    in_ = in_ == In::top ? In::done : In::top;
    return true;
  }
  bool start_array(size_t) {
    if (in_ == In::tensor && key_ == "shape") in_ = In::shape;
    else if (in_ == In::tensor && key_ == "data_offsets") in_ = In::offsets;
    else unexpected("a list");
    return true;
  }
  bool end_array() {
    in_ = In::tensor;
    return true;
  }
  bool key(std::string& k) {
    if (in_ == In::tensor) {
      const unsigned bit = k == "dtype" ? 1 : k == "shape" ? 2 : k == "data_offsets" ? 4 : 0;
      if (bit == 0) error("tensor \"{}\": unknown field \"{}\"", name(), printable(k, 40));
      if (fields_ & bit) error("tensor \"{}\": duplicate field \"{}\"", name(), k);
      fields_ |= bit;
    } else if (in_ == In::top && k.size() > max_name_bytes) {
      error("a tensor name has {} bytes, at most {} are allowed", k.size(), max_name_bytes);
    }
    key_ = std::move(k);
    return true;
  }
  bool parse_error(size_t at, const std::string&, const nlohmann::detail::exception& e) {
    std::string_view what = e.what();
    const size_t colon = what.find(": ");
    if (colon != what.npos) what.remove_prefix(colon + 2);
    at_ = at;
    error("not JSON: {}", printable(what, 200));
  }

 private:
  enum class In { file, top, tensor, shape, offsets, metadata, done };

  std::string name() const { return printable(current_->first); }
  template <class... A>
  [[noreturn]] void error(fmt::format_string<A...> format, A&&... a) {
    fail(Kind::file, "{}: header byte {}: {}", file_, at_, fmt::format(format, std::forward<A>(a)...));
  }
  bool unexpected(const char* found) {
    switch (in_) {
      case In::top: error("\"{}\" must be an object, found {}", printable(key_), found);
      case In::tensor: error("tensor \"{}\": \"{}\" cannot be {}", name(), printable(key_), found);
      case In::shape: error("tensor \"{}\": shape must list whole numbers, found {}", name(), found);
      case In::offsets: error("tensor \"{}\": data_offsets must be two whole numbers, found {}", name(), found);
      case In::metadata: error("__metadata__ \"{}\" must be a string, found {}", printable(key_), found);
      default: error("the header must be an object, found {}", found);
    }
  }
  void finish_tensor() {
    if (fields_ != 7) error("tensor \"{}\": needs dtype, shape and data_offsets", name());
    if (offsets_ != 2) error("tensor \"{}\": data_offsets must be two whole numbers", name());
    TensorInfo& t = *info_;
    uint64_t need = 0;
    if (!checked_bytes(t.shape, t.dtype, need)) error("tensor \"{}\": shape {} of {} overflows", name(), to_string(t.shape), t.dtype);
    if (offset_[0] > offset_[1] || offset_[1] > data_size_)
      error("tensor \"{}\": data_offsets [{}, {}] leave the {} data bytes of the file (truncated?)", name(), offset_[0], offset_[1],
            grouped(data_size_));
    if (offset_[1] - offset_[0] != need)
      error("tensor \"{}\": shape {} {} needs {} bytes, offsets give {}", name(), to_string(t.shape), t.dtype, grouped(need),
            grouped(offset_[1] - offset_[0]));
    t.begin = data_begin_ + offset_[0];
    t.bytes = need;
  }
  // Data must be used exactly once: sorted by offset, each tensor begins where the one before it ends.
  void check_cover() {
    std::vector<const std::pair<const std::string, TensorInfo>*> order;
    order.reserve(list.tensors.size());
    for (const auto& t : list.tensors) order.push_back(&t);
    std::sort(order.begin(), order.end(), [](auto* a, auto* b) {
      return std::pair(a->second.begin, a->second.bytes) < std::pair(b->second.begin, b->second.bytes);
    });
    uint64_t end = data_begin_;
    for (const auto* t : order) {
      if (t->second.begin != end)
        fail(Kind::file, "{}: tensor \"{}\": data begin at byte {}, expected {}: {} in the data", file_, printable(t->first),
             grouped(t->second.begin), grouped(end), t->second.begin < end ? "an overlap" : "a hole");
      end += t->second.bytes;
    }
    if (end != data_begin_ + data_size_)
      fail(Kind::file, "{}: the tensors end at byte {}, the file at {} (an incomplete or foreign file?)", file_, grouped(end),
           grouped(data_begin_ + data_size_));
  }

  const std::string& file_;
  std::string_view text_;
  uint64_t data_begin_, data_size_;
  size_t at_ = 0;
  In in_ = In::file;
  std::string key_;
  bool saw_metadata_ = false;
  TensorMap::iterator current_;
  TensorInfo* info_ = nullptr;
  unsigned fields_ = 0;
  int offsets_ = 0;
  uint64_t offset_[2] = {};
};

}  // namespace

TensorList list_safetensors(const InputFile& file) {
  const std::string& path = file.path();
  if (file.size() < 8) fail(Kind::file, "{}: {} bytes, a safetensors file has at least 8 (truncated download?)", path, file.size());
  uint8_t first[8];
  file.read(0, first);
  const uint64_t n = Cursor(first, path).get<uint64_t>("header length");
  if (n > file.size() - 8)
    fail(Kind::file, "{}: header length {} exceeds file size {} (truncated download, or not a safetensors file?)", path, grouped(n),
         grouped(file.size()));
  if (n < 2 || n > max_header)
    fail(Kind::file, "{}: header length {} is outside 2 to {}", path, grouped(n), grouped(max_header));
  std::string header(static_cast<size_t>(n), '\0');
  file.read(8, {reinterpret_cast<uint8_t*>(header.data()), header.size()});
  if (header[0] != '{') fail(Kind::file, "{}: header byte 0: expected '{{', found \"{}\"", path, printable(header.substr(0, 1)));
  HeaderReader reader(path, header, 8 + n, file.size());
  reader.run();
  return std::move(reader.list);
}

}  // namespace facet

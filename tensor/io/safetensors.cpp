#include "tensor/io/safetensors.h"

#include <algorithm>
#include <bit>
#include <filesystem>
#include <limits>

#include "tensor/cpu/bf16.h"
#include "tensor/io/cursor.h"
#include "tensor/io/json.h"
#include "tensor/io/text.h"
#include "tensor/kernels/copy.h"

namespace facet {

namespace {

constexpr uint64_t max_header = 100'000'000, max_entries = 65'536, max_name = 512, max_token = uint64_t{1} << 20;

// All types of the format that fill whole bytes; we list any of them and load those with a `loads` note.
struct TypeRow {
  const char* name;
  uint64_t bytes;
};
constexpr TypeRow types[] = {{"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E5M2", 1}, {"F8_E4M3", 1}, {"F8_E8M0", 1},
                             {"I16", 2},  {"U16", 2}, {"F16", 2}, {"BF16", 2},    {"I32", 4},     {"U32", 4},
                             {"F32", 4},  {"F64", 8}, {"I64", 8}, {"U64", 8},     {"C64", 8}};

const TypeRow* find_type(std::string_view name) {
  for (const TypeRow& t : types)
    if (name == t.name) return &t;
  return nullptr;
}

// The parser keeps the token it is in, and white space before it; nothing that we accept has long ones.
void check_token_lengths(const std::string& file, std::string_view text) {
  bool in_string = false;
  size_t begin = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
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
  HeaderReader(const std::string& file, std::string_view text, uint64_t data_begin, uint64_t file_size, uint32_t file_index)
      : file_(file), text_(text), data_begin_(data_begin), data_size_(file_size - data_begin), file_index_(file_index) {}

  void run() {
    check_token_lengths(file_, text_);
    parse_json_events(text_, at_, *this);
    check_cover();
  }
  std::map<std::string, TensorInfo, std::less<>> tensors;
  std::map<std::string, std::string> metadata;

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
      if (metadata.size() == max_entries) error("more than {} entries in __metadata__", grouped(max_entries));
      if (!metadata.emplace(std::move(key_), std::move(v)).second) error("duplicate key in __metadata__");
    } else if (in_ == In::tensor && key_ == "dtype") {
      if (!find_type(v)) error("tensor \"{}\": unknown dtype \"{}\"", name(), printable(v, 40));
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
      if (tensors.size() == max_entries) error("more than {} tensors in one file", grouped(max_entries));
      const auto [entry, fresh] = tensors.emplace(std::move(key_), TensorInfo{});
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
    } else if (in_ == In::top && k.size() > max_name) {
      error("a tensor name has {} bytes, at most {} are allowed", k.size(), max_name);
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
    uint64_t need = find_type(t.dtype)->bytes;
    bool fits = true;
    for (int64_t d : t.shape) fits = fits && checked_mul(need, static_cast<uint64_t>(d), need);
    // A size of zero must not hide a product that would overflow in another order.
    if (need == 0) fits = fits && std::all_of(t.shape.begin(), t.shape.end(), [](int64_t d) { return d < int64_t{1} << 32; });
    if (!fits) error("tensor \"{}\": shape {} of {} overflows", name(), to_string(t.shape), t.dtype);
    if (offset_[0] > offset_[1] || offset_[1] > data_size_)
      error("tensor \"{}\": data_offsets [{}, {}] leave the {} data bytes of the file (truncated?)", name(), offset_[0], offset_[1],
            grouped(data_size_));
    if (offset_[1] - offset_[0] != need)
      error("tensor \"{}\": shape {} {} needs {} bytes, offsets give {}", name(), to_string(t.shape), t.dtype, grouped(need),
            grouped(offset_[1] - offset_[0]));
    t.begin = data_begin_ + offset_[0];
    t.bytes = need;
    t.file = file_index_;
  }
  // Data must be used exactly once: sorted by offset, each tensor begins where the one before it ends.
  void check_cover() {
    std::vector<const std::pair<const std::string, TensorInfo>*> order;
    order.reserve(tensors.size());
    for (const auto& t : tensors) order.push_back(&t);
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
  uint32_t file_index_;
  size_t at_ = 0;
  In in_ = In::file;
  std::string key_;
  bool saw_metadata_ = false;
  std::map<std::string, TensorInfo, std::less<>>::iterator current_;
  TensorInfo* info_ = nullptr;
  unsigned fields_ = 0;
  int offsets_ = 0;
  uint64_t offset_[2] = {};
};

template <class T>
std::span<uint8_t> writable(const Tensor& t) {
  return {reinterpret_cast<uint8_t*>(t.out().as<T>()), static_cast<size_t>(t.numel() * size_of(t.dtype()))};
}

float widen_f16(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16, exponent = (h >> 10) & 31u, fraction = h & 1023u;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | fraction << 13);
  if (exponent) return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
  const float subnormal = static_cast<float>(fraction) * 0x1p-24f;  // exact
  return sign ? -subnormal : subnormal;
}

}  // namespace

const char* safetensors_dtype(DType t) {
  switch (t) {
    case DType::f32: return "F32";
    case DType::bf16: return "BF16";
    case DType::f64: return "F64";
    default: return "I32";
  }
}

Safetensors::Safetensors(const std::string& path) : path_(path) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) {
    const fs::path one = fs::path(path) / "model.safetensors", index = fs::path(path) / "model.safetensors.index.json";
    if (fs::exists(index, ignored)) {
      open_index(index);
      return;
    }
    if (fs::exists(one, ignored)) {
      add_file(one);
      return;
    }
    std::vector<std::string> found;
    for (const auto& e : fs::directory_iterator(path, ignored)) found.push_back(printable(e.path().filename().string(), 60));
    std::sort(found.begin(), found.end());
    if (found.size() > 12) found.resize(12), found.push_back("...");
    fail(Kind::file, "model: no model.safetensors or model.safetensors.index.json in {}; found: {}", path,
         found.empty() ? "nothing" : fmt::format("{}", fmt::join(found, ", ")));
  }
  if (path.ends_with(".json")) open_index(path);
  else add_file(path);
}

void Safetensors::add_file(const std::string& path) {
  InputFile file(path);
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
  HeaderReader reader(path, header, 8 + n, file.size(), static_cast<uint32_t>(files_.size()));
  reader.run();
  if (files_.empty()) metadata_ = std::move(reader.metadata);
  tensors_.merge(reader.tensors);  // moves the nodes; names that exist already stay behind
  if (!reader.tensors.empty())
    fail(Kind::file, "{}: tensor \"{}\" is also in another shard", path, printable(reader.tensors.begin()->first));
  files_.push_back(std::move(file));
}

void Safetensors::open_index(const std::string& path) {
  const std::string folder = std::filesystem::path(path).parent_path().string();
  const Json index = read_json(path, uint64_t{64} << 20);
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object())
    fail(Kind::file, "{}: expected an object with the object \"weight_map\"", path);
  const Json& map = index["weight_map"];
  std::map<std::string, uint32_t> shards;
  for (const auto& [name, file] : map.items()) {
    if (!file.is_string())
      fail(Kind::file, "{}: weight_map \"{}\" must be a file name, found {}", path, printable(name), type_name(file));
    const std::string& shard = file.get_ref<const std::string&>();
    if (shard.empty() || shard.find('/') != shard.npos || shard.find('\\') != shard.npos || shard.find('\0') != shard.npos ||
        shard.find("..") != shard.npos)
      fail(Kind::file, "{}: weight_map \"{}\": \"{}\" is not a plain file name", path, printable(name), printable(shard));
    shards.emplace(shard, 0);
    if (shards.size() > 4096) fail(Kind::file, "{}: more than 4096 shards", path);
  }
  for (auto& [shard, number] : shards) {
    const std::filesystem::path full = std::filesystem::path(folder) / shard;
    std::error_code ignored;
    if (!std::filesystem::exists(full, ignored))
      fail(Kind::file, "{}: index names {}, not found in {}", path, printable(shard), folder.empty() ? "." : folder);
    number = static_cast<uint32_t>(files_.size());
    add_file(full);
  }
  for (const auto& [name, file] : map.items()) {
    const auto t = tensors_.find(name);
    const uint32_t shard = shards.at(file.get_ref<const std::string&>());
    if (t == tensors_.end() || t->second.file != shard)
      fail(Kind::file, "{}: tensor \"{}\" should be in {} and is {}", path, printable(name), file.get_ref<const std::string&>(),
           t == tensors_.end() ? "in no shard" : "in " + files_[t->second.file].path());
  }
  if (tensors_.size() != map.size())
    for (const auto& t : tensors_)
      if (!map.contains(t.first))
        fail(Kind::file, "{}: tensor \"{}\" of {} is not listed", path, printable(t.first), files_[t.second.file].path());
}

const TensorInfo& Safetensors::info(std::string_view name) const {
  const auto t = tensors_.find(name);
  if (t == tensors_.end()) fail(Kind::file, "{}: no tensor \"{}\" among {}", path_, printable(name), tensors_.size());
  return t->second;
}

std::vector<std::string> Safetensors::files() const {
  std::vector<std::string> r;
  for (const InputFile& f : files_) r.push_back(f.path());
  return r;
}

std::vector<uint8_t> Safetensors::bytes(std::string_view name) const {
  const TensorInfo& t = info(name);
  std::vector<uint8_t> r(static_cast<size_t>(t.bytes));
  files_[t.file].read(t.begin, r);
  return r;
}

bool Safetensors::same(std::string_view a, std::string_view b) const {
  const TensorInfo &x = info(a), &y = info(b);
  if (x.dtype != y.dtype || !(x.shape == y.shape)) return false;
  std::vector<uint8_t> p(1 << 20), q(p.size());
  for (uint64_t at = 0; at < x.bytes; at += p.size()) {
    const size_t n = static_cast<size_t>(std::min<uint64_t>(p.size(), x.bytes - at));
    files_[x.file].read(x.begin + at, {p.data(), n});
    files_[y.file].read(y.begin + at, {q.data(), n});
    if (!std::equal(p.begin(), p.begin() + static_cast<std::ptrdiff_t>(n), q.begin())) return false;
  }
  return true;
}

Tensor Safetensors::load(std::string_view name) const {
  const TensorInfo& t = info(name);
  for (DType d : {DType::f32, DType::bf16, DType::f64, DType::i32})
    if (t.dtype == safetensors_dtype(d)) {
      const Tensor r = Tensor::empty(t.shape, d);
      files_[t.file].read(t.begin, writable<void>(r));
      return r;
    }
  if (t.dtype == "F16") {
    const Tensor r = Tensor::empty(t.shape, DType::f32);
    const std::vector<uint8_t> raw = bytes(name);
    Cursor in(raw, path_, t.begin);
    float* out = r.out().as<float>();
    for (int64_t i = 0; i < r.numel(); ++i) out[i] = widen_f16(in.get<uint16_t>("an F16 value"));
    return r;
  }
  if (t.dtype == "I64") {
    const Tensor r = Tensor::empty(t.shape, DType::i32);
    const std::vector<uint8_t> raw = bytes(name);
    Cursor in(raw, path_, t.begin);
    int32_t* out = r.out().as<int32_t>();
    for (int64_t i = 0; i < r.numel(); ++i) {
      const int64_t v = in.get<int64_t>("an I64 value");
      if (v != static_cast<int32_t>(v))
        fail(Kind::file, "{}: tensor \"{}\": value {} at index {} does not fit 32 bits", path_, printable(name), v, i);
      out[i] = static_cast<int32_t>(v);
    }
    return r;
  }
  fail(Kind::file, "{}: tensor \"{}\" is {}; loadable types: F32 BF16 F64 I32, F16 (as f32), I64 (as i32)", path_, printable(name),
       t.dtype);
}

void Safetensors::load_into(std::string_view name, const Tensor& to) const {
  const TensorInfo& t = info(name);
  if (!(t.shape == to.shape()))
    fail(Kind::file, "{}: tensor \"{}\": expected {}, found {} {}", path_, printable(name), to_string(to.shape()), to_string(t.shape),
         t.dtype);
  if (t.dtype == safetensors_dtype(to.dtype()) && to.contiguous()) files_[t.file].read(t.begin, writable<void>(to));
  else copy(load(name).view(), to.out());
}

}  // namespace facet

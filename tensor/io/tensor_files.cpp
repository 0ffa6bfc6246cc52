#include "tensor/io/tensor_files.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <filesystem>

#include "tensor/io/cursor.h"
#include "tensor/io/json.h"
#include "tensor/io/npy.h"
#include "tensor/io/safetensors.h"
#include "tensor/io/text.h"
#include "tensor/io/torch_file.h"
#include "tensor/kernels/copy.h"

namespace facet {

namespace {

namespace fs = std::filesystem;

constexpr uint64_t piece_bytes = uint64_t{2} << 20;  // what a conversion holds beside its destination

// All types of the formats that fill whole bytes; any of them is listed, see decode() for those that load.
struct TypeRow {
  std::string_view name;
  uint64_t bytes;
};
constexpr TypeRow types[] = {{"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E5M2", 1}, {"F8_E4M3", 1}, {"F8_E8M0", 1},
                             {"I16", 2},  {"U16", 2}, {"F16", 2}, {"BF16", 2},    {"I32", 4},     {"U32", 4},
                             {"F32", 4},  {"F64", 8}, {"I64", 8}, {"U64", 8},     {"C64", 8}};

std::span<uint8_t> writable(const Tensor& t) {
  return {static_cast<uint8_t*>(const_cast<void*>(t.out().data)), static_cast<size_t>(t.numel() * size_of(t.dtype()))};
}

float widen_f16(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16, exponent = (h >> 10) & 31u, fraction = h & 1023u;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | fraction << 13);
  if (exponent) return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
  const float subnormal = static_cast<float>(fraction) * 0x1p-24f;  // exact
  return sign ? -subnormal : subnormal;
}

// Bytes that a strided tensor spans in its file.
uint64_t extent_of(const TensorInfo& t, uint64_t item) {
  if (t.bytes == 0) return 0;
  uint64_t last = 0;
  for (int i = 0; i < t.shape.rank; ++i) last += static_cast<uint64_t>((t.shape[i] - 1) * t.stride[static_cast<size_t>(i)]);
  return (last + 1) * item;
}

// Values of any strides to row-major ones.
void gather(const TensorInfo& t, const uint8_t* from, uint8_t* to, uint64_t item) {
  Shape at = t.shape;
  for (int i = 0; i < at.rank; ++i) at[i] = 0;
  for (uint64_t done = 0; done < t.bytes; done += item) {
    int64_t offset = 0;
    for (int i = 0; i < at.rank; ++i) offset += at[i] * t.stride[static_cast<size_t>(i)];
    std::memcpy(to + done, from + static_cast<uint64_t>(offset) * item, item);
    for (int i = at.rank - 1; i >= 0 && ++at[i] == t.shape[i]; --i) at[i] = 0;
  }
}

// What PyTorch and others call a file of weights, when a folder holds just one.
bool names_weights(const std::string& name) {
  const auto endings = {".safetensors", ".npz", ".npy", ".pt", ".pth", ".ckpt", ".bin"};
  return std::any_of(endings.begin(), endings.end(), [&](const char* e) { return name.ends_with(e); });
}

}  // namespace

uint64_t bytes_of_type(std::string_view dtype) {
  for (const TypeRow& t : types)
    if (dtype == t.name) return t.bytes;
  return 0;
}

bool checked_bytes(const Shape& shape, std::string_view dtype, uint64_t& bytes) {
  bytes = bytes_of_type(dtype);
  bool fits = true;
  for (int64_t d : shape) fits = fits && checked_mul(bytes, static_cast<uint64_t>(d), bytes);
  // A size of zero must not hide a product that would overflow in another order.
  if (bytes == 0) fits = fits && std::all_of(shape.begin(), shape.end(), [](int64_t d) { return d < int64_t{1} << 32; });
  return fits;
}

const char* safetensors_dtype(DType t) {
  switch (t) {
    case DType::f32: return "F32";
    case DType::bf16: return "BF16";
    case DType::f64: return "F64";
    default: return "I32";
  }
}

TensorInfo rows_of(const TensorInfo& t, int64_t begin, int64_t end) {
  if (t.shape.rank == 0 || begin < 0 || begin > end || end > t.shape[0])
    fail(Kind::usage, "rows_of: rows {} to {} of {}", begin, end, to_string(t.shape));
  TensorInfo r = t;
  const uint64_t item = bytes_of_type(t.dtype);
  const uint64_t row = t.bytes == 0 ? 0 : t.bytes / static_cast<uint64_t>(t.shape[0]);
  r.shape[0] = end - begin;
  r.bytes = row * static_cast<uint64_t>(end - begin);
  r.begin += static_cast<uint64_t>(begin) * (t.stride.empty() ? row : static_cast<uint64_t>(t.stride[0]) * item);
  return r;
}

TensorInfo entry_of(const TensorInfo& t, int64_t index) {
  TensorInfo r = rows_of(t, index, index + 1);
  for (int i = 1; i < r.shape.rank; ++i) r.shape[i - 1] = r.shape[i];
  --r.shape.rank;
  if (!r.stride.empty()) r.stride.erase(r.stride.begin());
  return r;
}

// ---- opening

TensorFiles::TensorFiles(const std::string& path) : TensorFiles(path, Accept::all) {}

TensorFiles::TensorFiles(const std::string& path, Accept accept) : path_(path), accept_(accept) { open(path); }

void TensorFiles::open(const std::string& path) {
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) open_folder(path);
  else if (path.ends_with(".json")) open_index(path);
  else add_file(path);
}

void TensorFiles::open_folder(const std::string& path) {
  std::error_code ignored;
  const auto at = [&](const char* name) { return (fs::path(path) / name).string(); };
  for (const char* name : {"model.safetensors.index.json", "model.safetensors", "pytorch_model.bin.index.json", "pytorch_model.bin"})
    if (fs::exists(at(name), ignored) && (accept_ == Accept::all || std::string_view(name).starts_with("model"))) return open(at(name));
  std::vector<std::string> found, weights;
  for (const auto& e : fs::directory_iterator(path, ignored)) {
    found.push_back(e.path().filename().string());
    if (names_weights(found.back())) weights.push_back(e.path().string());
  }
  if (accept_ == Accept::all && weights.size() == 1) return add_file(weights.front());
  std::sort(found.begin(), found.end());
  if (found.size() > 12) found.resize(12), found.push_back("...");
  for (std::string& name : found) name = printable(name, 60);
  if (accept_ == Accept::all && weights.size() > 1)
    fail(Kind::file, "model: {} holds several files that could be the weights: {}; name one", path, fmt::join(found, ", "));
  fail(Kind::file, "model: no model.safetensors{}, or index of either, in {}; found: {}", accept_ == Accept::all ? ", pytorch_model.bin" : "",
       path, found.empty() ? "nothing" : fmt::format("{}", fmt::join(found, ", ")));
}

// The content decides what a file is.
TensorList TensorFiles::list(const InputFile& file) {
  const std::string& path = file.path();
  uint8_t first[264] = {};  // a tar file says so at byte 257
  const size_t n = static_cast<size_t>(std::min<uint64_t>(file.size(), sizeof first));
  file.read(0, {first, n});
  const std::string_view begin(reinterpret_cast<const char*>(first), n);
  // The first eight bytes of safetensors are a number, which may look like anything.
  uint64_t length = 0;
  std::memcpy(&length, first, 8);
  if (accept_ == Accept::all && !(file.size() > 8 && length <= file.size() - 8 && begin[8] == '{')) {
    if (begin.starts_with("PK\3\4") || begin.starts_with("PK\5\6")) {
      std::vector<ZipMember> members = read_zip(file);
      const bool torch = is_torch(members);
      format_ = torch ? "PyTorch" : "npz";
      return torch ? list_torch(file, std::move(members)) : list_npz(file, std::move(members));
    }
    if (is_npy({first, n})) {
      format_ = "npy";
      return list_npy(file);
    }
    refuse_old_torch(path, begin);
    if (begin.starts_with("GGUF")) fail(Kind::file, "{}: GGUF files are not read; use the safetensors it was made from", path);
  }
  format_ = "safetensors";
  return list_safetensors(file);
}

void TensorFiles::add_file(const std::string& path) {
  InputFile file(path);
  TensorList found = list(file);
  for (auto& [name, info] : found.tensors) info.file = static_cast<uint32_t>(sources_.size());
  if (sources_.empty()) metadata_ = std::move(found.metadata);
  tensors_.merge(found.tensors);  // moves the nodes; names that exist already stay behind
  if (!found.tensors.empty()) fail(Kind::file, "{}: tensor \"{}\" is also in another shard", path, printable(found.tensors.begin()->first));
  sources_.emplace_back(std::move(file), std::move(found.members));
}

void TensorFiles::open_index(const std::string& path) {
  const std::string folder = fs::path(path).parent_path().string();
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
    const fs::path full = fs::path(folder) / shard;
    std::error_code ignored;
    if (!fs::exists(full, ignored))
      fail(Kind::file, "{}: index names {}, not found in {}", path, printable(shard), folder.empty() ? "." : folder);
    number = static_cast<uint32_t>(sources_.size());
    add_file(full);
  }
  for (const auto& [name, file] : map.items()) {
    const auto t = tensors_.find(name);
    const uint32_t shard = shards.at(file.get_ref<const std::string&>());
    if (t == tensors_.end() || t->second.file != shard)
      fail(Kind::file, "{}: tensor \"{}\" should be in {} and is {}", path, printable(name), file.get_ref<const std::string&>(),
           t == tensors_.end() ? "in no shard" : "in " + sources_[t->second.file].file.path());
  }
  if (tensors_.size() != map.size())
    for (const auto& t : tensors_)
      if (!map.contains(t.first))
        fail(Kind::file, "{}: tensor \"{}\" of {} is not listed", path, printable(t.first), sources_[t.second.file].file.path());
}

// ---- reading

const TensorInfo& TensorFiles::info(std::string_view name) const {
  const auto t = tensors_.find(name);
  if (t == tensors_.end()) fail(Kind::file, "{}: no tensor \"{}\" among {}", path_, printable(name), tensors_.size());
  return t->second;
}

std::vector<std::string> TensorFiles::files() const {
  std::vector<std::string> r;
  for (const Source& s : sources_) r.push_back(s.file.path());
  return r;
}

std::span<const uint8_t> TensorFiles::unpacked(const Source& source, int32_t member) const {
  const ZipMember& m = source.members[static_cast<size_t>(member)];
  if (unpacked_member_ != &m) {
    unpacked_member_ = nullptr;
    unpacked_.resize(static_cast<size_t>(m.bytes));
    read_member(source.file, m, unpacked_);
    unpacked_member_ = &m;
  }
  return unpacked_;
}

// The values of a tensor, row-major.
void TensorFiles::read(const TensorInfo& t, std::span<uint8_t> to) const {
  const Source& source = sources_[t.file];
  std::span<const uint8_t> from;
  std::vector<uint8_t> spanned;
  const uint64_t item = bytes_of_type(t.dtype), extent = t.stride.empty() ? t.bytes : extent_of(t, item);
  if (t.member >= 0 && source.members[static_cast<size_t>(t.member)].deflated) {
    from = unpacked(source, t.member).subspan(static_cast<size_t>(t.begin), static_cast<size_t>(extent));
  } else {
    if (t.member >= 0 && !source.checked[static_cast<size_t>(t.member)]) {
      check_member(source.file, source.members[static_cast<size_t>(t.member)]);
      source.checked[static_cast<size_t>(t.member)] = true;
    }
    if (t.stride.empty()) return source.file.read(t.begin, to);
    spanned.resize(static_cast<size_t>(extent));
    source.file.read(t.begin, spanned);
    from = spanned;
  }
  if (t.stride.empty()) std::copy(from.begin(), from.end(), to.begin());
  else gather(t, from.data(), to.data(), item);
}

std::vector<uint8_t> TensorFiles::bytes(const TensorInfo& t) const {
  std::vector<uint8_t> r(static_cast<size_t>(t.bytes));
  read(t, r);
  return r;
}

bool TensorFiles::same(std::string_view a, std::string_view b) const {
  const TensorInfo &x = info(a), &y = info(b);
  if (x.dtype != y.dtype || !(x.shape == y.shape)) return false;
  if (x.shape.rank == 0 || x.bytes == 0) return bytes(x) == bytes(y);
  const int64_t rows = x.shape[0], step = std::max<int64_t>(1, static_cast<int64_t>(piece_bytes / (x.bytes / static_cast<uint64_t>(rows))));
  for (int64_t i = 0; i < rows; i += step) {
    const int64_t end = std::min(rows, i + step);
    if (bytes(rows_of(x, i, end)) != bytes(rows_of(y, i, end))) return false;
  }
  return true;
}

Tensor TensorFiles::load(const TensorInfo& t, std::string_view name) const {
  for (DType d : {DType::f32, DType::bf16, DType::f64, DType::i32})
    if (t.dtype == safetensors_dtype(d)) {
      const Tensor r = Tensor::empty(t.shape, d);
      read(t, writable(r));
      return r;
    }
  if (t.dtype == "F16") {
    const Tensor r = Tensor::empty(t.shape, DType::f32);
    const std::vector<uint8_t> raw = bytes(t);
    Cursor in(raw, path_, t.begin);
    float* out = r.out().as<float>();
    for (int64_t i = 0; i < r.numel(); ++i) out[i] = widen_f16(in.get<uint16_t>("an F16 value"));
    return r;
  }
  if (t.dtype == "I64") {
    const Tensor r = Tensor::empty(t.shape, DType::i32);
    const std::vector<uint8_t> raw = bytes(t);
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

void TensorFiles::load_into(const TensorInfo& t, std::string_view name, const Tensor& to) const {
  if (!(t.shape == to.shape()))
    fail(Kind::file, "{}: tensor \"{}\": expected {}, found {} {}", path_, printable(name), to_string(to.shape()), to_string(t.shape),
         t.dtype);
  if (t.dtype == safetensors_dtype(to.dtype()) && to.contiguous()) return read(t, writable(to));
  // Cut along the leading axes, so that little is held besides the destination. What is not row-major is read whole.
  if (t.bytes <= piece_bytes || !t.stride.empty() || t.shape.rank == 0) return copy(load(t, name).view(), to.out());
  const int64_t rows = t.shape[0], step = static_cast<int64_t>(piece_bytes / (t.bytes / static_cast<uint64_t>(rows)));
  for (int64_t i = 0; i < rows; i += std::max<int64_t>(step, 1)) {
    const int64_t end = std::min(rows, i + std::max<int64_t>(step, 1));
    if (step > 0) load_into(rows_of(t, i, end), name, to.slice(0, i, end));
    else load_into(entry_of(t, i), name, to.slice(0, i, i + 1).reshape(entry_of(t, i).shape));
  }
}

}  // namespace facet

#include <algorithm>
#include <filesystem>

#include "tensor/io/crc32c.h"
#include "tensor/io/durable.h"
#include "tensor/io/json.h"
#include "tensor/io/safetensors.h"
#include "tensor/io/text.h"

namespace facet {

namespace {

// The reference library's order: F64, F32, I32, BF16. Sizes descend, so every tensor is aligned.
int rank_of(DType t) { return t == DType::f64 ? 0 : t == DType::f32 ? 1 : t == DType::i32 ? 2 : 3; }

std::string quoted(const std::string& s) { return Json(s).dump(); }

std::string header_of(const std::vector<TensorSpec>& specs, const Metadata& metadata) {
  std::string h = "{";
  if (!metadata.empty()) {
    h += "\"__metadata__\":{";
    for (const auto& [key, value] : metadata) h += quoted(key) + ":" + quoted(value) + ",";
    h.back() = '}';
    h += ',';
  }
  uint64_t at = 0;
  for (const TensorSpec& s : specs) {
    const uint64_t end = at + bytes_of(s);
    h += fmt::format("{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}},", quoted(s.name), safetensors_dtype(s.dtype),
                     fmt::join(s.shape.begin(), s.shape.end(), ","), at, end);
    at = end;
  }
  if (h.back() == ',') h.pop_back();
  h += '}';
  h.resize((h.size() + 7) / 8 * 8, ' ');
  return h;
}

TensorSums write_file(const std::string& path, std::vector<TensorSpec> specs, const TensorSource& source, const Metadata& metadata) {
  std::sort(specs.begin(), specs.end(), [](const TensorSpec& a, const TensorSpec& b) {
    return rank_of(a.dtype) != rank_of(b.dtype) ? rank_of(a.dtype) < rank_of(b.dtype) : a.name < b.name;
  });
  check_names(path, specs);
  DurableFile file(path);
  const std::string header = header_of(specs, metadata);
  const uint64_t n = header.size();
  file.write(&n, 8);
  file.write(header);
  TensorSums sums;
  for (const TensorSpec& s : specs) {
    const Tensor t = take(path, s, source);
    const size_t bytes = static_cast<size_t>(bytes_of(s));
    if (bytes > 0) file.write(t.view().data, bytes);
    sums[s.name] = crc32c(t.view().data, bytes);
  }
  file.commit();
  return sums;
}

std::string folder_of(const std::string& path) {
  const std::string p = std::filesystem::path(path).parent_path().string();
  return p.empty() ? "." : p;
}

}  // namespace

TensorSums save_safetensors(const std::string& path, std::vector<TensorSpec> specs, const TensorSource& source,
                            const Metadata& metadata) {
  check_free_space(path, folder_of(path), bytes_of(specs));
  return write_file(path, std::move(specs), source, metadata);
}

TensorSums save_safetensors(const std::string& path, std::span<const std::pair<std::string, Tensor>> tensors,
                            const Metadata& metadata) {
  return save_safetensors(path, specs_of(tensors), source_of(tensors), metadata);
}

TensorSums save_sharded(const std::string& folder, const std::string& stem, const std::vector<TensorSpec>& specs,
                        const TensorSource& source, const Metadata& metadata, uint64_t shard_bytes) {
  namespace fs = std::filesystem;
  check_free_space(folder, folder, bytes_of(specs));
  std::vector<std::vector<TensorSpec>> shards(1);
  uint64_t filled = 0;
  for (const TensorSpec& s : specs) {
    if (!shards.back().empty() && filled + bytes_of(s) > shard_bytes) {
      shards.emplace_back();
      filled = 0;
    }
    filled += bytes_of(s);
    shards.back().push_back(s);
  }
  if (shards.size() == 1) return write_file((fs::path(folder) / (stem + ".safetensors")).string(), specs, source, metadata);
  TensorSums sums;
  Json map = Json::object();
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name = fmt::format("{}-{:05}-of-{:05}.safetensors", stem, i + 1, shards.size());
    for (const TensorSpec& s : shards[i])
      if (!map.emplace(s.name, name).second) fail(Kind::usage, "{}: two tensors are called \"{}\"", folder, printable(s.name));
    sums.merge(write_file((fs::path(folder) / name).string(), shards[i], source, metadata));
  }
  int64_t elements = 0;
  for (const TensorSpec& s : specs) elements += s.shape.numel();
  const Json index = {{"metadata", {{"total_parameters", elements}, {"total_size", bytes_of(specs)}}}, {"weight_map", map}};
  write_file_atomically((fs::path(folder) / (stem + ".safetensors.index.json")).string(), index.dump(2) + "\n");
  return sums;
}

}  // namespace facet

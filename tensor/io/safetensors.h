// safetensors: named tensors in a file. Eight bytes with the header's length N (little-endian), N bytes of JSON
//   {"name": {"dtype": "BF16", "shape": [4, 8], "data_offsets": [0, 64]}, ..., "__metadata__": {"key": "text"}}
// and the data, row-major, offsets relative to byte 8 + N. A model in several files has beside them
// model.safetensors.index.json = {"metadata": {...}, "weight_map": {"name": "file"}}.
#pragma once
#include <functional>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "tensor/io/file.h"
#include "tensor/tensor.h"

namespace facet {

/// One tensor of a file, before its data are read.
struct TensorInfo {
  std::string dtype;     ///< as the file spells it: "F32", "BF16", ...
  Shape shape;
  uint64_t begin = 0;    ///< first byte in its file
  uint64_t bytes = 0;
  uint32_t file = 0;     ///< index into Safetensors::files()
};

/// Reads one file or a set of shards. Opening reads headers only; every size is checked against the file before anything is
/// allocated, and a file that breaks a rule is refused with Error(Kind::file): file, byte or tensor, expected, found.
/// Rules beyond the format note: at most 100,000,000 header bytes, 65,536 tensors a file, 8 dimensions, 512 bytes a name; data
/// covered without hole or overlap. Refusing a file of n bytes takes at most 16 MiB + 2 n of memory and linear time.
class Safetensors {
 public:
  /// `path`: a .safetensors file, an .index.json, or a folder that holds model.safetensors or its index.
  explicit Safetensors(const std::string& path);

  const std::string& path() const { return path_; }
  /// All tensors, in name order.
  const std::map<std::string, TensorInfo, std::less<>>& tensors() const { return tensors_; }
  bool has(std::string_view name) const { return tensors_.find(name) != tensors_.end(); }
  /// Throws Error(Kind::file) when there is no such tensor.
  const TensorInfo& info(std::string_view name) const;
  /// The header's __metadata__; of shards, that of the first file.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  std::vector<std::string> files() const;

  /// Reads one tensor. F32, BF16, F64, I32 as they are; F16 becomes f32; I64 becomes i32 and throws when a value does not fit.
  /// Other types throw; bytes() gives them raw.
  Tensor load(std::string_view name) const;
  /// Reads into an existing tensor of the same shape, converting to its dtype. The one copy goes from the file to `to` when
  /// the dtypes agree and `to` is contiguous.
  void load_into(std::string_view name, const Tensor& to) const;
  std::vector<uint8_t> bytes(std::string_view name) const;
  /// Whether two tensors have the same dtype, shape and bytes; reads them in pieces.
  bool same(std::string_view a, std::string_view b) const;

 private:
  void add_file(const std::string& path);
  void open_index(const std::string& path);

  std::string path_;
  std::vector<InputFile> files_;
  std::map<std::string, TensorInfo, std::less<>> tensors_;
  std::map<std::string, std::string> metadata_;
};

using Metadata = std::map<std::string, std::string>;

/// What a writer must know before the data come, because the header stands in front of them.
struct TensorSpec {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;
};
/// Delivers the tensor of a spec; called once for each, in the order of the file, and dropped after it is written.
using TensorSource = std::function<Tensor(const std::string& name)>;
/// CRC-32C of every tensor's bytes, by name.
using TensorSums = std::map<std::string, uint32_t>;

/// Writes one file, tensor by tensor, durably (tensor/io/durable.h). Tensors stand in the order of the reference library (wider
/// dtypes first, then by name), each aligned to its size; the header is padded to 8 bytes. Dtype and shape must be as announced.
TensorSums save_safetensors(const std::string& path, std::vector<TensorSpec>, const TensorSource&, const Metadata& = {});
TensorSums save_safetensors(const std::string& path, std::span<const std::pair<std::string, Tensor>>, const Metadata& = {});

/// Writes <stem>.safetensors, or shards of at most `shard_bytes` (one tensor at least) in the given order with their index.
TensorSums save_sharded(const std::string& folder, const std::string& stem, const std::vector<TensorSpec>&, const TensorSource&,
                        const Metadata& = {}, uint64_t shard_bytes = 5'000'000'000);

/// "F32", "BF16", "F64", "I32".
const char* safetensors_dtype(DType);

}  // namespace facet

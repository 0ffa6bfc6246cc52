// Named tensors in files, whatever the format: what is where, and the values on demand. A reader of a format turns a file into
// a list of byte ranges (a TensorList); what happens to bytes afterwards is here, once for all of them.
#pragma once
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/io/file.h"
#include "tensor/io/zip.h"
#include "tensor/tensor.h"

namespace facet {

/// One tensor of a file, before its data are read.
struct TensorInfo {
  std::string dtype;     ///< as safetensors spells it: "F32", "BF16", ...
  Shape shape;
  uint64_t begin = 0;    ///< first byte in its file; of a packed member, in what it unpacks to
  uint64_t bytes = 0;    ///< of the values, row-major
  uint32_t file = 0;     ///< index into TensorFiles::files()
  int32_t member = -1;   ///< index into the members of an archive; -1: the file is none
  std::vector<int64_t> stride;  ///< in elements; empty: row-major
};

using TensorMap = std::map<std::string, TensorInfo, std::less<>>;
using Metadata = std::map<std::string, std::string>;

/// What a reader finds in one file.
struct TensorList {
  TensorMap tensors;
  Metadata metadata;
  std::vector<ZipMember> members;  ///< of an archive
};

/// Tensors begin...end of the first axis.
TensorInfo rows_of(const TensorInfo&, int64_t begin, int64_t end);
/// One of the first axis, without that axis.
TensorInfo entry_of(const TensorInfo&, int64_t index);

/// Tensors of one file or of a set of shards. Opening reads headers only; every size is checked against the file before anything
/// is allocated, and a file that breaks a rule is refused with Error(Kind::file): file, byte or tensor, expected, found.
/// At most 65,536 tensors a file, 8 dimensions, 512 bytes a name. Refusing a file of n bytes takes at most 16 MiB + 2 n of
/// memory and linear time. One thread at a time.
class TensorFiles {
 public:
  /// The front door: the content decides, not the name. A safetensors, .npy, .npz or PyTorch file, an index.json of shards, or a
  /// folder that holds model.safetensors, pytorch_model.bin, their index, or one single file of weights.
  explicit TensorFiles(const std::string& path);

  const std::string& path() const { return path_; }
  /// "safetensors", "npy", "npz" or "PyTorch"; of shards, that of the first file.
  const char* format() const { return format_; }
  /// All tensors, in name order.
  const TensorMap& tensors() const { return tensors_; }
  bool has(std::string_view name) const { return tensors_.find(name) != tensors_.end(); }
  /// Throws Error(Kind::file) when there is no such tensor.
  const TensorInfo& info(std::string_view name) const;
  /// The __metadata__ of safetensors; of shards, that of the first file.
  const Metadata& metadata() const { return metadata_; }
  std::vector<std::string> files() const;

  /// Reads one tensor. F32, BF16, F64, I32 as they are; F16 becomes f32; I64 becomes i32 and throws when a value does not fit.
  /// Other types throw; bytes() gives them raw.
  Tensor load(std::string_view name) const { return load(info(name), name); }
  Tensor load(const TensorInfo&, std::string_view name) const;
  /// Reads into an existing tensor of the same shape, of any strides, converting to its dtype. Bytes go from the file to `to`
  /// when the dtypes agree and it is contiguous, else by way of a few MiB.
  void load_into(std::string_view name, const Tensor& to) const { load_into(info(name), name, to); }
  void load_into(const TensorInfo&, std::string_view name, const Tensor& to) const;
  std::vector<uint8_t> bytes(std::string_view name) const { return bytes(info(name)); }
  std::vector<uint8_t> bytes(const TensorInfo&) const;
  /// Whether two tensors have the same dtype, shape and bytes; reads them in pieces.
  bool same(std::string_view a, std::string_view b) const;

 protected:
  enum class Accept { all, safetensors };
  TensorFiles(const std::string& path, Accept);

 private:
  struct Source {
    InputFile file;
    std::vector<ZipMember> members;
    mutable std::vector<bool> checked;  // members whose checksum was found right
    Source(InputFile f, std::vector<ZipMember> m) : file(std::move(f)), members(std::move(m)), checked(members.size()) {}
  };

  void open(const std::string& path);
  void open_folder(const std::string& path);
  void open_index(const std::string& path);
  void add_file(const std::string& path);
  TensorList list(const InputFile&);
  void read(const TensorInfo&, std::span<uint8_t> to) const;
  std::span<const uint8_t> unpacked(const Source&, int32_t member) const;

  std::string path_;
  Accept accept_ = Accept::all;
  const char* format_ = "safetensors";
  std::vector<Source> sources_;
  TensorMap tensors_;
  Metadata metadata_;
  mutable std::vector<uint8_t> unpacked_;  // the packed member read last
  mutable const ZipMember* unpacked_member_ = nullptr;
};

/// Bytes an element of a type of the format takes; 0 when there is no such type.
uint64_t bytes_of_type(std::string_view dtype);
/// shape x dtype in bytes; false when the product does not fit, also where a size of zero hides it.
bool checked_bytes(const Shape&, std::string_view dtype, uint64_t& bytes);
/// "F32", "BF16", "F64", "I32".
const char* safetensors_dtype(DType);

inline constexpr uint64_t max_tensors = 65'536, max_name_bytes = 512;

}  // namespace facet

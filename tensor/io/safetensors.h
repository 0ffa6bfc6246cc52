// safetensors: named tensors in a file. Eight bytes with the header's length N (little-endian), N bytes of JSON
//   {"name": {"dtype": "BF16", "shape": [4, 8], "data_offsets": [0, 64]}, ..., "__metadata__": {"key": "text"}}
// and the data, row-major, offsets relative to byte 8 + N. A model in several files has beside them
// model.safetensors.index.json = {"metadata": {...}, "weight_map": {"name": "file"}}.
#pragma once
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "tensor/io/tensor_files.h"
#include "tensor/io/tensor_source.h"

namespace facet {

/// The tensors of one file. Rules beyond the format note: at most 100,000,000 header bytes; data covered without hole or overlap.
TensorList list_safetensors(const InputFile&);

/// What must be safetensors and nothing else: one file, an .index.json, or a folder that holds model.safetensors or its index.
class Safetensors : public TensorFiles {
 public:
  explicit Safetensors(const std::string& path) : TensorFiles(path, Accept::safetensors) {}
};

/// CRC-32C of every tensor's bytes, by name.
using TensorSums = std::map<std::string, uint32_t>;

/// Writes one file, tensor by tensor, durably (tensor/io/durable.h). Tensors stand in the order of the reference library (wider
/// dtypes first, then by name), each aligned to its size; the header is padded to 8 bytes. Dtype and shape must be as announced.
TensorSums save_safetensors(const std::string& path, std::vector<TensorSpec>, const TensorSource&, const Metadata& = {});
TensorSums save_safetensors(const std::string& path, std::span<const std::pair<std::string, Tensor>>, const Metadata& = {});

/// Writes <stem>.safetensors, or shards of at most `shard_bytes` (one tensor at least) in the given order with their index.
TensorSums save_sharded(const std::string& folder, const std::string& stem, const std::vector<TensorSpec>&, const TensorSource&,
                        const Metadata& = {}, uint64_t shard_bytes = 5'000'000'000);

}  // namespace facet

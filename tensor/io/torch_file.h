// What torch.save writes since PyTorch 1.6 (.pt, .pth, .bin, .ckpt): a zip archive <root>/ with a pickle data.pkl, which says how
// tensors lie in storages, and the storages data/0, data/1, ... as raw bytes. Tensors are listed under their path through dicts and
// lists, joined by dots; whatever else the pickle holds (numbers, texts, options of a trainer) is passed over. Several tensors may
// lie in one storage, with any strides. Nothing is executed: see pickle.h.
// Source: torch/serialization.py, torch/_utils.py.
#pragma once
#include <string_view>

#include "tensor/io/tensor_files.h"

namespace facet {

/// Whether the members are those of a PyTorch file.
bool is_torch(const std::vector<ZipMember>&);
TensorList list_torch(const InputFile&, std::vector<ZipMember>);
/// Throws Error(Kind::file) when the first bytes are those of the formats before 1.6, plain pickles and tar archives.
void refuse_old_torch(const std::string& path, std::string_view begin);

}  // namespace facet

// Zip archives and PyTorch files for tests, as bytes: good ones, and any way of breaking them.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "tensor/tensor.h"

namespace facet::test {

std::string little(uint64_t value, int bytes);

/// A member as both of its headers tell it; tests change what they want broken.
struct ZipEntry {
  std::string name, data;        ///< the bytes in the file
  uint64_t size = 0;             ///< unpacked
  uint32_t crc = 0;
  uint16_t flags = 0, method = 0;
  uint32_t attributes = 0;       ///< in the directory alone
  std::string extra = {};        ///< of the local header
  std::string after = {};        ///< between the data and what comes next
  /// What the header before the data says; by default what the directory says.
  std::string local_name = name;
  uint32_t local_crc = crc;
  uint64_t local_size = size;
  uint16_t local_flags = flags, local_method = method;
  int64_t shift = 0;             ///< added to the place that the directory gives
};
ZipEntry stored(const std::string& name, const std::string& data);
ZipEntry deflated(const std::string& name, const std::string& data);
std::string zip_of(const std::vector<ZipEntry>&);

/// A pickle's instructions, spelled by what they build.
namespace pickle {
std::string text(const std::string&);
std::string integer(int64_t);
std::string global(const std::string& module, const std::string& name);
std::string tuple(const std::vector<std::string>&);
std::string dict(const std::vector<std::pair<std::string, std::string>>&);
/// A call of _rebuild_tensor_v2 on storage `key` of `elements`.
std::string tensor(const std::string& type, const std::string& key, int64_t elements, int64_t offset, const std::vector<int64_t>& size,
                   const std::vector<int64_t>& stride);
std::string program(const std::string& value);  ///< with PROTO and STOP
}  // namespace pickle

/// data.pkl, byteorder and the storages, below "model/".
std::string torch_of(const std::string& pickle, const std::vector<std::string>& storages);
/// A state dict of these tensors in f32; unless `below` is "", under that key of a trainer's dict.
std::string torch_of(const std::map<std::string, Tensor>&, const std::string& below = "");

}  // namespace facet::test

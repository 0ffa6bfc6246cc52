#include "tensor/io/tensor_source.h"

#include <map>
#include <set>

#include "tensor/io/tensor_files.h"
#include "tensor/io/text.h"

namespace facet {

std::vector<TensorSpec> specs_of(NamedTensorSpan tensors) {
  std::vector<TensorSpec> specs;
  for (const auto& [name, tensor] : tensors) specs.push_back({name, tensor.dtype(), tensor.shape()});
  return specs;
}

TensorSource source_of(NamedTensorSpan tensors) {
  return [by_name = std::map<std::string, Tensor>(tensors.begin(), tensors.end())](const std::string& name) { return by_name.at(name); };
}

uint64_t bytes_of(const TensorSpec& s) { return static_cast<uint64_t>(s.shape.numel() * size_of(s.dtype)); }

uint64_t bytes_of(const std::vector<TensorSpec>& specs) {
  uint64_t n = 0;
  for (const TensorSpec& s : specs) n += bytes_of(s);
  return n;
}

void check_names(const std::string& path, const std::vector<TensorSpec>& specs) {
  std::set<std::string_view> names;
  for (const TensorSpec& s : specs) {
    if (s.name.empty() || s.name.size() > max_name_bytes || s.name == "__metadata__" || invalid_utf8(s.name) != s.name.npos)
      fail(Kind::usage, "{}: \"{}\" cannot be a tensor's name", path, printable(s.name));
    if (!names.insert(s.name).second) fail(Kind::usage, "{}: two tensors are called \"{}\"", path, printable(s.name));
  }
}

Tensor take(const std::string& path, const TensorSpec& s, const TensorSource& source) {
  const Tensor t = source(s.name).to(Device::cpu).dense();
  if (t.dtype() != s.dtype || !(t.shape() == s.shape))
    fail(Kind::usage, "{}: tensor \"{}\" was announced as {} {} and came as {} {}", path, s.name, name_of(s.dtype), to_string(s.shape),
         name_of(t.dtype()), to_string(t.shape()));
  return t;
}

}  // namespace facet

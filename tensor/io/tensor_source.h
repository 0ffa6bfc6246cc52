// What writers of named tensors have in common: tensors are announced first, because headers stand in front of the data, and come
// one by one, so that a model of any size passes through the memory of its largest tensor.
#pragma once
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "tensor/tensor.h"

namespace facet {

/// What a writer must know before the data come.
struct TensorSpec {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;
};
/// Delivers the tensor of a spec; called once for each, in the order of the file, and dropped after it is written.
using TensorSource = std::function<Tensor(const std::string& name)>;

using NamedTensorSpan = std::span<const std::pair<std::string, Tensor>>;
/// Of tensors that are there.
std::vector<TensorSpec> specs_of(NamedTensorSpan);
TensorSource source_of(NamedTensorSpan);

uint64_t bytes_of(const TensorSpec&);
uint64_t bytes_of(const std::vector<TensorSpec>&);
/// Throws Error(Kind::usage) for names that our readers refuse, and for two that are equal.
void check_names(const std::string& path, const std::vector<TensorSpec>&);
/// The tensor of a spec, dense and on the CPU; throws Error(Kind::usage) when it is not what was announced.
Tensor take(const std::string& path, const TensorSpec&, const TensorSource&);

}  // namespace facet

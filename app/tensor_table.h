// What is in a file of tensors, from its headers alone: for `facet inspect model` and `facet inspect file`.
#pragma once
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "app/console.h"
#include "tensor/io/tensor_files.h"

namespace facet::app {

struct TensorTable {
  const TensorFiles& file;
  std::string match;  ///< only tensors whose name holds this
  bool all = false;   ///< one line for each; else tensors that differ in a number only share one

  void print(Console&) const;
  nlohmann::ordered_json json() const;
};

}  // namespace facet::app

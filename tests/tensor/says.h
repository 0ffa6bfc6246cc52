// What is said of a file of tensors; empty when it is read to the last byte.
#pragma once
#include <catch2/catch.hpp>

#include "tensor/io/tensor_files.h"

namespace facet::test {

inline std::string says(const std::string& path) {
  try {
    const TensorFiles f(path);
    for (const auto& [name, info] : f.tensors()) f.bytes(name);
  } catch (const Error& e) {
    CHECK(e.kind() == Kind::file);
    return e.what();
  }
  return "";
}

}  // namespace facet::test

// What there is to say about the GPU, for people and for records.
#pragma once
#include <string>
#include <utility>
#include <vector>

namespace facet::app {

/// "gpu" with name, compute capability and memory, "gpu driver", "cublaslt", ..; without one "gpu" says why.
std::vector<std::pair<std::string, std::string>> gpu_facts();

}  // namespace facet::app

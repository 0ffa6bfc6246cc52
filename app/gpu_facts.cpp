#include "app/gpu_facts.h"

#include "tensor/error.h"
#include "tensor/gpu/cudnn_graph.h"
#include "tensor/gpu/lt.h"
#include "tensor/gpu/runtime.h"
#include "tensor/io/durable.h"

namespace facet::app {

std::vector<std::pair<std::string, std::string>> gpu_facts() {
  std::vector<std::pair<std::string, std::string>> facts;
  if (gpu::available()) {
    const gpu::DeviceInfo& d = gpu::device();
    facts = {{"gpu", fmt::format("{}, compute capability {}.{}, {} multiprocessors, {} of {} free", d.name, d.major, d.minor, d.processors,
                                 human_bytes(gpu::free_bytes()), human_bytes(d.total_bytes))},
             {"gpu driver", fmt::format("serves CUDA {}, runtime {}", d.driver, d.runtime)}};
  } else {
    facts = {{"gpu", "none: " + gpu::why_not()}};
  }
  // A library that is found but does not start has a version too: without a GPU that is all one can know of it.
  const auto library = [](const std::string& version, const std::string& why_not) {
    if (why_not.empty() || (!version.empty() && !gpu::available())) return version;
    return why_not;
  };
  facts.emplace_back("cublaslt", library(gpu::lt_version(), gpu::lt_why_not()));
  facts.emplace_back("cudnn", library(gpu::cudnn_version(), gpu::cudnn_library_why_not()));
  return facts;
}

}  // namespace facet::app

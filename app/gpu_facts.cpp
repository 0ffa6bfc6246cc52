#include "app/gpu_facts.h"

#include "tensor/error.h"
#include "tensor/gpu/cudnn_graph.h"
#include "tensor/gpu/lt.h"
#include "tensor/gpu/runtime.h"
#include "tensor/io/durable.h"

namespace facet::app {

std::vector<std::pair<std::string, std::string>> gpu_facts() {
  if (!gpu::available()) return {{"gpu", "none: " + gpu::why_not()}};
  const gpu::DeviceInfo& d = gpu::device();
  return {{"gpu", fmt::format("{}, compute capability {}.{}, {} multiprocessors, {} of {} free", d.name, d.major, d.minor, d.processors,
                              human_bytes(gpu::free_bytes()), human_bytes(d.total_bytes))},
          {"gpu driver", fmt::format("serves CUDA {}, runtime {}", d.driver, d.runtime)},
          {"cublaslt", gpu::lt_why_not().empty() ? gpu::lt_version() : gpu::lt_why_not()},
          {"cudnn", gpu::cudnn_library_why_not().empty() ? gpu::cudnn_version() : gpu::cudnn_library_why_not()}};
}

}  // namespace facet::app

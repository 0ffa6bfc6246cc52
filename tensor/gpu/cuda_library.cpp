#include "tensor/gpu/cuda_library.h"

#include <dlfcn.h>

#include "tensor/error.h"

namespace facet::gpu {

CudaLibrary::CudaLibrary(std::initializer_list<const char*> names) {
  const std::string toolkit = FACET_CUDA_LIBRARIES;
  for (const std::string& folder : {std::string(), toolkit.empty() ? toolkit : toolkit + "/"})
    for (const char* name : names) {
      if (handle_) return;
      handle_ = dlopen((folder + name).c_str(), RTLD_NOW | RTLD_LOCAL);
      if (const char* e = dlerror(); e && !handle_) why_not_ = fmt::format("does not load ({})", e);
      else why_not_.clear();
    }
}

void* CudaLibrary::find(const char* name) {
  void* found = handle_ ? dlsym(handle_, name) : nullptr;
  if (!found && why_not_.empty()) why_not_ = fmt::format("has no function {}", name);
  return found;
}

std::string version_text(size_t v) { return fmt::format("{}.{}.{}", v / 10000, v / 100 % 100, v % 100); }

}  // namespace facet::gpu

#include "tensor/gpu/device_error.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "tensor/error.h"
#include "tensor/kernels/door.h"

namespace facet::gpu {

std::string after_operation() {
  const std::string last = last_gpu_operation();
  return last.empty() ? last : " The last operation was " + last + ".";
}

void fail_call(const char* op, const std::string& call, const char* text, const char* name, Failure failure) {
  fail(failure == Failure::memory ? Kind::memory : Kind::environment, "{}: {} failed: {} ({}).{}{}", op ? op : "the GPU", call, text, name,
       after_operation(),
       failure == Failure::lost ? " The GPU is lost to this run, perhaps by an earlier operation: run again with FACET_GPU_SYNC=1 to learn which. "
                                  "The last checkpoint is intact."
                                : "");
}

void warn(const std::string& what) { std::fprintf(stderr, "facet: warning: %s\n", what.c_str()); }

bool waits_for_launches() {
  static const bool waits = [] {
    const char* word = std::getenv("FACET_GPU_SYNC");
    return word && std::strcmp(word, "0") != 0;
  }();
  return waits;
}

}  // namespace facet::gpu

#include "tensor/gpu/overlap.h"

#include <cstdlib>
#include <string>
#include <utility>

#include "tensor/error.h"
#include "tensor/gpu/device_error.h"
#include "tensor/gpu/runtime.h"

namespace facet::gpu {
namespace {
bool plain = false;
}

PlainLaunches::PlainLaunches(bool on) : before_(std::exchange(plain, plain || on)) {}
PlainLaunches::~PlainLaunches() { plain = before_; }

bool overlaps_launches() {
  static const bool wanted = [] {
    const char* word = std::getenv("FACET_GPU_OVERLAP");
    const std::string w = word ? word : "1";
    if (w != "0" && w != "1") fail(Kind::usage, "FACET_GPU_OVERLAP={}: expected 0 or 1", w);
    return w == "1" && !waits_for_launches();
  }();
  return wanted && !plain && device().major >= 9;
}

}  // namespace facet::gpu

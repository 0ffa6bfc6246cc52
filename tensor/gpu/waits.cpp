#include "tensor/gpu/waits.h"

#include <utility>

#include "tensor/error.h"
#include "tensor/gpu/runtime.h"

namespace facet::gpu {
namespace {
bool forbidden = false;
int64_t count = 0;
}  // namespace

int64_t syncs() { return count; }
void assert_no_sync(bool on) { forbidden = on; }

NoSync::NoSync(bool on) : before_(std::exchange(forbidden, forbidden || on)) {}
NoSync::~NoSync() { forbidden = before_; }
MaySync::MaySync() : before_(std::exchange(forbidden, false)) {}
MaySync::~MaySync() { forbidden = before_; }

void about_to_wait(const char* op, const char* call) {
  if (forbidden) fail(Kind::check, "after \"{}\", {} waits for the GPU where no wait is documented (--assert-no-sync)", op, call);
  ++count;
}

}  // namespace facet::gpu

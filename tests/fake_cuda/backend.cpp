// What stands between the emulated kernels and tensor/gpu/cuda/runtime.cpp: their launches go through launch_raw(), as
// those of nvcc's kernels do, and run on the emulator's fibers when their turn comes.
#include <memory>

#include "tensor/gpu/emulator/memory.h"
#include "tensor/gpu/emulator/scheduler.h"
#include "tensor/gpu/runtime.h"
#include "tests/fake_cuda/fake_cudart.h"

namespace facet::gpu {

void emulate(bool) {}  // it is there
const void* probe_kernel() { return nullptr; }
const char* built_for() { return "9.0"; }

namespace emulator {

Settings settings() {
  static const Settings s = [] {
    const char* words = std::getenv("FACET_EMULATOR");
    return parse_settings(words ? words : "");
  }();
  return s;
}

void enqueue(const Launch& launch) {
  if (launch.shared_bytes > 48 * 1024) allow_shared(launch.op, nullptr, launch.shared_bytes);
  const std::shared_ptr<void> closure(launch.closure, launch.destroy);  // of replays, too
  const test::cuda::Kernel kernel = [launch, closure] {
    const Access access(launch.op);
    run(launch, settings());
    check_guards(launch.op);
  };
  void* args[] = {const_cast<test::cuda::Kernel*>(&kernel), nullptr};
  launch_raw(nullptr, launch.overlapped, {launch.grid.x, launch.grid.y, launch.grid.z}, {launch.block.x, launch.block.y, launch.block.z}, launch.shared_bytes, args);
}

}  // namespace emulator
}  // namespace facet::gpu

// The functions of the CUDA runtime that tensor/gpu/cuda/runtime.cpp calls, for machines without a driver. A device with one queue a stream, which
// does nothing before the host waits for it; so what is read or freed too early is wrong every time. The rules of stream capture are kept as the
// programming guide has them: what waits is refused and spoils the capture, and so is what the guide calls potentially unsafe (cudaMalloc,
// cudaFree) unless the capture is a relaxed one. Kernels run on the emulator.
//
// FACET_FAKE_CUDA, at the start: capability_8 | other_device | taken | lost_at=N | refused_at=N (launches)
#pragma once
#include <cstdint>
#include <functional>

namespace facet::test::cuda {

/// What was asked of the driver since the start.
struct Calls {
  int64_t mallocs = 0, frees = 0, launches = 0, graphs = 0, replays = 0;
  int64_t refused = 0;  ///< calls that a capture does not allow
  int64_t overlapped = 0, overlapped_in_graphs = 0;  ///< launches that may begin before what is in front of them has ended
  int64_t overlapped_with_nothing = 0;               ///< those of them that are behind no kernel
};
const Calls& calls();

/// The n-th launch from now is refused as one with too many threads is, and harms nothing; 0: none.
void refuse_launch(int64_t n);
/// The n-th launch from now breaks the device, as an illegal address does: every later call says so; 0: the device is whole.
void break_launch(int64_t n);

/// The only argument of a kernel that is launched: what it does.
using Kernel = std::function<void()>;

}  // namespace facet::test::cuda

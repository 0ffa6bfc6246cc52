// Starting a kernel: launch("rms_norm", kernel<float>, grid, block, shared_bytes, args...). It runs on the current stream after what was
// launched before it; a launch the device refuses throws Error naming the operation. Arguments are converted to the kernel's parameters.
#pragma once
#include "tensor/gpu/device.h"
#include "tensor/gpu/runtime.h"

namespace facet::gpu {

namespace detail {
#ifdef __CUDACC__
template <class... P, class... A>
void start(const char* op, bool overlapped, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, A... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  const LaunchScope scope(op);
  if (shared_bytes > 48 * 1024) allow_shared(op, reinterpret_cast<const void*>(kernel), shared_bytes);
  [&](P... p) {
    void* pointers[] = {static_cast<void*>(&p)..., nullptr};
    launch_raw(reinterpret_cast<const void*>(kernel), overlapped, {grid.x, grid.y, grid.z}, {block.x, block.y, block.z}, shared_bytes, pointers);
  }(static_cast<P>(args)...);
}
#else
template <class... P, class... A>
void start(const char* op, bool overlapped, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, A... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  const LaunchScope scope(op);
  emulator::enqueue(op, overlapped, grid, block, shared_bytes, [kernel, ... p = static_cast<P>(args)] { kernel(p...); });
}
#endif
}  // namespace detail

template <class... P, class... A>
void launch(const char* op, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, A... args) {
  detail::start(op, false, kernel, grid, block, shared_bytes, args...);
}

/// The same for a kernel that may begin while the one before it still runs (programmatic dependent launch), so that no gap lies between the two;
/// a plain launch unless overlaps_launches(). Each of its threads calls wait_for_previous() before it touches device memory, reading or
/// writing, and before its first collective; until then it may only hint_to_l2().
///
/// That is all the order there is between such kernels, and it is enough: every thread of a kernel waits until the one before is done with all it
/// has written, so a kernel ends after the one before, and that after the one before it: waiting for one is waiting for all. What is
/// launched plainly begins when everything before it has ended. So two kernels of a stream never touch memory at the same time, as without overlap.
template <class... P, class... A>
void launch_overlapping(const char* op, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, A... args) {
  detail::start(op, overlaps_launches(), kernel, grid, block, shared_bytes, args...);
}

/// launch_overlapping() where a pass has so few rows as one of decoding, whose kernels are short. In longer ones no gap counts.
inline constexpr int64_t overlapped_rows = 256;
template <class... P, class... A>
void launch_for_rows(int64_t rows, const char* op, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, A... args) {
  detail::start(op, rows <= overlapped_rows && overlaps_launches(), kernel, grid, block, shared_bytes, args...);
}

/// Blocks of `each` items that cover n, as a grid dimension; grid-stride loops take the rest when there are more than `most`.
FACET_INLINE unsigned blocks_for(int64_t n, int64_t each, int64_t most = 1 << 20) {
  const int64_t b = (n + each - 1) / each;
  return static_cast<unsigned>(b < most ? b : most);
}

}  // namespace facet::gpu

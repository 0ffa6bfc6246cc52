// Starting a kernel: launch("rms_norm", kernel<float>, grid, block, shared_bytes, args...). It runs on the current stream after what was
// launched before it; a launch the device refuses throws Error naming the operation. Arguments are converted to the kernel's parameters.
#pragma once
#include "tensor/gpu/device.h"
#include "tensor/gpu/runtime.h"

namespace facet::gpu {

#ifdef __CUDACC__
template <class... P, class... A>
void launch(const char* op, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, A... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  const LaunchScope scope(op);
  if (shared_bytes > 48 * 1024) allow_shared(op, reinterpret_cast<const void*>(kernel), shared_bytes);
  [&](P... p) {
    void* pointers[] = {static_cast<void*>(&p)..., nullptr};
    launch_raw(reinterpret_cast<const void*>(kernel), {grid.x, grid.y, grid.z}, {block.x, block.y, block.z}, shared_bytes, pointers);
  }(static_cast<P>(args)...);
}
#else
template <class... P, class... A>
void launch(const char* op, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, A... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  const LaunchScope scope(op);
  emulator::enqueue(op, grid, block, shared_bytes, [kernel, ... p = static_cast<P>(args)] { kernel(p...); });
}
#endif

/// Blocks of `each` items that cover n, as a grid dimension; grid-stride loops take the rest when there are more than `most`.
FACET_INLINE unsigned blocks_for(int64_t n, int64_t each, int64_t most = 1 << 20) {
  const int64_t b = (n + each - 1) / each;
  return static_cast<unsigned>(b < most ? b : most);
}

}  // namespace facet::gpu

// The one door to the CUDA runtime: what device there is, its memory, copies, and the stream everything runs on. No type of CUDA's appears
// here. Two libraries define these functions: cuda/runtime.cpp, and emulator/runtime.cpp, which needs no GPU. Which of them a program
// has is decided when it is linked.
//
// Everything runs in order on one stream, so memory that was freed may be handed out again at once. Whatever makes the host wait says so
// and is counted; with assert_no_sync(true) it throws instead.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

#include "tensor/scratch.h"

namespace facet::gpu {

struct DeviceInfo {
  std::string name;
  int major = 0, minor = 0;       ///< compute capability
  int processors = 0;             ///< streaming multiprocessors
  size_t total_bytes = 0;
  size_t shared_bytes = 0;        ///< most shared memory of a block
  std::string driver, runtime;    ///< versions
  bool emulated = false;
};

/// Empty when --device cuda works; else the cause and what to do, one sentence each. The first call starts the driver.
const std::string& why_not();
inline bool available() { return why_not().empty(); }
/// Throws Error(Kind::environment) with why_not() unless available.
const DeviceInfo& device();
size_t free_bytes();

// ---- memory (tensor/gpu/pool.h is what everybody uses)
/// Null when the device is out of memory.
void* device_malloc(size_t bytes);
void device_free(void*) noexcept;

// ---- copies and the stream
/// The source may be reused when the call returns.
void copy_to_device(void* to, const void* from, size_t bytes);
/// Waits for everything before it.
void copy_to_host(void* to, const void* from, size_t bytes);
void copy_on_device(void* to, const void* from, size_t bytes);
void fill_bytes(void* to, int value, size_t bytes);
/// Waits until the device has done all.
void synchronize();
/// How often the host waited since the start.
int64_t syncs();
void assert_no_sync(bool on);

/// The operation that is being launched, for messages and profiles.
class LaunchScope {
 public:
  explicit LaunchScope(const char* op);
  ~LaunchScope();
  LaunchScope(const LaunchScope&) = delete;

 private:
  const char* before_;
};

/// Whether kernels may begin while those before them end: from compute capability 9.0 on, unless FACET_GPU_OVERLAP=0, FACET_GPU_SYNC or PlainLaunches
/// (overlap.h) says otherwise. Graphs stay as they were recorded.
bool overlaps_launches();

// ---- for launch.h
struct Size3 {
  unsigned x, y, z;
};
/// `overlapped`: it may begin before the launch in front of it has ended; launch_overlapping() says what that takes.
void launch_raw(const void* kernel, bool overlapped, Size3 grid, Size3 block, size_t shared_bytes, void** args);
void allow_shared(const char* op, const void* kernel, size_t bytes);

/// The stream as the libraries of CUDA want it (cudaStream_t); emulated: null.
void* stream();

// ---- captured graphs (tensor/gpu/graph.h is what everybody uses)
/// True between begin_capture and end_capture: launches are recorded, not run; copies from and to the host throw.
bool capturing();
void begin_capture();
/// The recorded graph, ready to replay; null when not kept, or when nothing was launched.
void* end_capture(bool keep);
void replay(void* graph);
void destroy_graph(void* graph) noexcept;

// ---- time on the device
class Timer {
 public:
  Timer();
  ~Timer();
  Timer(const Timer&) = delete;
  void start();
  double seconds();  ///< since start(), of the device; waits

 private:
  void *begin_, *end_;
};

}  // namespace facet::gpu

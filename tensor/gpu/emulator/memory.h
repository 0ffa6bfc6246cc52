// The emulated device's memory: buffers that begin as NaN, between guards. The host cannot touch them but through the runtime: reading or
// writing through a device pointer, which a real GPU punishes too, ends the program with the buffer's name. (Not under the sanitizers: there
// buffers are pieces of heap, so that every byte past an end is seen.)
#pragma once
#include <cstddef>
#include <cstdint>

namespace facet::gpu::emulator {

inline constexpr size_t device_bytes = size_t{16} << 30;

/// In this scope, that of a kernel named `user` (a literal), the memory can be read and written where its pointers point to.
class Access {
 public:
  explicit Access(const char* user);
  ~Access();
  Access(const Access&) = delete;
};
/// Within an Access: whether kernels may touch the memory. Not under the sanitizers, and only once there is a buffer.
void open_to_kernels(bool open);
/// Where the runtime itself always sees these bytes, for copies.
char* seen(const void*);

/// Null when the device is out of memory.
void* new_buffer(size_t bytes);
bool is_buffer(const void*);
void delete_buffer(void*) noexcept;

struct MemoryCounters {
  int64_t live_buffers;
  size_t live_bytes;
  int64_t allocations;  ///< since the start
};
MemoryCounters memory_counters();

/// Whether bytes [p, p + bytes) are within one live buffer.
bool in_buffer(const void* p, size_t bytes);
/// Throws when they are not.
void check_in_buffer(const char* what, const void* p, size_t bytes);
/// Throws when something was written beside a buffer; once.
void check_guards(const char* op);

}  // namespace facet::gpu::emulator

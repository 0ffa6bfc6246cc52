// Device memory: refcounted blocks from size classes, like the CPU's (tensor/storage.h), so that from the second step on nothing is asked
// of the driver. All work runs in order on one stream, so a freed block may be handed out at once.
#pragma once
#include <cstddef>
#include <string>
#include <vector>

#include "tensor/storage.h"

namespace facet::gpu {

/// Device memory, aligned to 256 bytes. Throws Error(Kind::memory) with the table of live buffers when the device has no more.
void* pool_alloc(size_t bytes, const Purpose&);
void pool_free(void*) noexcept;

PoolStats pool_stats();
void pool_reset_peak();
/// Gives the free blocks back to the driver.
void pool_trim();
/// Refuses to hold more than this; 0 = no limit.
void pool_set_limit(size_t bytes);
/// The live buffers by purpose and size, largest first.
std::string live_buffers();
/// The purpose of the live buffer that holds this address, and which of its bytes it is; empty when there is none.
std::string describe_live_buffer(const void*);

/// For tests: while one lives, every allocation is one of its own between two sentinels of 1 KB, and starts as NaN (0xff). So a write beside
/// a buffer is noticed when the buffer is freed, and what was read before it was written shows.
class GuardScope {
 public:
  GuardScope();
  ~GuardScope();
  GuardScope(const GuardScope&) = delete;
};
/// A sentence for every buffer of a GuardScope whose sentinels were written to, since the last call.
std::vector<std::string> broken_sentinels();

/// A block for the duration of a scope: workspace of a kernel.
class Scratch {
 public:
  explicit Scratch(size_t bytes, const char* what = "workspace") : p_(pool_alloc(bytes, {what, {}, DType::f32})) {}
  ~Scratch() { pool_free(p_); }
  Scratch(const Scratch&) = delete;
  template <class T>
  T* as() const {
    return static_cast<T*>(p_);
  }

 private:
  void* p_;
};

/// Blocks of their own: what is allocated while an ArenaScope lives comes from the arena and returns to it, so the addresses a captured graph
/// refers to are given to nobody else. An arena grows by what lies idle in the pool, and all of it goes back to the pool when the arena does.
class Arena {
 public:
  Arena();
  ~Arena();
  Arena(const Arena&) = delete;
  size_t held_bytes() const;

 private:
  friend class ArenaScope;
  int id_;
};
class ArenaScope {
 public:
  explicit ArenaScope(const Arena&);
  ~ArenaScope();
  ArenaScope(const ArenaScope&) = delete;

 private:
  int before_;
};

}  // namespace facet::gpu

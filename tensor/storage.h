// Refcounted memory from a size-class pool. After the first steps of a training run the pool serves every request from its
// free lists: no system allocation, and a peak-byte counter that means something.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "tensor/scratch.h"
#include "tensor/view.h"

namespace facet {

struct PoolStats {
  size_t live_bytes;   ///< handed out now (rounded to classes)
  size_t peak_bytes;   ///< highest live_bytes since the last reset
  size_t held_bytes;   ///< taken from the system: live + free lists
  size_t sys_allocs;   ///< requests that went to the system
  size_t pool_allocs;  ///< requests in all
};
PoolStats pool_stats();
PoolStats pool_stats(Device);  ///< of that device's memory
void pool_reset_peak();
/// Gives the free lists back to the system.
void pool_trim();
/// Refuses to hold more than this; 0 = no limit.
void pool_set_limit(size_t bytes);

/// Base of intrusively counted objects.
struct Counted {
  std::atomic<int32_t> refs{0};
};

/// Intrusive pointer. `release(T*)` found by ADL is called when the count reaches zero.
template <class T>
class Ref {
 public:
  Ref() = default;
  explicit Ref(T* p) : p_(p) { take(); }
  Ref(const Ref& o) : p_(o.p_) { take(); }
  Ref(Ref&& o) noexcept : p_(std::exchange(o.p_, nullptr)) {}
  Ref& operator=(Ref o) noexcept {
    std::swap(p_, o.p_);
    return *this;
  }
  ~Ref() { drop(); }
  T* get() const { return p_; }
  T* operator->() const { return p_; }
  T& operator*() const { return *p_; }
  explicit operator bool() const { return p_ != nullptr; }
  int32_t count() const { return p_ ? p_->refs.load(std::memory_order_relaxed) : 0; }

 private:
  void take() {
    if (p_) p_->refs.fetch_add(1, std::memory_order_relaxed);
  }
  void drop() {
    if (p_ && p_->refs.fetch_sub(1, std::memory_order_acq_rel) == 1) release(p_);
  }
  T* p_ = nullptr;
};

struct Storage : Counted {
  void* data = nullptr;
  size_t bytes = 0;
  Device device = Device::cpu;
  uint32_t version = 0;  ///< counts writes through Tensor::out(); Saved compares it
  int64_t room = 0;      ///< elements behind each row that belong to no tensor yet (Tensor::with_room)
};
/// What memory is for: named in the table of live buffers when the GPU runs out of it.
struct Purpose {
  const char* what = "";  ///< a literal
  Shape shape;            ///< rank 0: not a tensor
  DType dtype = DType::f32;
};
Ref<Storage> new_storage(size_t bytes, const Purpose&, Device);
void release(Storage*) noexcept;

/// Plain bytes within one device.
void copy_bytes(Device, void* to, const void* from, size_t bytes);
void fill_bytes(Device, void* to, int value, size_t bytes);

/// What the autograd layer hangs on a tensor; tensor/ never looks inside. Objects die through a dead list, so that a chain of
/// any length is destroyed iteratively.
struct Opaque : Counted {
  Opaque* next_dead = nullptr;
  virtual ~Opaque() = default;
  static void* operator new(size_t bytes) { return pool_alloc(bytes); }
  static void operator delete(void* p) noexcept { pool_free(p); }
};
void release(Opaque*) noexcept;

}  // namespace facet

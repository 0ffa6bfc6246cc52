#include "tensor/storage.h"

#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>

#include "tensor/error.h"
#include "tensor/gpu/pool.h"
#include "tensor/gpu/runtime.h"
#include "tensor/size_classes.h"

namespace facet {
namespace {

constexpr size_t alignment = 64;
constexpr size_t header_bytes = 64;  // keeps the payload aligned; holds the class
struct Header {
  int size_class;
  Header* next;
};

struct Pool {
  std::mutex mutex;
  Header* free_list[size_classes::count] = {};
  PoolStats stats{};
  size_t limit = 0;

  // Returns every free block to the system.
  void trim() {
    for (int c = 0; c < size_classes::count; ++c) {
      while (Header* h = free_list[c]) {
        free_list[c] = h->next;
        stats.held_bytes -= size_classes::bytes_of(c);
        std::free(h);
      }
    }
  }
};

// Never destroyed: tensors in static storage may outlive any order of destruction.
Pool& pool() {
  static Pool* p = new Pool;
  return *p;
}

}  // namespace

void* pool_alloc(size_t bytes) {
  if (bytes > (size_t{1} << 46)) fail(Kind::memory, "memory: a request of {} bytes cannot be served", bytes);
  const int c = size_classes::class_of(bytes);
  const size_t size = size_classes::bytes_of(c);
  Pool& p = pool();
  std::lock_guard lock(p.mutex);
  ++p.stats.pool_allocs;
  Header* h = p.free_list[c];
  if (h) {
    p.free_list[c] = h->next;
  } else {
    if (p.limit && p.stats.held_bytes + size > p.limit) p.trim();
    if (p.limit && p.stats.held_bytes + size > p.limit)
      fail(Kind::memory, "memory: {} more bytes needed, {} of {} in use; try a smaller batch, --accum or --recompute block",
           size, p.stats.live_bytes, p.limit);
    h = static_cast<Header*>(std::aligned_alloc(alignment, (size + header_bytes + alignment - 1) / alignment * alignment));
    if (!h) {
      p.trim();
      h = static_cast<Header*>(std::aligned_alloc(alignment, (size + header_bytes + alignment - 1) / alignment * alignment));
    }
    if (!h)
      fail(Kind::memory, "memory: the system refused {} bytes with {} in use; try a smaller batch, --accum or --recompute block",
           size, p.stats.live_bytes);
    h->size_class = c;
    ++p.stats.sys_allocs;
    p.stats.held_bytes += size;
  }
  p.stats.live_bytes += size;
  if (p.stats.live_bytes > p.stats.peak_bytes) p.stats.peak_bytes = p.stats.live_bytes;
  return reinterpret_cast<char*>(h) + header_bytes;
}

void pool_free(void* ptr) noexcept {
  if (!ptr) return;
  Header* h = reinterpret_cast<Header*>(static_cast<char*>(ptr) - header_bytes);
  Pool& p = pool();
  std::lock_guard lock(p.mutex);
  p.stats.live_bytes -= size_classes::bytes_of(h->size_class);
  h->next = p.free_list[h->size_class];
  p.free_list[h->size_class] = h;
}

PoolStats pool_stats() {
  Pool& p = pool();
  std::lock_guard lock(p.mutex);
  return p.stats;
}

PoolStats pool_stats(Device device) { return device == Device::gpu ? gpu::pool_stats() : pool_stats(); }

void pool_reset_peak() {
  Pool& p = pool();
  std::lock_guard lock(p.mutex);
  p.stats.peak_bytes = p.stats.live_bytes;
}

void pool_trim() {
  Pool& p = pool();
  std::lock_guard lock(p.mutex);
  p.trim();
}

void pool_set_limit(size_t bytes) {
  Pool& p = pool();
  std::lock_guard lock(p.mutex);
  p.limit = bytes;
}

Ref<Storage> new_storage(size_t bytes, const Purpose& purpose, Device device) {
  void* data = device == Device::gpu ? gpu::pool_alloc(bytes, purpose) : pool_alloc(bytes);
  Storage* s = new (pool_alloc(sizeof(Storage))) Storage;
  s->data = data;
  s->bytes = bytes;
  s->device = device;
  return Ref<Storage>(s);
}

void release(Storage* s) noexcept {
  if (s->device == Device::gpu) gpu::pool_free(s->data);
  else pool_free(s->data);
  s->~Storage();
  pool_free(s);
}

void copy_bytes(Device device, void* to, const void* from, size_t bytes) {
  if (bytes == 0) return;
  if (device == Device::gpu) gpu::copy_on_device(to, from, bytes);
  else std::memcpy(to, from, bytes);
}

void fill_bytes(Device device, void* to, int value, size_t bytes) {
  if (bytes == 0) return;
  if (device == Device::gpu) gpu::fill_bytes(to, value, bytes);
  else std::memset(to, value, bytes);
}

void release(Opaque* o) noexcept {
  // Destroying one object may drop the last reference to the next; the list turns that recursion into a loop.
  thread_local Opaque* dead = nullptr;
  thread_local bool draining = false;
  o->next_dead = dead;
  dead = o;
  if (draining) return;
  draining = true;
  while (Opaque* d = dead) {
    dead = d->next_dead;
    delete d;
  }
  draining = false;
}

}  // namespace facet

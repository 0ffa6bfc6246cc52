// std::vector on the pool: for lists that live inside a training step, which may not ask the system for memory.
#pragma once
#include <vector>

#include "tensor/storage.h"

namespace facet {

template <class T>
struct PoolAllocator {
  using value_type = T;
  PoolAllocator() = default;
  template <class U>
  PoolAllocator(const PoolAllocator<U>&) {}
  T* allocate(size_t n) { return static_cast<T*>(facet::pool_alloc(n * sizeof(T))); }
  void deallocate(T* p, size_t) { facet::pool_free(p); }
  bool operator==(const PoolAllocator&) const { return true; }
};

template <class T>
using pool_vector = std::vector<T, PoolAllocator<T>>;

}  // namespace facet

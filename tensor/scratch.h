// Memory from the pool: the two functions everything stands on, and scratch for the duration of a kernel. Apart from storage.h
// because it may be included by code for foreign instruction sets (tensor/cpu/tier.h).
#pragma once
#include <cstddef>

#include "tensor/view.h"

namespace facet {

/// Memory from the pool, aligned to 64 bytes. Throws Error(Kind::memory) when the system or the limit refuses.
/// Sizes are rounded up to four classes per octave; freed blocks stay in the pool for the next request of the class.
void* pool_alloc(size_t bytes);
void pool_free(void* p) noexcept;

/// A block of the pool for the lifetime of a scope: kernel scratch.
class Scratch {
 public:
  FACET_INLINE explicit Scratch(size_t bytes) : p_(pool_alloc(bytes)) {}
  FACET_INLINE ~Scratch() { pool_free(p_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  template <class T>
  FACET_INLINE T* as() const {
    return static_cast<T*>(p_);
  }

 private:
  void* p_;
};

}  // namespace facet

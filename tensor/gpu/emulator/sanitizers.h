// What the sanitizers must be told about fibers. In a plain build all of it is empty.
//
// AddressSanitizer: where the stack is. ThreadSanitizer: each CUDA thread is a fiber of its own, and switching orders nothing; the order
// that CUDA promises is declared by release() and acquire() on some address. The files of this folder are compiled without
// -fsanitize=thread (FACET_EMULATOR_TSAN is defined instead): their own bookkeeping is no business of the race detector, and what a
// collective reads or writes on behalf of a lane is declared by touched().
#pragma once
#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(FACET_EMULATOR_TSAN)
extern "C" {
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void*);
void __tsan_switch_to_fiber(void*, unsigned flags);
void* __tsan_get_current_fiber();
void __tsan_acquire(void*);
void __tsan_release(void*);
void __tsan_read_range(void*, unsigned long);
void __tsan_write_range(void*, unsigned long);
void __tsan_func_entry(void*);
void __tsan_func_exit();
void AnnotateIgnoreReadsBegin(const char*, int);
void AnnotateIgnoreReadsEnd(const char*, int);
void AnnotateIgnoreWritesBegin(const char*, int);
void AnnotateIgnoreWritesEnd(const char*, int);
}
#endif

namespace facet::gpu::emulator {

#if defined(FACET_EMULATOR_TSAN)
inline constexpr bool race_detector = true;
inline void* new_fiber() { return __tsan_create_fiber(0); }
inline void free_fiber(void* f) { __tsan_destroy_fiber(f); }
inline void* this_fiber() { return __tsan_get_current_fiber(); }
inline void become_fiber(void* f) { __tsan_switch_to_fiber(f, 1); }  // 1: without ordering the two
inline void release(void* point) { __tsan_release(point); }
inline void acquire(void* point) { __tsan_acquire(point); }
inline void touched(const void* p, size_t bytes, bool write) {
  if (write) __tsan_write_range(const_cast<void*>(p), bytes);
  else __tsan_read_range(const_cast<void*>(p), bytes);
}
/// Puts the caller of a function of the emulator on the stack of race reports: the line in the kernel.
struct Frame {
  explicit Frame(void* return_address) { __tsan_func_entry(return_address); }
  ~Frame() { __tsan_func_exit(); }
};
/// The allocator and memset are seen even in files that are not instrumented: in this scope they are not.
struct Unseen {
  Unseen() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  ~Unseen() {
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
};
#else
inline constexpr bool race_detector = false;
inline void* new_fiber() { return nullptr; }
inline void free_fiber(void*) {}
inline void* this_fiber() { return nullptr; }
inline void become_fiber(void*) {}
inline void release(void*) {}
inline void acquire(void*) {}
inline void touched(const void*, size_t, bool) {}
struct Frame {
  explicit Frame(void*) {}
};
struct Unseen {
  Unseen() {}
};
#endif

#if defined(__SANITIZE_ADDRESS__)
inline constexpr bool address_sanitizer = true;
#else
inline constexpr bool address_sanitizer = false;
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(FACET_EMULATOR_TSAN)
inline constexpr bool sanitized = true;
#else
inline constexpr bool sanitized = false;
#endif

}  // namespace facet::gpu::emulator

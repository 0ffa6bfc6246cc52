// The twin of tensor/gpu/device_cuda.h for compilers that know no CUDA: the same names, on fibers. Included only through
// tensor/gpu/device.h, by every kernel, so it stays light; what is behind it is in scheduler.h.
#pragma once
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "tensor/view.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
// Of the thread that is running; set whenever another one gets its turn.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

// Each place has its own array per block: a heap block filled with NaN, between guards.
#define FACET_SHARED(type, name, dims)                                          \
  static char facet_shared_key_##name;                                          \
  auto& name = *static_cast<type(*) dims>(::facet::gpu::emulator::shared_array( \
      &facet_shared_key_##name, #name, sizeof(type dims), ::facet::gpu::Site::here()))
#define FACET_DYNAMIC_SHARED(type, name) type* const name = static_cast<type*>(::facet::gpu::emulator::dynamic_shared())

namespace facet::gpu {

/// A place in a kernel's source, for reports. As the default argument `Site site = Site::here()` it is the place of the call.
struct Site {
  const char* file;
  int line;
  static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }
};

namespace emulator {

void* shared_array(const void* key, const char* name, size_t bytes, Site);
void* dynamic_shared();

void block_barrier(Site);
void warp_barrier(uint32_t mask, Site);
enum class Shuffle : uint8_t { index, up, down, exclusive_or };
uint64_t shuffle(Shuffle kind, uint64_t value, int operand, int width, Site);
uint32_t vote(const char* name, bool mine, Site);
void fence();
void spin(Site);
void atomic_point();  ///< another thread may come first
void wait_for_previous(Site);
void hint(const void* p, size_t bytes, Site);

void copy_async(void* shared, const void* global, bool valid, Site);
void copy_async_commit();
void copy_async_wait(int still_under_way);

void ldmatrix(uint32_t* r, const void* row, bool transposed, Site);
void mma_m16n8k16(float* c, const uint32_t* a, const uint32_t* b, Site);

/// Bits of a value of up to 8 bytes, and back.
template <class T>
uint64_t to_bits(T v) {
  static_assert(std::is_trivially_copyable_v<T> && (sizeof(T) == 4 || sizeof(T) == 8), "shuffles move 4 or 8 bytes");
  uint64_t bits = 0;
  __builtin_memcpy(&bits, &v, sizeof(T));
  return bits;
}
template <class T>
T from_bits(uint64_t bits) {
  T v;
  __builtin_memcpy(&v, &bits, sizeof(T));
  return v;
}

/// A kernel with its arguments, waiting for its turn.
struct Launch {
  const char* op;
  bool overlapped;  ///< may begin before the one before it has ended, and waits for that itself
  dim3 grid, block;
  size_t shared_bytes;
  void* closure;
  void (*call)(void*);
  void (*destroy)(void*);
};
void enqueue(const Launch&);

template <class F>
void enqueue(const char* op, bool overlapped, dim3 grid, dim3 block, size_t shared_bytes, F body) {
  enqueue(Launch{op, overlapped, grid, block, shared_bytes, new F(static_cast<F&&>(body)), [](void* f) { (*static_cast<F*>(f))(); },
                 [](void* f) { delete static_cast<F*>(f); }});
}

}  // namespace emulator

template <class T, class A>
inline T narrow(A x) {
  if constexpr (std::is_same_v<T, bf16>) {
    const uint32_t u = __builtin_bit_cast(uint32_t, static_cast<float>(x));
    if ((u & 0x7fffffffu) > 0x7f800000u) return bf16{0x7fff};  // the one NaN that the hardware makes
    return bf16{static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16)};
  } else {
    return static_cast<T>(x);
  }
}

inline void sync_block(Site site = Site::here()) { emulator::block_barrier(site); }
inline void sync_warp(uint32_t mask = 0xffffffffu, Site site = Site::here()) { emulator::warp_barrier(mask, site); }

template <class T>
T shfl(T v, int lane, int width = 32, Site site = Site::here()) {
  return emulator::from_bits<T>(emulator::shuffle(emulator::Shuffle::index, emulator::to_bits(v), lane, width, site));
}
template <class T>
T shfl_xor(T v, int lane_mask, int width = 32, Site site = Site::here()) {
  return emulator::from_bits<T>(emulator::shuffle(emulator::Shuffle::exclusive_or, emulator::to_bits(v), lane_mask, width, site));
}
template <class T>
T shfl_down(T v, unsigned delta, int width = 32, Site site = Site::here()) {
  return emulator::from_bits<T>(emulator::shuffle(emulator::Shuffle::down, emulator::to_bits(v), static_cast<int>(delta), width, site));
}
template <class T>
T shfl_up(T v, unsigned delta, int width = 32, Site site = Site::here()) {
  return emulator::from_bits<T>(emulator::shuffle(emulator::Shuffle::up, emulator::to_bits(v), static_cast<int>(delta), width, site));
}
inline uint32_t ballot(bool p, Site site = Site::here()) { return emulator::vote("ballot", p, site); }
inline bool any(bool p, Site site = Site::here()) { return emulator::vote("any", p, site) != 0; }
inline bool all(bool p, Site site = Site::here()) { return emulator::vote("all", p, site) == 0xffffffffu; }
inline int first_lane(uint32_t lanes) { return __builtin_ffs(static_cast<int>(lanes)) - 1; }

inline void fence() { emulator::fence(); }
inline int32_t atomic_add(int32_t* p, int32_t v) {
  emulator::atomic_point();
  return __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
}
inline int32_t atomic_exchange(int32_t* p, int32_t v) {
  emulator::atomic_point();
  return __atomic_exchange_n(p, v, __ATOMIC_RELAXED);
}
/// Returns what was there.
inline int32_t atomic_cas(int32_t* p, int32_t expected, int32_t desired) {
  emulator::atomic_point();
  __atomic_compare_exchange_n(p, &expected, desired, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return expected;
}
inline int32_t atomic_max(int32_t* p, int32_t v) {
  emulator::atomic_point();
  int32_t old = __atomic_load_n(p, __ATOMIC_RELAXED);
  while (old < v && !__atomic_compare_exchange_n(p, &old, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
  return old;
}
inline int32_t atomic_min(int32_t* p, int32_t v) {
  emulator::atomic_point();
  int32_t old = __atomic_load_n(p, __ATOMIC_RELAXED);
  while (old > v && !__atomic_compare_exchange_n(p, &old, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
  return old;
}
inline void spin_pause(Site site = Site::here()) { emulator::spin(site); }

inline void copy_async16(void* shared, const void* global, bool valid, Site site = Site::here()) {
  emulator::copy_async(shared, global, valid, site);
}
inline void copy_async_commit() { emulator::copy_async_commit(); }
template <int n>
void copy_async_wait() {
  emulator::copy_async_wait(n);
}

inline void ldmatrix_x4(uint32_t (&r)[4], const void* row, Site site = Site::here()) { emulator::ldmatrix(r, row, false, site); }
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row, Site site = Site::here()) { emulator::ldmatrix(r, row, true, site); }
inline void mma_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Site site = Site::here()) {
  emulator::mma_m16n8k16(c, a, b, site);
}

// The accurate values; the hardware's are within 2 ulp of them.
inline float add_apart(float a, float b) { return a + b; }
inline float fast_exp2(float x) { return __builtin_exp2f(x); }
inline float fast_reciprocal(float x) { return 1.0f / x; }
inline float fast_rsqrt(float x) { return 1.0f / __builtin_sqrtf(x); }

inline void let_next_start() {}
inline void wait_for_previous(Site site = Site::here()) { emulator::wait_for_previous(site); }
inline void hint_to_l2(const void* p, size_t bytes, Site site = Site::here()) { emulator::hint(p, bytes, site); }

}  // namespace facet::gpu

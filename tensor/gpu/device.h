// What a kernel may use: the CUDA language, and these wrappers of its collectives. A .cu file includes this header (and launch.h) and no
// header of CUDA's.
//
// Two compilers read the same kernel. nvcc compiles it for the device. Any C++20 compiler compiles it against tensor/gpu/emulator/, where
// the threads of a block are fibers: barriers and shuffles are checked, shared memory starts poisoned, schedules are adversarial, and the
// sanitizers see every access. So a kernel's logic is tested on machines without a GPU.
//
// Rules (tests/gpu/rules_test.cpp reads the sources):
//   - collectives, atomics, PTX: only through this header. No <<<>>>, no plain __shared__, no raw __syncthreads or __shfl.
//   - shared memory: FACET_SHARED(float, tile, [32][33]) or FACET_DYNAMIC_SHARED(float, buffer) (one per kernel, 16-byte aligned).
//   - indices into device memory are 64-bit.
//   - no floating-point atomics: sums have a fixed order, so that results are the same bits in every run.
//   - threadIdx, blockIdx, blockDim, gridDim, __global__, __launch_bounds__ as in CUDA. Functions of
//     kernels are `__device__ inline`; pure formulas that both sides share are FACET_INLINE.
#pragma once
#include <cstddef>
#include <cstdint>

#include "tensor/math.h"
#include "tensor/view.h"

#ifdef __CUDACC__
#include "tensor/gpu/device_cuda.h"
#else
#include "tensor/gpu/emulator/device.h"
#endif

// Both headers define, in facet::gpu (each collective takes a last argument more, `Site site = Site::here()`: the place of the call, which
// the emulator's reports name; nothing under nvcc. A function of kernels around collectives hands its own caller's place on):
//
//   void sync_block();                                barrier of all threads of the block
//   void sync_warp(uint32_t mask = full_warp);
//   T shfl(T v, int lane, int width = 32);            T: 4 or 8 bytes. All 32 lanes of the warp must take part
//   T shfl_xor(T v, int lane_mask, int width = 32);   T shfl_down(T v, unsigned delta, int width = 32);   T shfl_up(...)
//   uint32_t ballot(bool);  bool any(bool);  bool all(bool);
//   int first_lane(uint32_t lanes);                   the lowest bit that is set; -1: none
//   void fence();                                     __threadfence: earlier writes are seen by other blocks before later ones
//   int32_t atomic_add(int32_t* p, int32_t v);        the old value; relaxed, device-wide. Also atomic_max, atomic_min,
//   int32_t atomic_exchange(...), atomic_cas(p, expected, desired);  p in global or shared memory
//   void spin_pause();                                in every loop that waits for another thread
//
//   void copy_async16(void* shared, const void* global, bool valid);   cp.async of 16 bytes, zeros when !valid (global not read then)
//   void copy_async_commit();  void copy_async_wait<n>();              at most n of this thread's committed groups are still under way
//
//   void ldmatrix_x4(uint32_t (&r)[4], const void* row);   ldmatrix.x4[.trans]: `row` is this lane's row of 8 bf16 in shared memory
//   void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row);
//   void mma_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);   m16n8k16, row.col, f32 accumulate: c += a b
//
//   float add_apart(float a, float b);   a + b, not contracted with a product that a or b is
//   float fast_exp2(float);   ex2.approx: 2 ulp         float fast_reciprocal(float);   1 ulp         float fast_rsqrt(float)
//   void let_next_start();      for kernels that launch_overlapping() starts (launch.h): the next one may begin now
//   void wait_for_previous();   until the kernel before this one is done and its writes are seen; at once in a plain launch
//   void hint_to_l2(const void* p, size_t bytes);   device memory that will be read soon: multiples of 16, bytes > 0. Only a hint

namespace facet::gpu {

inline constexpr uint32_t full_warp = 0xffffffffu;

/// N elements side by side, loaded and stored at once: 16 bytes is what the memory likes. The address must be a multiple of the size.
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T v[N];
  FACET_INLINE T& operator[](int i) { return v[i]; }
  FACET_INLINE const T& operator[](int i) const { return v[i]; }
};
template <class T, int N>
FACET_INLINE Pack<T, N> load_pack(const T* p) {
  return *reinterpret_cast<const Pack<T, N>*>(p);
}
template <class T, int N>
FACET_INLINE void store_pack(T* p, const Pack<T, N>& x) {
  *reinterpret_cast<Pack<T, N>*>(p) = x;
}
/// Elements of T in 16 bytes.
template <class T>
inline constexpr int pack_of = 16 / static_cast<int>(sizeof(T));
FACET_INLINE bool aligned16(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

/// bf16 <-> f32, to nearest even; NaN stays NaN.
FACET_INLINE float widen(bf16 x) { return __builtin_bit_cast(float, static_cast<uint32_t>(x.bits) << 16); }
FACET_INLINE float widen(float x) { return x; }
FACET_INLINE double widen(double x) { return x; }

/// What kernels compute in.
template <class T>
struct AccOf { using type = float; };
template <>
struct AccOf<double> { using type = double; };
template <class T>
using Acc = typename AccOf<T>::type;

/// Stores with "=" or "+=", one rounding.
template <class T, class A>
__device__ inline void put(T* p, A value, bool accumulate) {
  *p = narrow<T>(accumulate ? static_cast<A>(widen(*p)) + value : value);
}

/// The first line of a kernel that launch_overlapping() starts and that has nothing to hint at while it waits.
__device__ inline void begin_overlapped(Site site = Site::here()) {
  let_next_start();
  wait_for_previous(site);
}

__device__ inline int lane_id() { return static_cast<int>(threadIdx.x) & 31; }
__device__ inline int warp_id() { return static_cast<int>(threadIdx.x) >> 5; }

/// Sum or maximum over the 32 lanes, the same in every lane; a fixed tree.
template <class A>
__device__ inline A warp_sum(A v, Site site = Site::here()) {
  for (int m = 16; m > 0; m >>= 1) v += shfl_xor(v, m, 32, site);
  return v;
}
template <class A>
__device__ inline A warp_max(A v, Site site = Site::here()) {
  for (int m = 16; m > 0; m >>= 1) {
    const A o = shfl_xor(v, m, 32, site);
    v = o > v || o != o ? o : v;  // NaN wins
  }
  return v;
}

/// Sum over a block of `threads` threads (a multiple of 32, at most 1024) in one dimension, the same in every thread. Every thread must
/// call it; `slots` is shared memory of threads / 32 elements, free again after the call of all.
template <int threads, class A>
__device__ inline A block_sum(A v, A* slots, Site site = Site::here()) {
  v = warp_sum(v, site);
  if constexpr (threads == 32) return v;
  if (lane_id() == 0) slots[warp_id()] = v;
  sync_block(site);
  A total = slots[0];
  for (int w = 1; w < threads / 32; ++w) total += slots[w];
  sync_block(site);
  return total;
}
template <int threads, class A>
__device__ inline A block_max(A v, A* slots, Site site = Site::here()) {
  v = warp_max(v, site);
  if constexpr (threads == 32) return v;
  if (lane_id() == 0) slots[warp_id()] = v;
  sync_block(site);
  A most = slots[0];
  for (int w = 1; w < threads / 32; ++w) most = slots[w] > most || slots[w] != slots[w] ? slots[w] : most;
  sync_block(site);
  return most;
}

}  // namespace facet::gpu

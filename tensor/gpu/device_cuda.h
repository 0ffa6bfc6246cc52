// The wrappers of tensor/gpu/device.h for nvcc: the one place with PTX. Each has a twin in tensor/gpu/emulator/device.h.
#pragma once
#include <type_traits>

#define FACET_SHARED(type, name, dims) __shared__ __align__(16) type name dims
#define FACET_DYNAMIC_SHARED(type, name)                          \
  extern __shared__ __align__(16) unsigned char facet_dynamic[];  \
  type* const name = reinterpret_cast<type*>(facet_dynamic)

namespace facet::gpu {

struct Site {
  __device__ static constexpr Site here() { return {}; }
};

template <class T, class A>
__device__ __forceinline__ T narrow(A x) {
  if constexpr (std::is_same_v<T, bf16>) {
    uint16_t bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(static_cast<float>(x)));
    return bf16{bits};
  } else {
    return static_cast<T>(x);
  }
}

__device__ __forceinline__ void sync_block(Site = {}) { __syncthreads(); }
__device__ __forceinline__ void sync_warp(uint32_t mask = 0xffffffffu, Site = {}) { __syncwarp(mask); }

template <class T>
__device__ __forceinline__ T shfl(T v, int lane, int width = 32, Site = {}) { return __shfl_sync(0xffffffffu, v, lane, width); }
template <class T>
__device__ __forceinline__ T shfl_xor(T v, int lane_mask, int width = 32, Site = {}) { return __shfl_xor_sync(0xffffffffu, v, lane_mask, width); }
template <class T>
__device__ __forceinline__ T shfl_down(T v, unsigned delta, int width = 32, Site = {}) { return __shfl_down_sync(0xffffffffu, v, delta, width); }
template <class T>
__device__ __forceinline__ T shfl_up(T v, unsigned delta, int width = 32, Site = {}) { return __shfl_up_sync(0xffffffffu, v, delta, width); }
__device__ __forceinline__ uint32_t ballot(bool p, Site = {}) { return __ballot_sync(0xffffffffu, p); }
__device__ __forceinline__ bool any(bool p, Site = {}) { return __any_sync(0xffffffffu, p); }
__device__ __forceinline__ bool all(bool p, Site = {}) { return __all_sync(0xffffffffu, p); }
__device__ __forceinline__ int first_lane(uint32_t lanes) { return __ffs(static_cast<int>(lanes)) - 1; }

__device__ __forceinline__ void fence() { __threadfence(); }
__device__ __forceinline__ int32_t atomic_add(int32_t* p, int32_t v) { return atomicAdd(p, v); }
__device__ __forceinline__ int32_t atomic_max(int32_t* p, int32_t v) { return atomicMax(p, v); }
__device__ __forceinline__ int32_t atomic_min(int32_t* p, int32_t v) { return atomicMin(p, v); }
__device__ __forceinline__ int32_t atomic_exchange(int32_t* p, int32_t v) { return atomicExch(p, v); }
__device__ __forceinline__ int32_t atomic_cas(int32_t* p, int32_t expected, int32_t desired) { return atomicCAS(p, expected, desired); }
__device__ __forceinline__ void spin_pause(Site = {}) { __nanosleep(32); }

__device__ __forceinline__ void copy_async16(void* shared, const void* global, bool valid, Site = {}) {
  const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  const int bytes = valid ? 16 : 0;  // the rest is filled with zeros
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes) : "memory");
}
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int n>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory");
}

__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* row, Site = {}) {
  const auto from = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(from) : "memory");
}
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row, Site = {}) {
  const auto from = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(from) : "memory");
}
__device__ __forceinline__ void mma_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Site = {}) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ float add_apart(float a, float b) { return __fadd_rn(a, b); }
__device__ __forceinline__ float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float fast_reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float fast_rsqrt(float x) { return rsqrtf(x); }

// Before 9.0 no launch overlaps (runtime.h), so there is nothing to wait for.
__device__ __forceinline__ void let_next_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
__device__ __forceinline__ void wait_for_previous(Site = {}) {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// A request for all of it at once; prefetch.global.L2 would take one for each line.
__device__ __forceinline__ void hint_to_l2(const void* p, size_t bytes, Site = {}) {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(p), "r"(static_cast<uint32_t>(bytes)) : "memory");
#endif
}

}  // namespace facet::gpu

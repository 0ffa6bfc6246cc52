// Fifteen mistakes that kernels are made of, each beside its correct twin: what the emulator must find, and what it must leave alone.
// seeded_bugs_test.cpp runs this program, built plainly and for each sanitizer, and compares what it says with the table there.
//
//   seeded_bugs NAME broken|correct     exit code 0: right numbers, 1: wrong numbers (or the sanitizer's own), 3: Error (printed)
#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#include "tensor/error.h"
#include "tensor/gpu/emulator/emulator.h"
#include "tensor/gpu/launch.h"

namespace facet::gpu {
namespace {

constexpr int threads = 64, blocks = 4, n = threads * blocks;

/// The block turns its part of x around through shared memory.
template <bool broken>
__global__ void missing_barrier(const float* x, float* y) {
  FACET_SHARED(float, tile, [threads]);
  const int64_t base = int64_t{blockIdx.x} * threads;
  tile[threadIdx.x] = x[base + threadIdx.x];
  if (!broken) sync_block();
  y[base + threadIdx.x] = tile[threads - 1 - threadIdx.x];
}

/// y = the neighbour's x, then the neighbour's 2 x added: the tile is used twice.
template <bool broken>
__global__ void missing_barrier_before_reuse(const float* x, float* y) {
  FACET_SHARED(float, tile, [threads]);
  const int64_t base = int64_t{blockIdx.x} * threads;
  float sum = 0;
  for (int round = 1; round <= 2; ++round) {
    tile[threadIdx.x] = x[base + threadIdx.x] * static_cast<float>(round);
    sync_block();
    sum += tile[threadIdx.x ^ 32];
    if (!broken) sync_block();
  }
  y[base + threadIdx.x] = sum;
}

/// Eight lanes shuffle among themselves; the wrapper's mask names all 32.
template <bool broken>
__global__ void full_mask_of_few(const float* x, float* y) {
  const int64_t i = int64_t{blockIdx.x} * threads + threadIdx.x;
  float v = x[i];
  if (!broken || lane_id() < 8) v = shfl_xor(v, 4, 8);
  if (lane_id() < 8) y[i] = v;
}

/// Warp 0 brings the tile; the others wait for it outside of its branch.
template <bool broken>
__global__ void barrier_in_branch(const float* x, float* y) {
  FACET_SHARED(float, tile, [threads]);
  const int64_t base = int64_t{blockIdx.x} * threads;
  if (threadIdx.x < 32) {
    tile[threadIdx.x] = x[base + threadIdx.x];
    tile[threadIdx.x + 32] = x[base + threadIdx.x + 32];
    if (broken) sync_block();
  }
  if (!broken) sync_block();
  y[base + threadIdx.x] = tile[threadIdx.x ^ 1];
}

/// Sums of 4 in dynamic shared memory that starts at zero only in the correct kernel.
template <bool broken>
__global__ void uninitialised_shared(const float* x, float* y) {
  FACET_DYNAMIC_SHARED(float, sums);
  const int64_t base = int64_t{blockIdx.x} * threads;
  if (!broken) sums[threadIdx.x] = 0;
  for (int i = 0; i < 4; ++i) sums[threadIdx.x] += x[base + (threadIdx.x + static_cast<unsigned>(i)) % threads];
  y[base + threadIdx.x] = sums[threadIdx.x];
}

/// Differences to the next element; the last thread throws away what it read beyond.
template <bool broken>
__global__ void one_past_the_end(const float* x, float* y) {
  FACET_SHARED(float, tile, [threads]);
  const int64_t base = int64_t{blockIdx.x} * threads;
  tile[threadIdx.x] = x[base + threadIdx.x];
  sync_block();
  const volatile float* t = tile;  // so that the compiler keeps the useless read
  float next = 0;
  if (broken || threadIdx.x + 1 < threads) next = t[threadIdx.x + 1];
  y[base + threadIdx.x] = threadIdx.x + 1 < threads ? next - t[threadIdx.x] : 0;
}

/// All blocks count into one word.
template <bool broken>
__global__ void not_atomic(const float*, float* y) {
  auto* count = reinterpret_cast<int32_t*>(y);
  if (threadIdx.x != 0) return;
  if (broken) *count += 1;
  else atomic_add(count, 1);
}

/// One query per thread against keys in tiles, a running softmax: flash attention's loop.
template <bool broken>
__global__ void tile_reloaded(const float* x, float* y) {
  FACET_SHARED(float, keys, [threads]);
  const int64_t i = int64_t{blockIdx.x} * threads + threadIdx.x;
  float most = -INFINITY, sum = 0, out = 0;
  for (int tile = 0; tile < blocks; ++tile) {
    if (!broken) sync_block();
    keys[threadIdx.x] = x[int64_t{tile} * threads + threadIdx.x];
    sync_block();
    for (float key : keys) {
      const float score = x[i] * key, top = score > most ? score : most, scale = fast_exp2(most - top), p = fast_exp2(score - top);
      sum = sum * scale + p;
      out = out * scale + p * key;
      most = top;
    }
  }
  y[i] = out / sum;
}

/// Asynchronous copies that nobody waits for.
template <bool broken>
__global__ void missing_copy_wait(const float* x, float* y) {
  FACET_SHARED(float, tile, [threads]);
  const int64_t base = int64_t{blockIdx.x} * threads;
  if (threadIdx.x < threads / 4) copy_async16(&tile[4 * threadIdx.x], x + base + 4 * threadIdx.x, true);
  copy_async_commit();
  if (!broken) copy_async_wait<0>();
  sync_block();
  y[base + threadIdx.x] = tile[threads - 1 - threadIdx.x];
}

/// Two buffers; the next tile is fetched while this one is used. Broken, it goes where the slower warps still read.
template <bool broken>
__global__ void double_buffer_too_early(const float* x, float* y) {
  FACET_SHARED(float, tile, [2][threads]);
  const auto fetch = [&](int part) {
    if (threadIdx.x < threads / 4) copy_async16(&tile[part & 1][4 * threadIdx.x], x + int64_t{part} * threads + 4 * threadIdx.x, true);
    copy_async_commit();
  };
  fetch(0);
  fetch(1);
  float sum = 0;
  for (int part = 0; part < blocks; ++part) {
    if (part + 1 < blocks) copy_async_wait<1>();
    else copy_async_wait<0>();
    sync_block();
    sum += tile[part & 1][threadIdx.x ^ 32] * static_cast<float>(part + 1);
    if (!broken) sync_block();
    if (part + 2 < blocks) fetch(part + 2);
  }
  if (blockIdx.x == 0) y[threadIdx.x] = sum;
}

/// Every block copies its part; the one that comes last puts the sum of the parts in the place of the first.
__device__ int32_t tickets[1];
template <bool fence_before, bool fence_behind>
__device__ inline void sum_by_the_last(const float* x, float* y) {
  FACET_SHARED(bool, last, );
  const int64_t i = int64_t{blockIdx.x} * threads + threadIdx.x;
  y[i] = x[i];
  sync_block();
  if (threadIdx.x == 0) {
    if (fence_before) fence();
    last = atomic_add(tickets, 1) == blocks - 1;
    if (fence_behind && last) fence();
  }
  sync_block();
  if (!last) return;
  float sum = 0;
  for (int part = 0; part < blocks; ++part) sum += y[int64_t{part} * threads + threadIdx.x];
  y[threadIdx.x] = sum;
}
template <bool broken>
__global__ void missing_fence_before_ticket(const float* x, float* y) {
  sum_by_the_last<!broken, true>(x, y);
}
template <bool broken>
__global__ void missing_fence_behind_ticket(const float* x, float* y) {
  sum_by_the_last<true, !broken>(x, y);
}

/// x of the kernel before, turned around. Broken, the first is read before that kernel is known to have ended.
template <bool broken>
__global__ void read_before_wait(const float* x, float* y) {
  const int64_t i = int64_t{blockIdx.x} * threads + threadIdx.x;
  float v = 0;
  if (broken) v = x[n - 1 - i];
  wait_for_previous();
  if (!broken) v = x[n - 1 - i];
  y[i] = v;
}

/// Half of the threads have nothing to do and leave, which does not free them from waiting.
template <bool broken>
__global__ void leaves_before_wait(const float* x, float* y) {
  const int64_t i = int64_t{blockIdx.x} * threads + threadIdx.x;
  if (broken && threadIdx.x % 64 >= 32) return;
  wait_for_previous();
  if (threadIdx.x % 64 < 32) y[i] = x[n - 1 - i];
}

/// A ticket is drawn while the kernel before may still draw its own.
template <bool broken>
__global__ void ticket_before_wait(const float*, float* y) {
  auto* count = reinterpret_cast<int32_t*>(y);
  if (broken && threadIdx.x == 0) atomic_add(count, 1);
  wait_for_previous();
  if (!broken && threadIdx.x == 0) atomic_add(count, 1);
}

/// Overlapped kernels follow one that has written their x.
__global__ void kernel_before(float* x) {
  const int64_t i = int64_t{blockIdx.x} * threads + threadIdx.x;
  x[i] = x[i] / 2;
}

using Kernel = void (*)(const float*, float*);
struct Case {
  const char* name;
  bool overlapped;
  Kernel correct, broken;
  float (*expected)(const std::vector<float>& x, int i);  // y[i]; NaN: not written
};
#define CASE(name, formula) CASE_OF(name, false, formula)
#define OVERLAPPED(name, formula) CASE_OF(name, true, formula)
#define CASE_OF(name, overlapped, formula) \
  {#name, overlapped, name<false>, name<true>, [](const std::vector<float>& x, int i) -> float { (void)x, (void)i; return formula; }}

int mirrored(int i) { return i - i % threads + threads - 1 - i % threads; }
float sum_of_4(const std::vector<float>& x, int i) {
  float s = 0;
  for (int k = 0; k < 4; ++k) s += x[static_cast<size_t>(i - i % threads + (i + k) % threads)];
  return s;
}
float softmax_sum(const std::vector<float>& x, int i) {
  double sum = 0, out = 0;
  for (float key : x) {
    const double p = std::exp2(static_cast<double>(x[static_cast<size_t>(i)]) * key);
    sum += p;
    out += p * key;
  }
  return static_cast<float>(out / sum);
}
float over_parts(const std::vector<float>& x, int i) {
  if (i >= threads) return NAN;
  float s = 0;
  for (int part = 0; part < blocks; ++part) s += x[static_cast<size_t>(part * threads + (i ^ 32))] * static_cast<float>(part + 1);
  return s;
}
float over_blocks(const std::vector<float>& x, int i) {
  if (i >= threads) return x[static_cast<size_t>(i)];
  float s = 0;
  for (int part = 0; part < blocks; ++part) s += x[static_cast<size_t>(part * threads + i)];
  return s;
}
float bits_of(int32_t v) { return __builtin_bit_cast(float, v); }

#define X(i) x[static_cast<size_t>(i)]
const Case cases[] = {
    CASE(missing_barrier, X(mirrored(i))),
    CASE(missing_barrier_before_reuse, 3 * X(i ^ 32)),
    CASE(full_mask_of_few, i % 32 < 8 ? X(i ^ 4) : NAN),
    CASE(barrier_in_branch, X(i ^ 1)),
    CASE(uninitialised_shared, sum_of_4(x, i)),
    CASE(one_past_the_end, i % threads + 1 < threads ? X(i + 1) - X(i) : 0),
    CASE(not_atomic, i == 0 ? bits_of(-1 + blocks) : NAN),
    CASE(tile_reloaded, softmax_sum(x, i)),
    CASE(missing_copy_wait, X(mirrored(i))),
    CASE(double_buffer_too_early, over_parts(x, i)),
    CASE(missing_fence_before_ticket, over_blocks(x, i)),
    CASE(missing_fence_behind_ticket, over_blocks(x, i)),
    OVERLAPPED(read_before_wait, X(n - 1 - i) / 2),
    OVERLAPPED(leaves_before_wait, i % 64 < 32 ? X(n - 1 - i) / 2 : NAN),
    OVERLAPPED(ticket_before_wait, i == 0 ? bits_of(-1 + blocks) : NAN),
};

struct Buffer {
  float* data = static_cast<float*>(device_malloc(n * sizeof(float)));
  ~Buffer() { device_free(data); }
};

bool right(const Case& c, bool broken) {
  std::vector<float> x(n), y(n);
  for (int i = 0; i < n; ++i) x[static_cast<size_t>(i)] = static_cast<float>(i * 37 % 101) / 64.0f - 0.75f;
  const Buffer dx, dy;
  copy_to_device(dx.data, x.data(), n * sizeof(float));
  const Kernel kernel = broken ? c.broken : c.correct;
  if (c.overlapped) {
    launch("kernel_before", kernel_before, dim3(blocks), dim3(threads), 0, dx.data);
    launch_overlapping(c.name, kernel, dim3(blocks), dim3(threads), threads * sizeof(float), dx.data, dy.data);
  } else {
    launch(c.name, kernel, dim3(blocks), dim3(threads), threads * sizeof(float), dx.data, dy.data);
  }
  copy_to_host(y.data(), dy.data, n * sizeof(float));
  for (int i = 0; i < n; ++i) {
    const float is = y[static_cast<size_t>(i)], should = c.expected(x, i);
    if (std::isnan(should) ? !std::isnan(is) : !(std::fabs(is - should) <= 1e-5f * (1 + std::fabs(should)))) {
      std::printf("%s: y[%d] is %g, not %g\n", c.name, i, static_cast<double>(is), static_cast<double>(should));
      return false;
    }
  }
  return true;
}

}  // namespace
}  // namespace facet::gpu

int main(int argc, char** argv) {
  using namespace facet::gpu;
  emulate(true);
  for (const Case& c : cases) {
    if (argc != 3 || std::strcmp(argv[1], c.name) != 0) continue;
    try {
      return right(c, std::strcmp(argv[2], "broken") == 0) ? 0 : 1;
    } catch (const facet::Error& e) {
      std::printf("%s\n", e.what());
      return 3;
    }
  }
  std::fprintf(stderr, "usage: seeded_bugs NAME broken|correct\n");
  return 2;
}

#include "tensor/gpu/sort_ids.h"

#include <utility>

#include "tensor/gpu/launch.h"

namespace facet::gpu {
namespace {

constexpr int digit_bits = 10, digits = 1 << digit_bits;
constexpr int threads = 256, warps = threads / 32;
constexpr int rounds = 8;                             // ids of a lane
constexpr int warp_ids = 32 * rounds, tile = warps * warp_ids;  // a warp owns consecutive ids, a block 2048

__device__ inline int digit_of(int32_t id, int shift) { return static_cast<int>(static_cast<uint32_t>(id) >> shift) & (digits - 1); }

// Ids outside [0, limit) become limit; the first pass starts from places 0, 1, 2 ...
__device__ inline int32_t clean(int32_t id, int64_t limit) { return id < 0 || id >= limit ? static_cast<int32_t>(limit) : id; }

// The lanes whose digit equals this lane's; `valid` lanes only.
__device__ inline uint32_t peers_of(int digit, bool valid) {
  uint32_t peers = ballot(valid);
#pragma unroll
  for (int b = 0; b < digit_bits; ++b) {
    const uint32_t ones = ballot((digit >> b & 1) != 0);
    peers &= digit >> b & 1 ? ones : ~ones;
  }
  return peers;
}

// Adds the digits of this warp's ids to its own counters, in order; f(round, id, rank) hears how many equal digits of this warp came before.
template <class F>
__device__ inline void count_warp(const int32_t* ids, int64_t n, int64_t limit, int shift, int32_t* counters, F&& f) {
  const int64_t first = static_cast<int64_t>(blockIdx.x) * tile + warp_id() * warp_ids + lane_id();
  for (int k = 0; k < rounds; ++k) {
    const int64_t i = first + 32 * k;
    const bool valid = i < n;
    const int32_t id = valid ? clean(ids[i], limit) : 0;
    const int digit = digit_of(id, shift);
    const uint32_t peers = peers_of(digit, valid);
    const int before = __builtin_popcount(peers & ((1u << lane_id()) - 1));
    const int32_t rank = valid ? counters[digit] + before : 0;
    sync_warp();
    if (valid && before == 0) counters[digit] = rank + __builtin_popcount(peers);
    sync_warp();
    if (valid) f(i, id, digit, rank);
  }
}

// counts[digit][block]
__global__ void __launch_bounds__(threads) count_digits(const int32_t* ids, int64_t n, int64_t limit, int shift, int32_t* counts) {
  FACET_SHARED(int32_t, counters, [digits]);
  for (int i = static_cast<int>(threadIdx.x); i < digits; i += threads) counters[i] = 0;
  sync_block();
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * tile + threadIdx.x; i < n && i < (static_cast<int64_t>(blockIdx.x) + 1) * tile; i += threads)
    atomic_add(&counters[digit_of(clean(ids[i], limit), shift)], 1);
  sync_block();
  for (int i = static_cast<int>(threadIdx.x); i < digits; i += threads) counts[static_cast<int64_t>(i) * gridDim.x + blockIdx.x] = counters[i];
}

// counts[i] becomes counts[0] + ... + counts[i - 1], for n a multiple of 4: one block of 1024 threads.
__global__ void __launch_bounds__(1024) sum_before(int32_t* counts, int64_t n) {
  FACET_SHARED(int32_t, of_warp, [32]);
  const int lane = lane_id(), warp = warp_id();
  int32_t carry = 0;
  for (int64_t first = 0; first < n; first += 4096) {
    const int64_t i = first + 4 * static_cast<int64_t>(threadIdx.x);
    Pack<int32_t, 4> own{};
    if (i < n) own = load_pack<int32_t, 4>(counts + i);
    const int32_t mine = own[0] + own[1] + own[2] + own[3];
    int32_t sum = mine;
    for (int m = 1; m < 32; m *= 2) {
      const int32_t v = shfl_up(sum, static_cast<unsigned>(m));
      if (lane >= m) sum += v;
    }
    if (lane == 31) of_warp[warp] = sum;
    sync_block();
    int32_t before = 0, all = 0;
    for (int w = 0; w < 32; ++w) {
      if (w < warp) before += of_warp[w];
      all += of_warp[w];
    }
    before += carry + sum - mine;
    if (i < n) {
      for (int j = 0; j < 4; ++j) {
        const int32_t count = own[j];
        own[j] = before;
        before += count;
      }
      store_pack(counts + i, own);
    }
    carry += all;
    sync_block();
  }
}

// Every id to its place: those with smaller digits first, then equal digits of earlier blocks, of earlier warps, of earlier lanes.
__global__ void __launch_bounds__(threads)
scatter_ids(const int32_t* ids, const int32_t* places, int64_t n, int64_t limit, int shift, const int32_t* starts, int32_t* to_ids, int32_t* to_places) {
  FACET_SHARED(int32_t, counters, [warps][digits]);
  for (int i = static_cast<int>(threadIdx.x); i < warps * digits; i += threads) counters[i / digits][i % digits] = 0;
  sync_block();
  count_warp(ids, n, limit, shift, counters[warp_id()], [](int64_t, int32_t, int, int32_t) {});
  sync_block();
  for (int i = static_cast<int>(threadIdx.x); i < digits; i += threads) {
    int32_t start = starts[static_cast<int64_t>(i) * gridDim.x + blockIdx.x];
    for (int w = 0; w < warps; ++w) {
      const int32_t count = counters[w][i];
      counters[w][i] = start;
      start += count;
    }
  }
  sync_block();
  count_warp(ids, n, limit, shift, counters[warp_id()], [&](int64_t i, int32_t id, int, int32_t rank) {
    to_ids[rank] = id;
    to_places[rank] = places ? places[i] : static_cast<int32_t>(i);
  });
}

int passes_for(int64_t limit) {
  int passes = 1;
  while (passes * digit_bits < 32 && limit >> (passes * digit_bits)) ++passes;
  return passes;
}
int64_t blocks_of(int64_t n) { return (n + tile - 1) / tile; }

}  // namespace

SortedIds::SortedIds(const char* op, const int32_t* ids, int64_t n, int64_t limit)
    : memory_(static_cast<size_t>(4 * n + digits * blocks_of(n)) * sizeof(int32_t)) {
  int32_t* const counts = memory_.as<int32_t>();
  int32_t* const all = counts + digits * blocks_of(n);
  id_ = all, place_ = all + n;
  int32_t *to_id = all + 2 * n, *to_place = all + 3 * n;
  const auto blocks = static_cast<unsigned>(blocks_of(n));
  const int passes = passes_for(limit);
  for (int pass = 0; pass < passes; ++pass) {
    const int32_t* const from = pass == 0 ? ids : id_;
    const int32_t* const from_place = pass == 0 ? nullptr : place_;
    launch(op, count_digits, blocks, threads, 0, from, n, limit, pass * digit_bits, counts);
    if (n > 0) launch(op, sum_before, 1, 1024, 0, counts, static_cast<int64_t>(digits) * blocks);
    launch(op, scatter_ids, blocks, threads, 0, from, from_place, n, limit, pass * digit_bits, static_cast<const int32_t*>(counts), to_id, to_place);
    std::swap(id_, to_id);
    std::swap(place_, to_place);
  }
}

}  // namespace facet::gpu

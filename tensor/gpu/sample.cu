// Drawing tokens where their scores are. Scores are read once to find the largest (or the band below it where the likely ones are), by many
// blocks; what follows looks at the few tokens of the band, one block a row. A flat distribution under a filter is the slow case: then all its
// tokens are sorted, some milliseconds for 262,144 of them.
#include "tensor/kernels/sample.h"

#include <algorithm>

#include "tensor/gpu/launch.h"
#include "tensor/gpu/order.h"
#include "tensor/gpu/pool.h"
#include "tensor/kernels/copy.h"

namespace facet::gpu {
namespace {

constexpr int threads = 512;
constexpr int64_t segment = 16384;  // scores one block looks through
constexpr float infinity = __builtin_inff(), lowest = -3.402823466e38f;

// ---- single tokens

__global__ void __launch_bounds__(threads) penalize_kernel(float* z, int64_t step, int64_t V, const int32_t* rows, const int32_t* ids, int64_t count, float by) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (i >= count || ids[i] < 0 || ids[i] >= V) return;
  float& x = z[rows[i] * step + ids[i]];
  x = x > 0 ? x / by : x * by;
}

__global__ void __launch_bounds__(threads) forbid_kernel(float* z, int64_t step, int64_t V, int64_t n, const int32_t* ids, int64_t count) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (i >= n * count) return;
  const int32_t id = ids[i % count];
  if (id >= 0 && id < V) z[i / count * step + id] = -infinity;
}

struct Scores {
  const float* z;
  const float* stats;
  int64_t step, wide, V, segments;
};

Scores scores_of(const View& z, const View& stats) {
  return {z.as<float>(), stats.as<float>(), z.stride[0], stats.stride[0], z.shape[1], (z.shape[1] + segment - 1) / segment};
}

__global__ void __launch_bounds__(threads) first_largest_kernel(Scores s, int32_t* ids) {
  begin_overlapped();
  const int64_t row = blockIdx.x / s.segments, begin = blockIdx.x % s.segments * segment, end = begin + segment < s.V ? begin + segment : s.V;
  const float top = s.stats[row * s.wide];
  int32_t first = INT32_MAX;
#pragma unroll 8
  for (int64_t i = begin + threadIdx.x; i < end; i += threads)  // to the end: a load that waits for a comparison would come alone
    if (s.z[row * s.step + i] == top && first == INT32_MAX) first = static_cast<int32_t>(i);
  if (first != INT32_MAX) atomic_min(&ids[row], first);
}

// ---- ranked draws

struct Band {
  uint64_t* keys;     // of every row: `room` of them
  int32_t* counts;
  int64_t room;       // a power of two that holds all words
};

__device__ inline float floor_of(float top, int band) {
  const float f = top - (band == 0 ? 6.0f : band == 1 ? 20.0f : infinity);
  return f > lowest ? f : lowest;
}

// Notes the scores of [begin, end) from `floor` on, in any order: they are sorted later. Eight loads a thread are under way at once.
__device__ inline void collect(const float* z, int64_t begin, int64_t end, float floor, uint64_t* keys, int32_t* count) {
  constexpr int ahead = 8;
  for (int64_t first = begin + threadIdx.x; first < end; first += ahead * threads) {
    float v[ahead];
#pragma unroll
    for (int u = 0; u < ahead; ++u) v[u] = first + u * threads < end ? z[first + u * threads] : -infinity;  // below every floor
#pragma unroll
    for (int u = 0; u < ahead; ++u)
      if (v[u] >= floor) keys[atomic_add(count, 1)] = order_key(v[u], first + u * threads);
  }
}

__global__ void __launch_bounds__(threads) collect_kernel(Scores s, int64_t first_row, Band b) {
  const int64_t local = blockIdx.x / s.segments, row = first_row + local, begin = blockIdx.x % s.segments * segment;
  const int64_t end = begin + segment < s.V ? begin + segment : s.V;
  collect(s.z + row * s.step, begin, end, floor_of(s.stats[row * s.wide], 0), b.keys + local * b.room, b.counts + local);
}

// What a walk along the ranking looks for: the first place that does not stay, and the mass before it. In the order of the filters.
enum class Stop : uint8_t { below_score, mass, share, target };

struct Found {
  int64_t place;  // INT32_MAX: nowhere
  double before;
};

// Threads take neighbouring places; `starts` holds the mass before each thread's.
__device__ inline Found walk_ranking(Stop stop, double limit, const uint64_t* keys, int64_t count, float top, double* starts, int32_t* best, double* mass) {
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t per = (count + threads - 1) / threads, begin = thread * per, end = begin + per < count ? begin + per : count;
  const auto weight = [&](int64_t i) { return math::exp(static_cast<double>(number_of_key(keys[i])) - static_cast<double>(top)); };
  double own = 0;
  for (int64_t i = begin; i < end; ++i) own += weight(i);
  starts[thread] = own;
  if (thread == 0) best[0] = INT32_MAX;
  sync_block();
  if (thread == 0) {
    double running = 0;
    for (int t = 0; t * per < count; ++t) {  // the others have no places
      const double mine = starts[t];
      starts[t] = running;
      running += mine;
    }
    mass[0] = running;
  }
  sync_block();
  double before = starts[thread];
  for (int64_t i = begin; i < end; ++i) {
    const double w = weight(i);
    bool stays = true;
    switch (stop) {
      case Stop::below_score: stays = i == 0 || static_cast<double>(number_of_key(keys[i])) >= limit; break;
      case Stop::mass: stays = i == 0 || before < limit; break;
      case Stop::share: stays = i == 0 || w >= limit; break;
      case Stop::target: stays = !(before + w > limit); break;
    }
    if (!stays) {
      atomic_min(&best[0], static_cast<int32_t>(i));
      break;
    }
    before += w;
  }
  sync_block();
  const int32_t place = best[0];
  if (place >= begin && place < end) mass[0] = before;
  sync_block();
  const Found f{place, mass[0]};
  sync_block();
  return f;
}

constexpr int64_t in_shared = 2048;

// One block a processor: waiting for other threads is most of what it does, so it may have all the registers.
__global__ void __launch_bounds__(threads, 1) rank_kernel(Scores s, int64_t first_row, Band b, RankFilters filters, const float* u, int32_t* ids) {
  FACET_SHARED(uint64_t, few, [in_shared]);
  FACET_SHARED(double, starts, [threads]);
  FACET_SHARED(double, mass, [1]);
  FACET_SHARED(int32_t, best, [1]);
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t row = first_row + blockIdx.x;
  const float top = s.stats[row * s.wide], total = s.stats[row * s.wide + 1];
  uint64_t* const all = b.keys + static_cast<int64_t>(blockIdx.x) * b.room;
  for (int band = 0; band < 3; ++band) {
    if (band > 0) {  // the likely ones were too few: once more, with those below
      if (thread == 0) b.counts[blockIdx.x] = 0;
      sync_block();
      collect(s.z + row * s.step, 0, s.V, floor_of(top, band), all, b.counts + blockIdx.x);
      sync_block();
    }
    const int64_t count = b.counts[blockIdx.x];
    const bool complete = band == 2 || count == s.V;
    int64_t padded = 1;
    while (padded < count) padded *= 2;
    uint64_t* keys = all;
    if (padded <= in_shared) {
      keys = few;
      for (int64_t i = thread; i < padded; i += threads) few[i] = i < count ? all[i] : 0;
    } else {
      for (int64_t i = count + thread; i < padded; i += threads) all[i] = 0;
    }
    sync_block();
    sort_keys<threads>(keys, padded);

    // One filter after the other, then the draw. The first `kept` places stay, weighing `weight`; as long as no filter has stopped, there are
    // more of them than in this band, and a walk that finds no end in it needs the next one.
    int64_t kept = INT32_MAX, drawn = 0;
    double weight = static_cast<double>(total);
    bool enough = true;
    for (int stage = 0; stage < 4; ++stage) {
      const int64_t limit = kept < count ? kept : count;
      double bound = filters.min_p;
      if (stage == 0) {
        if (filters.top_k == 0 || filters.top_k >= s.V) continue;
        if (filters.top_k > count) {  // when the band is all there is, there is nothing to cut
          enough = complete;
          continue;
        }
        bound = static_cast<double>(number_of_key(keys[filters.top_k - 1]));
      } else if (stage == 1) {
        if (filters.top_p >= 1) continue;
        bound = filters.top_p * weight;
      } else if (stage == 2) {
        if (filters.min_p <= 0) continue;
      } else {
        bound = static_cast<double>(u[row]) * weight;
      }
      const Found f = walk_ranking(static_cast<Stop>(stage), bound, keys, limit, top, starts, best, mass);
      if (f.place == INT32_MAX && kept > count && stage > 0) enough = enough && complete;
      if (stage == 3) {
        drawn = f.place < limit ? f.place : limit - 1;
      } else {
        kept = f.place < limit ? f.place : limit;
        weight = f.before;
      }
    }
    if (enough || complete) {
      if (thread == 0) ids[row] = count > 0 ? static_cast<int32_t>(index_of_key(keys[drawn])) : 0;
      return;
    }
  }
}

// ---- what is told

__global__ void __launch_bounds__(threads) tell_kernel(Scores s, int64_t n, const float* drawn_from, int64_t from_wide, const int32_t* ids, double* results) {
  begin_overlapped();
  const int64_t row = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (row >= n) return;
  const float *stats = s.stats + row * s.wide, from = drawn_from[row * from_wide + 1];
  const int32_t id = ids[row];
  const float score = id >= 0 && id < s.V ? s.z[row * s.step + id] : __builtin_nanf("");
  double* to = results + 4 * row;
  to[0] = id;
  to[1] = static_cast<double>(static_cast<float>(static_cast<double>(score) - (static_cast<double>(stats[0]) + math::log(static_cast<double>(stats[1])))));
  to[2] = static_cast<double>(stats[4]);
  to[3] = stats[1] - stats[1] == 0 && from - from == 0 ? 1 : 0;
}

}  // namespace

void penalize(Out z, View rows, View ids, double by) {
  launch("penalize", penalize_kernel, blocks_for(ids.numel(), threads), threads, 0, z.as<float>(), z.stride[0], z.shape[1], rows.as<int32_t>(),
         ids.as<int32_t>(), ids.numel(), by);
}

void forbid(Out z, View ids) {
  launch("forbid", forbid_kernel, blocks_for(z.shape[0] * ids.numel(), threads, INT32_MAX), threads, 0, z.as<float>(), z.stride[0], z.shape[1], z.shape[0],
         ids.as<int32_t>(), ids.numel());
}

void first_largest(View z, View stats, Out ids) {
  const Scores s = scores_of(z, stats);
  gpu::fill(ids, INT32_MAX);
  launch_for_rows(z.shape[0], "first_largest", first_largest_kernel, blocks_for(z.shape[0] * s.segments, 1, INT32_MAX), threads, 0, s, ids.as<int32_t>());
}

void draw_ranked(View z, View stats, View u, const RankFilters& filters, Out ids) {
  const Scores s = scores_of(z, stats);
  const int64_t n = z.shape[0], room = power_of_two_above(s.V), most = std::clamp<int64_t>((int64_t{256} << 20) / (room * 8), 1, n > 0 ? n : 1);
  const Scratch keys(static_cast<size_t>(most * room) * sizeof(uint64_t), "draw_ranked"), counts(static_cast<size_t>(most) * sizeof(int32_t), "draw_ranked");
  const Band b{keys.as<uint64_t>(), counts.as<int32_t>(), room};
  for (int64_t first = 0; first < n; first += most) {  // as many rows at a time as 256 MB have room for
    const int64_t rows = std::min(most, n - first);
    fill_bytes(b.counts, 0, static_cast<size_t>(rows) * sizeof(int32_t));
    launch("draw_ranked", collect_kernel, blocks_for(rows * s.segments, 1, INT32_MAX), threads, 0, s, first, b);
    launch("draw_ranked", rank_kernel, blocks_for(rows, 1, INT32_MAX), threads, 0, s, first, b, filters, u.as<float>(), ids.as<int32_t>());
  }
}

void tell_draws(View z, View stats, View drawn_from, View ids, Out results) {
  launch_for_rows(z.shape[0], "tell_draws", tell_kernel, blocks_for(z.shape[0], threads), threads, 0, scores_of(z, stats), z.shape[0], drawn_from.as<float>(), drawn_from.stride[0],
         ids.as<int32_t>(), results.as<double>());
}

}  // namespace facet::gpu

#include "tensor/kernels/decode_rows.h"

#include <algorithm>

#include "tensor/profile.h"
#include "tensor/rng.h"

namespace facet::cpu {

void row_uniforms(View state, bool original, Out u) {
  const KernelScope scope("row_uniforms");
  const int64_t n = state.shape[1];
  const int32_t* s = state.as<int32_t>();
  for (int64_t r = 0; r < n; ++r) {
    const Key k{static_cast<uint32_t>(s[row_key_hi * n + r]), static_cast<uint32_t>(s[row_key_lo * n + r]),
                original ? Counters::original : Counters::partitionable};
    u.as<float>()[r] = uniform(fold_in(k, static_cast<uint32_t>(s[row_position * n + r]) + 1));
  }
}

void advance_rows(View told, View stop, Out state, Out log) {
  const KernelScope scope("advance_rows");
  const int64_t n = state.shape[1], steps = log.shape[0];
  const int32_t *stops = stop.as<int32_t>(), *stops_end = stops + (stop ? stop.numel() : 0);
  for (int64_t r = 0; r < n; ++r) {
    const auto field = [s = state.as<int32_t>() + r, n](RowField f) -> int32_t& { return s[f * n]; };
    const double* from = told.as<double>() + 4 * r;
    const bool there = field(row_position) >= 0;
    if (const int32_t step = field(row_step)++; step < steps) {
      double* to = log.as<double>() + (step * n + r) * 4;
      std::copy_n(from, 4, to);
      if (!there) to[0] = -1;
    }
    if (!there) continue;
    const auto id = static_cast<int32_t>(from[0]);
    if (from[3] == 0 || field(row_position) >= field(row_last) || std::find(stops, stops_end, id) != stops_end) {
      field(row_position) = -1;
    } else {
      field(row_token) = id;
      ++field(row_position);
    }
  }
}

}  // namespace facet::cpu

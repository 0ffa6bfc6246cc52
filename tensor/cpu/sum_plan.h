// Which dimensions a sum_to keeps and which it sums, seen along memory. Host code of the bodies of all devices.
#pragma once
#include <algorithm>
#include <cstdint>

#include "tensor/view.h"

namespace facet::cpu {

/// x's dimensions, split into kept ones (with y's strides) and summed ones, outermost = largest step in memory first.
struct SumPlan {
  Shape kept, kept_x, kept_y, summed, summed_x;
  bool inner_summed = false;  ///< neighbours in memory belong to one sum
};

inline SumPlan make_sum_plan(const View& x, const Out& y) {
  struct Dim {
    int64_t size, x, y;
    bool summed;
  } d[max_rank];
  int rank = 0;
  for (int i = 0; i < x.shape.rank; ++i) {
    if (x.shape.dim[i] == 1) continue;
    const int j = i - (x.shape.rank - y.shape.rank);
    const bool summed = j < 0 || y.shape.dim[j] == 1;
    d[rank++] = {x.shape.dim[i], x.stride.dim[i], summed ? 0 : y.stride.dim[j], summed};
  }
  const auto step = [](const Dim& a) { return a.x == 0 ? INT64_MAX : a.x; };  // repeated dimensions go outside
  std::stable_sort(d, d + rank, [&](const Dim& a, const Dim& b) { return step(a) > step(b); });
  int n = 0;
  for (int i = 0; i < rank; ++i) {
    Dim* outer = n ? &d[n - 1] : nullptr;
    if (outer && outer->summed == d[i].summed && outer->x == d[i].x * d[i].size && (d[i].summed || outer->y == d[i].y * d[i].size))
      *outer = {outer->size * d[i].size, d[i].x, d[i].y, d[i].summed};
    else
      d[n++] = d[i];
  }
  SumPlan p;
  for (int i = 0; i < n; ++i) {
    (d[i].summed ? p.summed : p.kept).push(d[i].size);
    (d[i].summed ? p.summed_x : p.kept_x).push(d[i].x);
    if (!d[i].summed) p.kept_y.push(d[i].y);
  }
  p.inner_summed = n > 0 && d[n - 1].summed;
  const auto never_empty = [](Shape& s) {  // a dimension of one spares every case below
    if (s.rank == 0) s.push(1);
  };
  if (p.kept.rank == 0) p.kept_x.push(0), p.kept_y.push(0);
  if (p.summed.rank == 0) p.summed_x.push(0);
  never_empty(p.kept);
  never_empty(p.summed);
  return p;
}

}  // namespace facet::cpu

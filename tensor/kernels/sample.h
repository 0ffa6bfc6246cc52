// sample: from scores to tokens. Scores z [n, V] are logits divided by the temperature, and stats [n, 5] what logit_stats says of them
// (tensor/kernels/logit_rows.h), which also draws where no filter ranks the tokens (logit_draw).
//
//   penalize      z[rows[i], ids[i]] /= by where it is positive, *= by elsewhere; every pair (row, id) at most once, rows and ids i32 [m]
//   forbid        z[r, id] = -inf for every row r and each of ids i32 [k]
//   first_largest ids i32 [n]: the first of a row's largest scores
//   draw_ranked   ids i32 [n]: one draw from what the filters leave. Tokens are ranked by score, ties by id, and lie along [0, 1) in that order;
//                 the one under u [n] is drawn. Filters, each on what the one before has left, the first token always staying:
//                   top_k   scores of at least the k-th largest (0: all)
//                   top_p   tokens before which less than p of the mass lies (1: all)
//                   min_p   tokens with at least this share of the first one's probability (0: all)
//                 Scores of -inf are never drawn. Weights are f64, exp(z - max).
//   tell_draws    results f64 [n, 4] of ids: the id; log softmax(z)[id] as f32 has it; the entropy; 1 if the sums of `stats` and of `drawn_from` are
//                 finite, else 0: then the rest means nothing
//
// z f32, rows dense; stats as logit_stats leaves them. Ids outside [0, V) are skipped. On the CPU a row is done by one thread.
#pragma once
#include "tensor/kernels/door.h"
#include "tensor/view.h"

namespace facet {

struct RankFilters {
  int64_t top_k = 0;
  double top_p = 1, min_p = 0;
};

namespace cpu {
void penalize(Out z, View rows, View ids, double by);
void forbid(Out z, View ids);
void first_largest(View z, View stats, Out ids);
void draw_ranked(View z, View stats, View u, const RankFilters&, Out ids);
void tell_draws(View z, View stats, View drawn_from, View ids, Out results);
}  // namespace cpu
namespace gpu {
void penalize(Out z, View rows, View ids, double by);
void forbid(Out z, View ids);
void first_largest(View z, View stats, Out ids);
void draw_ranked(View z, View stats, View u, const RankFilters&, Out ids);
void tell_draws(View z, View stats, View drawn_from, View ids, Out results);
}  // namespace gpu
FACET_INLINE void penalize(Out z, View rows, View ids, double by) {
  on_gpu("penalize", z, rows, ids) ? gpu::penalize(z, rows, ids, by) : cpu::penalize(z, rows, ids, by);
}
FACET_INLINE void forbid(Out z, View ids) { on_gpu("forbid", z, ids) ? gpu::forbid(z, ids) : cpu::forbid(z, ids); }
FACET_INLINE void first_largest(View z, View stats, Out ids) {
  on_gpu("first_largest", z, stats, ids) ? gpu::first_largest(z, stats, ids) : cpu::first_largest(z, stats, ids);
}
FACET_INLINE void draw_ranked(View z, View stats, View u, const RankFilters& f, Out ids) {
  on_gpu("draw_ranked", z, stats, u, ids) ? gpu::draw_ranked(z, stats, u, f, ids) : cpu::draw_ranked(z, stats, u, f, ids);
}
FACET_INLINE void tell_draws(View z, View stats, View drawn_from, View ids, Out results) {
  on_gpu_any_dtype("tell_draws", z, stats, drawn_from, ids, results) ? gpu::tell_draws(z, stats, drawn_from, ids, results)
                                                                     : cpu::tell_draws(z, stats, drawn_from, ids, results);
}
}  // namespace facet

// decode_rows: rows of a cache that go on by themselves. What a step of decoding has to know of them lies where they are computed, so that a
// step asks the host for nothing: it can be recorded and repeated.
//
//   state i32 [6, n], of every row (RowField):
//     token, position   what is computed next and where it stands; position -1: the row has ended, or nobody is there
//     last              the position of the last token to be computed: what is drawn after it ends the row
//     step              steps made since the host wrote the state
//     key_hi, key_lo    the token at position p is drawn with fold_in(key, p)
//
//   row_uniforms   u f32 [n] = uniform(fold_in(key, position + 1)), bit for bit that of tensor/rng.h (`original`: Counters::original)
//   advance_rows   what tell_draws says of the tokens drawn, told f64 [n, 4], goes to log[step] of log f64 [S, n, 4]; rows that had ended
//                  log the id -1. Then a row's token is the one drawn and its position one more; or its position is -1, because the token
//                  is one of stop i32 [m] (absent: none), or its position was `last`, or what is told means nothing. Every row's step
//                  counts on; those from S on are not logged.
//
// All dense.
#pragma once
#include "tensor/kernels/door.h"
#include "tensor/view.h"

namespace facet {

enum RowField : uint8_t { row_token, row_position, row_last, row_step, row_key_hi, row_key_lo, row_fields };

namespace cpu {
void row_uniforms(View state, bool original, Out u);
void advance_rows(View told, View stop, Out state, Out log);
}  // namespace cpu
namespace gpu {
void row_uniforms(View state, bool original, Out u);
void advance_rows(View told, View stop, Out state, Out log);
}  // namespace gpu
FACET_INLINE void row_uniforms(View state, bool original, Out u) {
  on_gpu("row_uniforms", state, u) ? gpu::row_uniforms(state, original, u) : cpu::row_uniforms(state, original, u);
}
FACET_INLINE void advance_rows(View told, View stop, Out state, Out log) {
  on_gpu_any_dtype("advance_rows", told, stop, state, log) ? gpu::advance_rows(told, stop, state, log) : cpu::advance_rows(told, stop, state, log);
}
}  // namespace facet

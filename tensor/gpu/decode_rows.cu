// What a step of decoding does for its rows besides the model, the head and the draw. A thread a row: some hundred bytes and, for the uniform
// number, two Threefry blocks. Each is the time of a launch, 1 to 2 microseconds in a graph (predicted); the alternative is the host's turn.
#include "tensor/kernels/decode_rows.h"

#include "tensor/gpu/launch.h"
#include "tensor/rng_math.h"
#include "tensor/threefry.h"

namespace facet::gpu {
namespace {

constexpr int threads = 128;

__global__ void __launch_bounds__(threads) uniforms_kernel(int64_t n, const int32_t* state, bool original, float* u) {
  begin_overlapped();
  const int64_t row = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (row >= n) return;
  const int32_t* s = state + row;
  uint32_t hi = 0, lo = static_cast<uint32_t>(s[row_position * n]) + 1;  // fold_in: the words of the counter (0, data) are the new key
  threefry_rounds<1>(static_cast<uint32_t>(s[row_key_hi * n]), static_cast<uint32_t>(s[row_key_lo * n]), &hi, &lo);
  uint32_t a = 0, b = 0;
  threefry_rounds<1>(hi, lo, &a, &b);
  u[row] = rng::unit(original ? a : a ^ b);
}

__global__ void __launch_bounds__(threads) advance_kernel(int64_t n, int64_t steps, const double* told, const int32_t* stop, int64_t stops, int32_t* state,
                                                          double* log) {
  begin_overlapped();
  const int64_t row = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (row >= n) return;
  int32_t* const s = state + row;
  const double* from = told + 4 * row;
  const int32_t position = s[row_position * n], step = s[row_step * n];
  if (step < steps) {
    double* to = log + (step * n + row) * 4;
    to[0] = position >= 0 ? from[0] : -1;
    for (int i = 1; i < 4; ++i) to[i] = from[i];
  }
  s[row_step * n] = step + 1;
  if (position < 0) return;
  const int32_t id = static_cast<int32_t>(from[0]);
  bool ends = from[3] == 0 || position >= s[row_last * n];
  for (int64_t i = 0; i < stops; ++i) ends = ends || stop[i] == id;
  if (!ends) s[row_token * n] = id;
  s[row_position * n] = ends ? -1 : position + 1;
}

}  // namespace

void row_uniforms(View state, bool original, Out u) {
  const int64_t n = state.shape[1];
  launch_for_rows(n, "row_uniforms", uniforms_kernel, blocks_for(n, threads, INT32_MAX), threads, 0, n, state.as<int32_t>(), original, u.as<float>());
}

void advance_rows(View told, View stop, Out state, Out log) {
  const int64_t n = state.shape[1];
  launch_for_rows(n, "advance_rows", advance_kernel, blocks_for(n, threads, INT32_MAX), threads, 0, n, log.shape[0], told.as<double>(), stop.as<int32_t>(),
         stop ? stop.numel() : 0, state.as<int32_t>(), log.as<double>());
}

}  // namespace facet::gpu

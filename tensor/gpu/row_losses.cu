// A thread per row: some hundred bytes against the row's logits, so nothing bounds these but their launch.
#include "tensor/kernels/row_losses.h"

#include "tensor/gpu/any.h"
#include "tensor/gpu/launch.h"

namespace facet::gpu {
namespace {

constexpr int threads = 128;

struct Stats {
  float* data;
  int64_t step, count;
  explicit Stats(const Out& stats) : data(stats.as<float>()), step(stats.stride[0]), count(stats.shape[0]) {}
  unsigned blocks() const { return blocks_for(count, threads, INT32_MAX); }
  /// Calls f(number of the thread's row, its statistics).
  template <class F>
  __device__ void mine(F f) const {
    const int64_t r = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (r < count) f(r, data + r * step);
  }
};

__global__ void __launch_bounds__(threads) cross_entropy_kernel(Stats stats, const double* weights, const void* dy, DType of_dy, CrossEntropyForm form, double scale,
                                                                double* losses) {
  stats.mine([&](int64_t r, float* s) {
    const double d = dy ? load_any<double>(dy, of_dy, 0) : 1;
    write_coefficients(cross_entropy_row(form, row_of_stats(s), weights ? weights[r] : 1, d, losses[r]), scale, form.words, s);
  });
}

__global__ void __launch_bounds__(threads) log_prob_kernel(Stats stats, const int32_t* rows, const void* dy, DType of_dy, double scale, void* log_probs,
                                                           DType of_log_probs) {
  stats.mine([&](int64_t r, float* s) {
    const LogitRow z = row_of_stats(s);
    const int64_t n = rows ? rows[r] : r;
    if (log_probs && n >= 0) store_any(log_probs, of_log_probs, n, z.label - z.lse);
    if (!dy) return;
    const double d = n >= 0 ? load_any<double>(dy, of_dy, n) : 0;
    write_coefficients({-d, d, 0}, scale, 1, s);
  });
}

__global__ void __launch_bounds__(threads) policy_kernel(Stats stats, double* tokens, PolicyForm form, double scale) {
  stats.mine([&](int64_t r, float* s) { write_coefficients(policy_row(form, row_of_stats(s), tokens + 6 * r), scale, 1, s); });
}

}  // namespace

void cross_entropy_rows(Out stats, View weights, View dy, const CrossEntropyForm& form, double scale, Out losses) {
  const Stats s(stats);
  launch("cross_entropy_rows", cross_entropy_kernel, s.blocks(), threads, 0, s, weights.as<double>(), dy.data, dy.dtype, form, scale, losses.as<double>());
}

void log_prob_rows(Out stats, View rows, View dy, double scale, Out log_probs) {
  const Stats s(stats);
  launch("log_prob_rows", log_prob_kernel, s.blocks(), threads, 0, s, rows.as<int32_t>(), dy.data, dy.dtype, scale, log_probs.as<char>(), log_probs.dtype);
}

void policy_rows(Out stats, Out tokens, const PolicyForm& form, double scale) {
  const Stats s(stats);
  launch("policy_rows", policy_kernel, s.blocks(), threads, 0, s, tokens.as<double>(), form, scale);
}

}  // namespace facet::gpu

#define EIGEN_DONT_PARALLELIZE
#include "bench/gemm/peer.h"

#include <Eigen/Core>

namespace peer {
namespace {
#if defined(__AVX512F__)
constexpr int lanes = 16;
#elif defined(__AVX__)
constexpr int lanes = 8;
#else
constexpr int lanes = 4;
#endif
typedef float V __attribute__((vector_size(lanes * 4)));
typedef float Unaligned __attribute__((vector_size(lanes * 4), aligned(4), may_alias));
volatile float sink;
}  // namespace

[[gnu::visibility("default")]] double fma_loop(int64_t rounds) {
  constexpr int chains = 12;
  V sum[chains];
  V a = V{} + 1.0000001f, b = V{} + 1e-9f;
  asm volatile("" : "+x"(a), "+x"(b));
  for (V& s : sum) s = b;
  for (int64_t r = 0; r < rounds; ++r)
    for (int u = 0; u < 4; ++u)
#pragma GCC unroll 12
      for (int i = 0; i < chains; ++i) sum[i] = sum[i] * a + b;
  for (int i = 1; i < chains; ++i) sum[0] += sum[i];
  sink = sum[0][0];
  return 2.0 * chains * 4 * lanes * rounds;
}

[[gnu::visibility("default")]] double read_loop(const float* x, int64_t n) {
  constexpr int chains = 8;
  V sum[chains] = {};
  for (int64_t i = 0; i + chains * lanes <= n; i += chains * lanes)
#pragma GCC unroll 8
    for (int c = 0; c < chains; ++c) sum[c] += *reinterpret_cast<const Unaligned*>(x + i + c * lanes);
  for (int c = 1; c < chains; ++c) sum[0] += sum[c];
  sink = sum[0][0];
  return 4.0 * n;
}

[[gnu::visibility("default")]] void eigen_product(const float* a, bool ta, const float* b, bool tb, float* c, int64_t m, int64_t n,
                                                  int64_t p) {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  using In = Eigen::Map<const Matrix>;
  Eigen::Map<Matrix> out(c, m, n);
  if (ta) out.noalias() = In(a, p, m).transpose() * In(b, p, n);
  else if (tb) out.noalias() = In(a, m, p) * In(b, n, p).transpose();
  else out.noalias() = In(a, m, p) * In(b, p, n);
}

}  // namespace peer

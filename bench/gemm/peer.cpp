#define EIGEN_DONT_PARALLELIZE
#include "bench/gemm/peer.h"

#include <Eigen/Core>

namespace peer {

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

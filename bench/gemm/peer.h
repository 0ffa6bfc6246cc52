// What the product is measured against, compiled for the machine at hand (-march=native) in a library of its own, so that none
// of its instructions reach the code under test.
#pragma once
#include <cstdint>

namespace peer {

/// c = a b in one Eigen expression on one thread. Row-major; `ta`: a is stored [P, M]; `tb`: b is stored [N, P].
void eigen_product(const float* a, bool ta, const float* b, bool tb, float* c, int64_t m, int64_t n, int64_t p);

}  // namespace peer
